"""The programs that are recorded: the stages, and bugs and variants of theirs, compiled so that an
address in them leads to a line of source."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import struct
import subprocess
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from tests.bugs.patches import alone_in, built, path_of, read_bug
from tests.compare.lessons import TITLES
from tests.harness import BUILD, FOLDERS, ROOT, Unavailable, Variant, variants

FOLDER = BUILD / "replay"
# -Og: the code is that of the lines. Fortified, recv() would be another function's call. And of
# DWARF 5, some addr2line names the wrong file.
FLAGS = "-Og -gdwarf-4 -U_FORTIFY_SOURCE"
# Calls of several threads, of several processes, and those that only the kernel sees.
ELSEWHERE = re.compile(r"\bpthread_create\(|::fork\(|<linux/io_uring\.h>")


@dataclass(frozen=True)
class Program:
    id: str                                # 3, 6-poll, half_close
    title: str
    variant: Variant
    sources: Path                          # the folder that server.cpp is in

    def file(self, name: str) -> str:
        return (self.sources / name).read_text(encoding="utf-8")

    def line(self, name: str, number: int) -> str:
        """"" if there is no such file, or no such line."""
        if not (self.sources / name).exists():
            return ""
        return "".join(self.file(name).splitlines()[number - 1:number])

    def digest(self, name: str) -> str:
        return hashlib.sha256((self.sources / name).read_bytes()).hexdigest()

    def resolved(self, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """With stacks as [function, file, line], the innermost first, in place of addresses."""
        wanted = sorted({at for call in calls for at in call.get("stack", ())
                         if isinstance(at, int)})
        known = dict(zip(wanted, _frames(self.variant.program, tuple(wanted))))
        return [{**call, "stack": [frame for at in call["stack"] for frame in known[at]]}
                if "stack" in call else call for call in calls]


@lru_cache(maxsize=None)
def _frames(program: Path, addresses: tuple[int, ...]) -> list[list[list[Any]]]:
    """For each address the functions there, the inlined ones first; without addr2line (binutils)
    only the function whose code it is, and line 0."""
    tool = shutil.which("addr2line") or shutil.which("llvm-addr2line")
    if not tool or not addresses:
        functions = _functions(program.read_bytes())
        return [[[name, "", 0] for low, high, name in functions if low <= at < high]
                for at in addresses]
    done = subprocess.run([tool, "-e", str(program), "-a", "-i", "-f", "-C"], text=True,
                          input="".join(f"{at:#x}\n" for at in addresses), capture_output=True)
    found: list[list[list[Any]]] = []
    lines = iter(done.stdout.splitlines())
    for line in lines:
        if re.fullmatch(r"0x[0-9a-f]+", line):
            found.append([])
            continue
        path, _, number = next(lines).partition(" (")[0].rpartition(":")
        name = "callback" if "{lambda" in line else re.sub(
            r"\(anonymous namespace\)::|\(.*| const$", "", line)
        found[-1].append([name, os.path.basename(path), int(number) if number.isdigit() else 0])
    return found


def _functions(elf: bytes) -> list[tuple[int, int, str]]:
    """From where to where, and its name: what stands in the symbol table (elf(5), 64 bits)."""
    table, (width, count, _) = struct.unpack_from("<Q", elf, 40)[0], struct.unpack_from(
        "<HHH", elf, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", elf, table + at * width) for at in range(count)]
    found = []
    for _, kind, _, _, offset, size, names, _, _, entry in sections:
        for at in range(offset, offset + size, entry) if kind == 2 else ():
            name, info, _, _, value, length = struct.unpack_from("<IBBHQQ", elf, at)
            start = sections[names][4] + name
            if info & 15 == 2 and length:
                text = elf[start:elf.index(b"\0", start)].decode("latin-1")
                found.append((value, value + length, _plain(text)))
    return found


def _plain(name: str) -> str:
    """Server::serve, of _ZN12_GLOBAL__N_16Server5serveERK5Ready."""
    parts, rest = [], re.sub(r"^_ZNK?", "", name)
    while (found := re.match(r"(\d+)", rest)) and rest is not name:
        end = found.end() + int(found[1])
        parts.append(rest[found.end():end])
        rest = rest[end:]
    return "::".join(part for part in parts if part != "_GLOBAL__N_1") or name


def programs(words: str) -> list[Program]:
    """Those that are named, built: stages, bugs, variants."""
    found = []
    for word in words.replace(",", " ").split():
        if re.fullmatch(r"\d(-\w+)?", word):
            which = word if word != "6" else "6-epoll"
            [stage] = variants(which)
            folder = FOLDERS[stage.stage - 1]
            found.append(Program(word, TITLES[which], replace(stage, program=FOLDER / folder),
                                 ROOT / folder))
        else:
            bug = read_bug(path_of(word))
            [stage] = variants(str(bug.stage) if bug.stage < 6 else "6-epoll")
            program = built(bug, FOLDER / "bugs" / bug.name, FLAGS)
            sources = program.parent / bug.folder
            if any(ELSEWHERE.search(file.read_text("utf-8")) for file in sources.glob("*.?pp")):
                raise ValueError(f"{word} is not recorded: one thread is, that makes its own calls")
            found.append(Program(word, bug.title, replace(stage, program=program), sources))
    folders = sorted({program.variant.program for program in found
                      if program.variant.program.parent == FOLDER})
    if folders:
        with alone_in(FOLDER):
            _make([os.path.relpath(path, ROOT) for path in folders])
    return found


def _make(targets: list[str]) -> None:
    env = {name: value for name, value in os.environ.items()
           if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "SAN")}
    flags = f"{os.environ.get('CXXFLAGS', '')} {FLAGS}".strip()
    done = subprocess.run(
        ["make", "-s", "--no-print-directory", f"-j{os.cpu_count() or 1}", "SAN=",
         f"BUILD={os.path.relpath(FOLDER, ROOT)}", f"CXXFLAGS={flags}", *targets],
        cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise Unavailable(f"the servers are not built: {done.stdout.strip().splitlines()[0]}")
