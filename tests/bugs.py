#!/usr/bin/env python3
"""The bug gallery: known mistakes, each a small patch that puts one of them into one stage.

    bugs.py [--quick] [--variants] [NAME...]   builds them, and has the matrix judge each
    bugs.py --list                             what there is
    bugs.py --run NAME [-- ARGUMENTS]          builds that one, and becomes the broken server

A patch in tests/bugs/ or tests/variants/ is a diff to the files of one stage, and above it

    Mistake: what is wrong                   (a variant, which is no mistake: `Change:`)
    Found in: which document or program has it
    You see: what becomes of it
    Try: what to do by hand
    Caught by: names of scenarios            (a variant: which may see the difference; or nobody)
    Built with: SAN=1                        (only if it needs the sanitizers to be seen)

A field goes on in lines that are indented. A bug has to be caught by every scenario that it
names: at least one server of its stage fails it. A variant has to pass all but those.

It is all done in build/bugs/NAME/: a copy of the stage, the patch applied with `git apply`,
built only if the patch or the stage has changed. The tree is not touched.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import output

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = ROOT / (os.environ.get("BUILD") or "build") / "bugs"
FIELDS = ("Found in", "You see", "Try", "Caught by")
SOURCE = re.compile(r"^--- a/(\w+)/(\S+)$", re.M)

COMPILE = "-std=c++20 -O1 -g"
SANITIZE = "-fsanitize=address,undefined -fno-sanitize-recover=undefined"

# What git and compilers say names files, in any encoding.
TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}

# A broken server is not worth long waits, nor all of the memory and the disk.
PATIENCE = 4                               # seconds, in place of the deadlines of the tests
MOST_MEMORY = 1 << 30
MOST_NARRATION = 8 << 20
MOST_SECONDS = 300                         # for all scenarios of one bug; a variant is no bug


class Wrong(Exception):
    """Something about a patch, in one line."""


@dataclass
class Bug:
    name: str
    path: Path
    variant: bool                          # not a mistake: another way that works as well
    fields: dict[str, str]
    diff: str
    folder: str                            # of the stage that it is for
    caught_by: list[str]
    sanitized: bool = False

    @property
    def stage(self) -> int:
        return int(self.folder[:2])

    @property
    def title(self) -> str:
        return self.fields["Change" if self.variant else "Mistake"]

    def header(self) -> str:
        lines = []
        for name, text in self.fields.items():
            lines += textwrap.wrap(f"{name + ':':11}{text}", 96, subsequent_indent=" " * 11)
        return "\n".join(lines)


def read_bug(path: Path) -> Bug:
    """Wrong if its header is not complete, or if it is a patch to more than one stage."""
    text = path.read_text(encoding="utf-8")
    head, mark, diff = text.partition("\n--- a/")
    variant = path.parent.name == "variants"
    fields: dict[str, str] = {}
    last = ""
    for line in head.splitlines():
        found = re.match(r"([A-Z][a-z ]+): (.*)", line)
        if found:
            last = found[1]
            if last in fields:
                raise Wrong(f"{last}: stands there twice")
            fields[last] = found[2].strip()
        elif line.startswith("  ") and last:
            fields[last] += " " + line.strip()
        elif line.strip():
            raise Wrong(f"neither a field nor a diff: {line!r}")
    wanted = ["Change" if variant else "Mistake", *FIELDS]
    if [name for name in fields if name != "Built with"] != wanted:
        raise Wrong(f"its fields are {', '.join(fields)}, not {', '.join(wanted)}")
    diff = mark.lstrip("\n") + diff
    folders = {folder for folder, _ in SOURCE.findall(diff)}
    if len(folders) != 1:
        raise Wrong(f"a patch to {' and '.join(sorted(folders)) or 'nothing'}, not to one stage")
    names = fields["Caught by"]
    return Bug(path.stem, path, variant, fields, diff, folders.pop(),
               [] if names == "nobody" else re.split(r",\s*", names),
               fields.get("Built with") == "SAN=1")


def paths(kind: str = "*") -> list[Path]:
    return sorted(path for folder in ("bugs", "variants") for path in
                  (HERE / folder).glob("*.patch") if kind in ("*", folder))


# --- building -------------------------------------------------------------------------------

def patched(bug: Bug, where: Path) -> None:
    """Makes where/STAGE/ a copy of the stage with the mistake in it."""
    shutil.rmtree(where / bug.folder, ignore_errors=True)
    (where / bug.folder).mkdir(parents=True)
    for file in (ROOT / bug.folder).iterdir():     # not their modes: the tree may be read-only
        shutil.copyfile(file, where / bug.folder / file.name)
    # The ceiling: git is to see no repository above, or it takes the names as of its top.
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(where.resolve().parent)}
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        env.pop(name, None)                # set where a hook of git runs the tests
    try:
        done = subprocess.run(["git", "apply", "-C1", "-"], cwd=where, env=env, input=bug.diff,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **TEXT)
    except FileNotFoundError:
        raise Wrong("git is missing: it applies the patches") from None
    if done.returncode != 0:
        raise Wrong(f"no longer applies to {bug.folder}: {first_line(done.stdout)}")


def first_line(text: str) -> str:
    lines = [line for line in text.splitlines() if "error" in line] or text.splitlines()
    return lines[0].strip() if lines else "(nothing was said)"


def built(bug: Bug) -> Path:
    """The program with the mistake in it, made anew only if anything has changed."""
    where = BUILD / bug.name
    program = where / "server"
    flags = " ".join(os.environ.get(name, "") for name in ("CPPFLAGS", "CXXFLAGS", "LDFLAGS"))
    command = [*shlex.split(os.environ.get("CXX") or "g++"), *COMPILE.split(), *shlex.split(flags),
               *(SANITIZE.split() if bug.sanitized else []), "-o", "server",
               f"{bug.folder}/server.cpp"]
    now = hashlib.sha256("\0".join([*command, bug.diff]).encode(errors="surrogateescape"))
    for source in sorted((ROOT / bug.folder).iterdir()):
        now.update(source.name.encode() + b"\0" + source.read_bytes())
    made_of = where / "made-of"
    if program.exists() and made_of.exists() and made_of.read_text() == now.hexdigest():
        return program
    where.mkdir(parents=True, exist_ok=True)
    made_of.unlink(missing_ok=True)
    patched(bug, where)
    done = subprocess.run(command, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          **TEXT)
    if done.returncode != 0:
        raise Wrong(f"does not compile: {first_line(done.stdout)}")
    made_of.write_text(now.hexdigest())
    return program


# --- judging --------------------------------------------------------------------------------

@dataclass
class Verdict:
    bug: Bug
    wrong: str = ""                        # with the patch itself
    red: dict[str, str] = field(default_factory=dict)      # scenario -> why, in a line
    green: list[str] = field(default_factory=list)
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
    def right(self) -> bool:
        return not (self.wrong or self.missed or (self.bug.variant and self.others))

    def __str__(self) -> str:
        start = f"{self.bug.name:24} stage {self.bug.stage}  "
        lines = []
        if self.wrong:
            lines.append(f"FAILED: {self.wrong}")
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
        wrapped = [part for line in lines for part in textwrap.wrap(line, 64)]
        return start + ("\n" + " " * len(start)).join(wrapped)


class Judges:
    """Judge many at once, each in a process of its own; ended with us, whatever happens."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._over = False

    def judge(self, bug: Bug) -> Verdict:
        verdict = Verdict(bug)
        began = time.monotonic()
        try:
            self._play(verdict, built(bug))
        except Wrong as wrong:
            verdict.wrong = str(wrong)
        verdict.seconds = time.monotonic() - began
        return verdict

    def _play(self, verdict: Verdict, program: Path) -> None:
        bug = verdict.bug
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        env.pop("SAN", None)
        env.pop("SERVER", None)
        if bug.sanitized:
            env["SAN"] = "1"
            env.setdefault("ASAN_OPTIONS", f"hard_rss_limit_mb={MOST_MEMORY >> 20}")
        if not bug.variant:
            env.setdefault("DEADLINE", str(PATIENCE))
            env.setdefault("PATIENCE", str(PATIENCE))
        which = bug.caught_by if self.quick and not bug.variant else []
        with self._lock:
            if self._over:
                raise Wrong("interrupted")
            process = subprocess.Popen(
                [sys.executable, str(HERE / "bugs.py"), "--judge", bug.name, str(program), *which],
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


def judge(name: str, program: str, wanted: list[str]) -> int:
    """In a process of its own: plays the scenarios, and prints a line of JSON for each."""
    import harness
    from expected import differences, expected_for
    from scenarios import scenarios

    harness.end_on_sigterm()
    harness.MOST_NARRATION = MOST_NARRATION
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not harness.SANITIZED:              # an address sanitizer reserves terabytes
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    known = scenarios()
    bug = read_bug(path_of(name))
    first = [known[each] for each in bug.caught_by]
    rest = [scenario for scenario in known.values() if scenario not in first]
    for scenario in [known[each] for each in wanted] or first + rest:
        for variant in harness.variants(str(bug.stage), program):
            if scenario.why_not(variant):
                continue
            try:
                record = harness.play(scenario, variant, seed=1)
                wrong = differences(record.observed, expected_for(scenario.name, variant))
                wrong += record.complaints
            except harness.Unavailable:
                continue
            except Exception as error:     # a broken server may break a scenario in any way
                wrong = [f"{type(error).__name__}: {error}"]
            why = wrong[0].strip().splitlines()[0] if wrong else ""
            print(json.dumps({"scenario": scenario.name, "variant": variant.id, "why": why}),
                  flush=True)
            if why and not bug.variant:
                break                      # caught: its other selectors need not be asked
    return 0


# --- the command line -----------------------------------------------------------------------

def path_of(name: str) -> Path:
    for path in paths():
        if path.stem == name:
            return path
    raise Wrong(f"there is no bug '{name}': there are {' '.join(path.stem for path in paths())}")


def show_list() -> int:
    for path in paths():
        bug = read_bug(path)
        kind = "variant" if bug.variant else f"stage {bug.stage}"
        print(f"{bug.name:26} {kind}  {bug.title}")
    return 0


def run(name: str, arguments: list[str]) -> int:
    bug = read_bug(path_of(name))
    program = built(bug)
    print(bug.header() + f"\nThe patch: {os.path.relpath(bug.path)}, in "
          f"{os.path.relpath(BUILD / bug.name / bug.folder)}/\n", flush=True)
    os.execv(program, [str(program), *arguments])


def judge_all(names: list[str], quick: bool, only_variants: bool) -> int:
    chosen = [path_of(name) for name in names] or paths(
        "variants" if only_variants else "bugs" if quick else "*")
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
    # They mostly wait, so some more than there are CPUs; the longest first.
    bugs.sort(key=lambda bug: not bug.variant)
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
    print(f"\n{len(chosen)} patches, {failed} failed, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


def main(words: list[str]) -> int:
    cut = words.index("--") if "--" in words else len(words)
    words, arguments = words[:cut], words[cut + 1:]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="only the scenarios that are named")
    parser.add_argument("--variants", action="store_true", help="only the variants")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--judge", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(words)
    try:
        if chosen.list:
            return show_list()
        if chosen.judge:
            return judge(chosen.names[0], chosen.names[1], chosen.names[2:])
        if chosen.run:
            if len(chosen.names) != 1:
                raise Wrong("--run wants the name of one bug")
            return run(chosen.names[0], arguments)
        return judge_all(chosen.names, chosen.quick, chosen.variants)
    except Wrong as wrong:
        print(f"bugs.py: {wrong}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    output.run(lambda: main(sys.argv[1:]), "bugs")
