"""A known mistake, or a variant: how it is read, and built.

A mistake is a diff to the files of one stage, tests/bugs/NAME.patch, and above it

    Mistake: what is wrong
    Found in: which document or program has it
    You see: what becomes of it
    Try: what to do by hand
    Caught by: names of scenarios
    Rung: the rung of `make try` that it does not climb
    Built with: SAN=1                        (only if it needs the sanitizers to be seen)
    Variant: threads                         (only if it is a diff to that variant)

A variant is no mistake: another way that works as well. It is such a diff, or a server.cpp of its
own that includes the headers of its stage, tests/variants/NAME.patch or NAME.cpp, and its header
(in a .cpp, the comment at its top) is

    NAME: what it is
    Stage: 05_epoll                          (only in a .cpp: whose headers)
    Judged as: 4                             (only if another stage's scenarios fit it)
    Played with: -j 1                        (only if it is played with arguments)
    Trouble: of the stage
    Change: the one
    Costs: what it costs
    Found in, Try, You see: as above
    Caught by: scenarios that see the difference, or nobody

A field goes on in lines that are indented. A bug has to be caught by every scenario that it
names: at least one server of its stage fails it. A variant has to pass all but those.

It is all done in build/bugs/NAME/: a copy of the stage, the patch applied with `git apply`,
built only if the patch or the stage has changed. The tree is not touched.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import re
import shlex
import shutil
import subprocess
import textwrap
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Optional

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
BUILD = ROOT / (os.environ.get("BUILD") or "build") / "bugs"
BUG = ("Mistake", "Found in", "You see", "Try", "Caught by", "Rung")
VARIANT = ("Trouble", "Change", "Costs", "Found in", "Try", "You see", "Caught by")
OPTIONAL = ("Built with", "Variant", "Stage", "Judged as", "Played with")
RUNG = re.compile(r"(\w+) \((echo|greet|chat)\)|none|by chance")
SOURCE = re.compile(r"^--- a/(\w+)/(\S+)$", re.M)

FIRST_CALL = TESTS / "harness" / "first_call.cpp"
# Not vptr: the Makefile says why.
SANITIZE = {"1": "-fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=undefined",
            "thread": f"-fsanitize=thread {shlex.quote(str(FIRST_CALL))}"}

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
        """Whose scenarios it is played."""
        return int(self.fields.get("Judged as") or self.folder[:2])

    @property
    def title(self) -> str:
        return self.fields[self.name if self.variant else "Mistake"]

    @property
    def arguments(self) -> tuple[str, ...]:
        return tuple(self.fields.get("Played with", "").split())

    def header(self) -> str:
        lines = []
        for name, text in self.fields.items():
            lines += textwrap.wrap(f"{name + ':':13}{text}", 96, subsequent_indent=" " * 13)
        return "\n".join(lines)


def _fields(lines: list[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    last = ""
    for line in lines:
        found = re.match(r"([A-Z][a-z ]+|[a-z_]+): (.*)", line)
        if found:
            last = found[1]
            if last in fields:
                raise Wrong(f"{last}: stands there twice")
            fields[last] = found[2].strip()
        elif line.startswith("  ") and last:
            fields[last] += " " + line.strip()
        elif line.strip():
            raise Wrong(f"neither a field nor a diff: {line!r}")
    return fields


def read_bug(path: Path) -> Bug:
    """Wrong if its header is not complete, or if it is a patch to more than one stage."""
    text = path.read_text(encoding="utf-8")
    variant = path.parent.name == "variants"
    if path.suffix == ".cpp":
        lines = itertools.takewhile(lambda line: line.startswith("//"), text.splitlines())
        fields = _fields([re.sub("^// ?", "", line) for line in lines])
        folders, diff = {fields.get("Stage", "")} & set(os.listdir(ROOT)), ""
    else:
        head, mark, diff = text.partition("\n--- a/")
        diff = mark.lstrip("\n") + diff
        fields = _fields(head.splitlines())
        folders = {folder for folder, _ in SOURCE.findall(diff)}
    wanted = [path.stem, *VARIANT] if variant else list(BUG)
    if [name for name in fields if name not in OPTIONAL] != wanted:
        raise Wrong(f"its fields are {', '.join(fields)}, not {', '.join(wanted)}")
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
                  (TESTS / folder).iterdir() if path.suffix in (".patch", ".cpp")
                  and kind in ("*", folder))


def path_of(name: str, kind: str = "*") -> Path:
    for path in paths(kind):
        if path.stem == name:
            return path
    what = "variant" if kind == "variants" else "bug"
    raise Wrong(f"there is no {what} '{name}': there are "
                f"{' '.join(path.stem for path in paths(kind))}")


def patched(bug: Bug, where: Path) -> None:
    """Makes where/STAGE/ a copy of the stage with the mistake in it."""
    if "Variant" in bug.fields:
        patched(read_bug(path_of(bug.fields["Variant"], "variants")), where)
    else:
        shutil.rmtree(where / bug.folder, ignore_errors=True)
        (where / bug.folder).mkdir(parents=True)
        for file in (ROOT / bug.folder).iterdir():     # not their modes: the tree may be read-only
            shutil.copyfile(file, where / bug.folder / file.name)
    if not bug.diff:
        shutil.copyfile(bug.path, where / bug.folder / "server.cpp")
        return
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


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """One at a time builds in a folder: several tests may want to."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def built(bug: Bug, where: Optional[Path] = None, more: str = "", sanitizer: str = "") -> Path:
    """The program with the mistake in it, made anew only if anything has changed. where: in place
    of build/bugs/NAME; more: flags; sanitizer: "1" or "thread", as SAN is."""
    sanitizer = sanitizer or "1" * bug.sanitized
    if sanitizer not in ("", *SANITIZE):
        raise Wrong(f"SAN={sanitizer}: {' or '.join(SANITIZE)} is wanted")
    where = where or BUILD / (bug.name + f"-san-{sanitizer}" * bool(sanitizer))
    program = where / "server"
    flags = [os.environ.get(name, "") for name in ("CPPFLAGS", "CXXFLAGS", "LDFLAGS")]
    # As the stages are, for a variant is measured beside them; a bug is built faster.
    command = [*shlex.split(os.environ.get("CXX") or "g++"), "-std=c++20", "-g",
               "-O2" if bug.variant else "-O1",
               *shlex.split(" ".join([*flags, more, SANITIZE.get(sanitizer, "")])), "-pthread",
               "-o", "server", f"{bug.folder}/server.cpp"]
    now = hashlib.sha256("\0".join([*command, bug.diff]).encode(errors="surrogateescape"))
    whose = [path_of(bug.fields["Variant"], "variants")] if "Variant" in bug.fields else []
    for source in [bug.path, FIRST_CALL, *whose, *sorted((ROOT / bug.folder).iterdir())]:
        now.update(source.name.encode() + b"\0" + source.read_bytes())
    made_of = where / "made-of"
    with alone_in(where):
        if program.exists() and made_of.exists() and made_of.read_text() == now.hexdigest():
            return program
        made_of.unlink(missing_ok=True)
        patched(bug, where)
        done = subprocess.run(command, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              **TEXT)
        if done.returncode != 0:
            raise Wrong(f"does not compile: {first_line(done.stdout)}")
        made_of.write_text(now.hexdigest())
    return program
