"""Which rungs of a ladder does your server climb?

    make try SERVER="./mine {port}"                   echo; started anew for each rung
    make try SERVER="python3 mine.py {port}" SERVICE=chat
    make try PORT=7000                                something that is already running

It is judged from outside alone: by what its clients get, and by what the system tells of it.
"""

from __future__ import annotations

import argparse
import shlex
import time

from tests import output
from tests.harness import end_on_sigterm
from tests.ladder.climb import climb
from tests.ladder.examined import Examined
from tests.ladder.explain import explained
from tests.ladder.rungs import ALL, RUNGS, Rung


def again(words: argparse.Namespace, rung: Rung) -> str:
    """The command that plays this rung alone."""
    what = words.again or (f"PORT={words.port}" if words.port else
                           f"SERVER={shlex.quote(words.server)}")
    service = f" SERVICE={words.service}" * (words.service != "echo")
    return f"make try {what}{service} RUNG={rung.name}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make try", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="", help="a command; {port} stands for the port")
    parser.add_argument("--port", type=int, default=0, help="of one that is running already")
    parser.add_argument("--service", default="echo", choices=ALL)
    parser.add_argument("--stage", type=int, default=0, help="which one you are at, 1 to 6")
    parser.add_argument("--rung", default="", help="only this one: its name or number")
    parser.add_argument("--again", default="", help=argparse.SUPPRESS)  # what make was told
    parser.add_argument("--all", action="store_true", help="do not stop at the first that fails")
    parser.add_argument("--list", action="store_true", help="what the rungs are")
    words = parser.parse_args()
    rungs = [rung for rung in RUNGS if words.service in rung.services]
    if words.list:
        for number, rung in enumerate(rungs, 1):
            print(f"{number:2}  {rung.name:14} {rung.title}")
        return 0
    if bool(words.server) == bool(words.port):
        parser.error('a server is wanted: SERVER="./mine {port}", or PORT=7000')
    chosen = [rung for number, rung in enumerate(rungs, 1)
              if words.rung in ("", rung.name, str(number))]
    if not chosen:
        parser.error(f"no rung {words.rung!r}: LIST=1 lists them")
    end_on_sigterm()
    began, climbed, wrong = time.monotonic(), 0, 0
    for rung in chosen:
        number = rungs.index(rung) + 1
        exam, failed, skipped = climb(rung, Examined(words.server, words.port), words.service,
                                    words.stage)
        why_not = rung.not_for.get(words.stage, "")
        if skipped:
            print(f"{number:2}  {rung.name:14} skipped: {skipped}")
        elif not failed:
            climbed += 1
            print(f"{number:2}  {rung.name:14} ok     {rung.title}", flush=True)
        elif why_not:
            print(f"{number:2}  {rung.name:14} no     {rung.title}\n{'':19}{why_not}")
        else:
            wrong += 1
            print("\n".join(explained(rung, number, exam, failed, again(words, rung))))
            if exam.server.printed and failed:
                last = exam.server.printed.decode("utf-8", "backslashreplace").splitlines()[-1]
                print(f"    it said: {ascii(last)[1:-1][:80]}")
            if not words.all:
                break
    print(f"\n{climbed} of {len(chosen)} rungs, {time.monotonic() - began:.1f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    output.run(main, "try")
