"""The bug gallery: known mistakes, each a small patch that puts one of them into one stage.

    python3 -m tests.bugs [--quick] [--variants] [NAME...]   builds and judges them
    python3 -m tests.bugs --list [--variants]                what there is
    python3 -m tests.bugs --run NAME [-- ARGUMENTS]          builds one, and becomes that server
    python3 -m tests.bugs --diff NAME                        what it changes on its stage

A variant is built with the sanitizer that SAN names, if it does.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable

from tests import output
from tests.bugs.patches import ROOT, TEXT, Bug, Wrong, built, path_of, paths, read_bug
from tests.scenarios import scenarios
from tests.tools import diff as difference

# A broken server is not worth long waits, nor all of the memory.
PATIENCE = 4                               # seconds, in place of the deadlines of the tests
MOST_MEMORY = 1 << 30
# Of a variant, --quick plays the scenarios of these files: who ends while something is under way?
WHERE_LIVES_END = ("endings", "races", "resets", "slow_readers", "stops")
MOST_SECONDS = 300                         # for all scenarios of one bug; a variant is no bug


@dataclass
class Verdict:
    bug: Bug
    wrong: str = ""                        # with the patch itself
    red: dict[str, str] = field(default_factory=dict)      # scenario -> why, in a line
    green: list[str] = field(default_factory=list)
    rungs: dict[str, str] = field(default_factory=dict)    # service -> where the ladder ended
    skipped: str = ""                      # why nothing could be played here
    seconds: float = 0.0
    late: bool = False                     # there was no time for all scenarios

    @property
    def missed(self) -> list[str]:
        """Named, but not red; of a variant nobody has to see anything."""
        return [] if self.bug.variant else [
            name for name in self.bug.caught_by if name not in self.red]

    @property
    def others(self) -> list[str]:
        return [name for name in self.red if name not in self.bug.caught_by]

    @property
    def misplaced(self) -> str:
        """At which rung it failed, if that is not the one that its header names."""
        found = {service: rung for service, rung in self.rungs.items() if rung}
        named = {self.bug.service: self.bug.rung} if self.bug.rung else {}
        return "" if found == named or not self.rungs else ", ".join(
            f"{rung} ({service})" for service, rung in found.items()) or "none"

    @property
    def right(self) -> bool:
        return not (self.wrong or self.missed or self.misplaced
                    or (self.bug.variant and self.others))

    def __str__(self) -> str:
        start = f"{self.bug.name:24} stage {self.bug.stage}  "
        lines = []
        if self.wrong:
            lines.append(f"FAILED: {self.wrong}")
        elif self.skipped:
            lines.append(f"skipped: {self.skipped}")
        elif self.bug.variant:
            lines.append(f"{len(self.green)} scenarios passed")
            lines += [f"FAILED: does not pass {name}: {self.red[name]}" for name in self.others]
            seen = [name for name in self.bug.caught_by if name in self.red]
            lines += ["seen by " + ", ".join(seen)] if seen else []
        elif self.red:
            caught = [name for name in self.bug.caught_by if name in self.red]
            lines.append("caught by " + ", ".join(caught))
            if self.others:
                lines.append("and by " + ", ".join(self.others))
            if self.late:
                lines.append(f"and there was no time left after {MOST_SECONDS} s")
        else:
            lines.append("not caught")
        if self.missed and not self.wrong:
            lines.append("FAILED: not caught by " + ", ".join(self.missed))
        if self.misplaced and not self.wrong:
            lines.append(f"FAILED: ends at the rung {self.misplaced}, "
                         f"not at {self.bug.fields['Rung']}")
        wrapped = [part for line in lines for part in textwrap.wrap(line, 64)]
        return start + ("\n" + " " * len(start)).join(wrapped)


class Judges:
    """Judge many at once, each in a process of its own; ended with us, whatever happens."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.sanitizer = os.environ.get("SAN", "")
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._over = False

    def judge(self, bug: Bug) -> Verdict:
        verdict = Verdict(bug)
        began = time.monotonic()
        try:
            self._play(verdict, built(bug, sanitizer=self.sanitizer * bug.variant))
        except Wrong as wrong:
            if bug.variant and "#error" in str(wrong):     # so a source says what is missing here
                verdict.skipped = str(wrong)
            else:
                verdict.wrong = str(wrong)
        verdict.seconds = time.monotonic() - began
        return verdict

    def _play(self, verdict: Verdict, program: Path) -> None:
        bug = verdict.bug
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        env.pop("SERVER", None)
        env["SAN"] = self.sanitizer if bug.variant else "1" * bug.sanitized
        if not bug.variant:
            env.setdefault("ASAN_OPTIONS", f"hard_rss_limit_mb={MOST_MEMORY >> 20}")
            env.setdefault("DEADLINE", str(PATIENCE))
            env.setdefault("PATIENCE", str(PATIENCE))
        which = [] if not self.quick else bug.caught_by if not bug.variant else [
            scenario.name for scenario in scenarios().values()
            if scenario.function.__module__.rpartition(".")[2] in WHERE_LIVES_END
            and scenario.name not in bug.caught_by]
        with self._lock:
            if self._over:
                raise Wrong("interrupted")
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.bugs.play", bug.name, str(program), *which],
                env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, **TEXT)
            self._running.add(process)
        try:
            said, _ = process.communicate(timeout=None if bug.variant else MOST_SECONDS)
        except subprocess.TimeoutExpired:  # what it has found until now is enough, or is not
            verdict.late = True
            process.terminate()
            said, _ = process.communicate()
        finally:
            with self._lock:
                if process.poll() is None:
                    process.terminate()    # ends its servers, too
                self._running.discard(process)
        rest = []
        for line in said.splitlines():
            if not line.startswith("{"):
                rest.append(line)
                continue
            played = json.loads(line)
            if "skipped" in played:
                verdict.skipped = played["skipped"]
                continue
            if "rung" in played:
                verdict.rungs[played["service"]] = played["rung"]
                continue
            if played["why"]:
                verdict.red.setdefault(played["scenario"], f"{played['variant']}: {played['why']}")
            elif played["scenario"] not in verdict.green:
                verdict.green.append(played["scenario"])
        verdict.green = [name for name in verdict.green if name not in verdict.red]
        if process.returncode != 0 and not verdict.late:
            raise Wrong(f"the judge ended with {process.returncode}: {(rest or [''])[-1]}")

    def end(self) -> None:
        with self._lock:
            self._over = True
            for process in self._running:
                process.terminate()


