"""A server with a mistake that is not named: find it.

    python3 -m tests.bugs.hunt [--seed N] [-- ARGUMENTS]     builds one of the bugs, and becomes it
    python3 -m tests.bugs.hunt --reveal                      which it was

It is built in a folder that every hunt shares, so that no path tells the name.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import sys

from tests import output
from tests.bugs.patches import BUILD, Wrong, built, path_of, paths, read_bug

FOLDER = "hunted"
LAST = BUILD / FOLDER / "last"                     # its name, until the next hunt
# Seen once in some thousand times: nobody finds these by hand.
TOO_RARE = {"lost_signal", "lost_signal_blocking"}
SERVICES = ("echo", "greet", "chat")
HUNT = """\
What if a client says nothing, leaves in mid-line, reads nothing, sends without end? What if there
are fifty, or no descriptors (ulimit -n 16)? What does top say when nobody asks anything? What do
Ctrl-C, kill, kill -USR1 do? What it prints tells its calls; more of them with ARGS=-v. Not every
mistake is in a call.
    make hunt REVEAL=1    which it was                make hunt SEED={seed}    this one again
"""


def hints(stage: int, arguments: list[str]) -> list[str]:
    """How to come near it, on the ports that it has."""
    given = dict(zip(arguments, arguments[1:]))
    ports = [(service, given["-" + service[0]]) for service in SERVICES
             if "-" + service[0] in given] or [
        (service, str(9001 + 100 * stage + i)) for i, service in enumerate(SERVICES)]
    if stage == 1:                         # it answers on its first port alone
        ports = ports[:1]
    service, port = ports[0]
    return [*(f"    make try PORT={port} SERVICE={service} STAGE={stage} ALL=1"
              for service, port in ports),
            f'    make client-{stage} SERVICE={service} ARGS="--port {port}"',
            f'    make run-{stage} ARGS="-{service[0]} 7000"      one without it, to compare']


def names() -> list[str]:
    return [path.stem for path in paths("bugs") if path.stem not in TOO_RARE]


def hunt(seed: int, arguments: list[str]) -> int:
    seed = seed or random.SystemRandom().randrange(1, 10_000)
    name = random.Random(seed).choice(names())
    bug = dataclasses.replace(read_bug(path_of(name)), name=FOLDER)
    program = built(bug)
    LAST.write_text(name + "\n")
    print(f"A server of stage {bug.stage}, and in it one mistake. Find it:",
          *hints(bug.stage, arguments), HUNT.format(seed=seed), sep="\n", flush=True)
    program = program.relative_to(os.getcwd()) if program.is_relative_to(os.getcwd()) else program
    os.execv(program, [str(program), *arguments])


def reveal() -> int:
    if not LAST.exists():
        raise Wrong("there was none yet: make hunt starts one")
    bug = read_bug(path_of(LAST.read_text().strip()))
    print(f"It was {bug.name} (make bug-{bug.name}).\n\n{bug.header()}\n\n{bug.diff}", end="")
    return 0


def main(words: list[str]) -> int:
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(prog="make hunt", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reveal", action="store_true")
    chosen = parser.parse_args(words[:cut])
    try:
        return reveal() if chosen.reveal else hunt(chosen.seed, words[cut + 1:])
    except Wrong as wrong:
        print(f"hunt: {wrong}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    output.run(lambda: main(sys.argv[1:]), "hunt")
