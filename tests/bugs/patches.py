"""A patch: a known mistake, or a variant; how it is read, and built.

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

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
BUILD = ROOT / (os.environ.get("BUILD") or "build") / "bugs"
FIELDS = ("Found in", "You see", "Try", "Caught by")
RUNG = re.compile(r"(\w+) \((echo|greet|chat)\)|none|by chance")
SOURCE = re.compile(r"^--- a/(\w+)/(\S+)$", re.M)

COMPILE = "-std=c++20 -O1 -g"
SANITIZE = "-fsanitize=address,undefined -fno-sanitize-recover=undefined"

# What git and compilers say names files, in any encoding.
TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}


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
    rung: str = ""                         # of `make try`, at which it fails: none does if ""
    service: str = ""                      # with that service

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
    wanted = ["Change" if variant else "Mistake", *FIELDS, *["Rung"] * (not variant)]
    if [name for name in fields if name != "Built with"] != wanted:
        raise Wrong(f"its fields are {', '.join(fields)}, not {', '.join(wanted)}")
    diff = mark.lstrip("\n") + diff
    folders = {folder for folder, _ in SOURCE.findall(diff)}
    if len(folders) != 1:
        raise Wrong(f"a patch to {' and '.join(sorted(folders)) or 'nothing'}, not to one stage")
    names = fields["Caught by"]
    rung = RUNG.fullmatch(fields.get("Rung", "none"))
    if not rung:
        raise Wrong(f"Rung: {fields['Rung']!r} is not: half_close (echo)")
    return Bug(path.stem, path, variant, fields, diff, folders.pop(),
               [] if names == "nobody" else re.split(r",\s*", names),
               fields.get("Built with") == "SAN=1", rung[1] or "", rung[2] or "")


def paths(kind: str = "*") -> list[Path]:
    return sorted(path for folder in ("bugs", "variants") for path in
                  (TESTS / folder).glob("*.patch") if kind in ("*", folder))


def path_of(name: str) -> Path:
    for path in paths():
        if path.stem == name:
            return path
    raise Wrong(f"there is no bug '{name}': there are {' '.join(path.stem for path in paths())}")


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


def built(bug: Bug, where: Optional[Path] = None, more: str = "") -> Path:
    """The program with the mistake in it, made anew only if anything has changed. where: in place
    of build/bugs/NAME; more: flags."""
    where = where or BUILD / bug.name
    program = where / "server"
    flags = " ".join([*(os.environ.get(name, "") for name in ("CPPFLAGS", "CXXFLAGS", "LDFLAGS")),
                      more])
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