# --- the command line -----------------------------------------------------------------------

def show_list(kind: str) -> int:
    for path in paths(kind):
        bug = read_bug(path)
        print(f"{bug.name:26} stage {bug.folder[1]}  {bug.title}")
    return 0


def changes(bug: Bug) -> Iterable[str]:
    """A patch says it itself; a file is laid beside its stage's."""
    if bug.path.suffix == ".patch":
        return [bug.header(), "", *bug.diff.splitlines()]
    return difference.compare(ROOT / bug.folder, built(bug).parent / bug.folder, bug.name)


def run(bug: Bug, arguments: list[str]) -> int:
    program = built(bug, sanitizer=os.environ.get("SAN", "") * bug.variant)
    print(bug.header() + f"\nIts source: {os.path.relpath(bug.path)}, built in "
          f"{os.path.relpath(program.parent / bug.folder)}/: {os.path.relpath(program)}\n",
          flush=True)
    os.execv(program, [str(program), *arguments])


def judge_all(names: list[str], quick: bool, only_variants: bool) -> int:
    kind = "variants" if only_variants else "bugs"
    chosen = [path_of(name, kind) for name in names] or paths(kind)
    bugs = []
    failed = 0
    for path in chosen:
        try:
            bugs.append(read_bug(path))
        except Wrong as wrong:
            print(f"{path.stem:24} FAILED: {wrong}", flush=True)
            failed += 1

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    began = time.monotonic()
    judges = Judges(quick)
    # They mostly wait, so some more than there are CPUs.
    workers = int(os.environ.get("JOBS") or 2 * (os.cpu_count() or 1))
    with ThreadPoolExecutor(workers) as pool:
        try:
            for done in as_completed([pool.submit(judges.judge, bug) for bug in bugs]):
                verdict = done.result()
                print(f"{verdict}  ({verdict.seconds:.0f} s)", flush=True)
                failed += not verdict.right
        except BaseException:
            judges.end()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    print(f"\n{len(chosen)} {kind}, {failed} failed, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


def main(words: list[str]) -> int:
    cut = words.index("--") if "--" in words else len(words)
    words, arguments = words[:cut], words[cut + 1:]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="only the scenarios that are named; "
                        "of a variant, those in which clients or the server end")
    parser.add_argument("--variants", action="store_true", help="only the variants")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--diff", action="store_true")
    parser.add_argument("--run", action="store_true")
    chosen = parser.parse_args(words)
    try:
        if chosen.list:
            return show_list("variants" if chosen.variants else "bugs")
        if chosen.run or chosen.diff:
            if len(chosen.names) != 1:
                raise Wrong("the name of one is wanted")
            bug = read_bug(path_of(chosen.names[0]))
            if chosen.run:
                return run(bug, arguments)
            difference.show(changes(bug))
            return 0
        return judge_all(chosen.names, chosen.quick, chosen.variants)
    except Wrong as wrong:
        print(f"bugs: {wrong}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    output.run(lambda: main(sys.argv[1:]), "bugs")
