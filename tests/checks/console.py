r"""Commands in the notes: run, and what they print compared with what stands there.

A fenced block whose info string is `console` is run, in one bash, from this repository's root:

    $ build/03_select -q -e 7000 >build/notes.log & sleep 0.3
    $ head -n 2 build/notes.log
       ≈0.000 start   stage=03_select pid=≈4711 clock=≈81520.114302
    ...
    $ for i in 1 2
    > do echo $i; done
    1
    2

A block whose info string is `sh run` has no prompts, so that it can be pasted; all that it prints
stands in the next block, of the kind `text`, which may be folded away.

- `$ ` begins a command, `> ` goes on with it; below it stands all that is printed until the next.
- `...` in a line is any text; a line that is nothing but `...` is any number of lines, also none.
- `≈` before a number is any number, with a fraction only if one is written. How many blanks stand
  between two words, or at the end of a line, does not count.
- Ports are 7000 to 7099, files build/notes...: each run has others, so that several can run at the
  same time. What is printed is put back into the notes' terms before it is compared.
- On a busy machine `sleep 0.3` may be too short for what it waits for: a block that printed
  something else is run once more, and sleeps four times as long.
- Nothing that a block has started outlives it.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Optional

from tests.checks.pages import Block
from tests.harness import DEADLINE, ROOT


@dataclass
class Command:
    line: int
    text: str
    expected: list[str]


def commands_of(block: Block) -> list[Command]:
    """Raises ValueError if something stands before the first command."""
    if block.kind == "run":
        return [Command(block.line + 1, "\n".join(block.lines), trimmed(list(block.answer)))]
    found: list[Command] = []
    for number, line in enumerate(block.lines, block.line + 1):
        if line.startswith("$ "):
            found.append(Command(number, line[2:], []))
        elif found and line.startswith("> ") and not found[-1].expected:
            found[-1].text += "\n" + line[2:]
        elif found:
            found[-1].expected.append(line.rstrip())
        elif line.strip():
            raise ValueError(f"line {number}: a console block begins with a command: $ ...")
    if not found:
        raise ValueError(f"line {block.line}: no command in this block")
    for command in found:
        command.expected = trimmed(command.expected)
    return found


# --- what is printed, and what stands in the notes ----------------------------------------------

MARKED = re.compile(r"\.\.\.|( *)≈(\d+(?:,\d{3})*)(\.\d+)?( *)")


def as_pattern(line: str) -> str:
    pattern, done = "", 0
    for mark in MARKED.finditer(line):
        pattern += re.escape(line[done:mark.start()])
        if mark[0] == "...":
            pattern += ".*"
        else:
            blanks = " +" if mark.start() else " *"
            pattern += blanks * bool(mark[1]) + r"\d+(?:,\d{3})*" + r"(?:\.\d+)?" * bool(mark[3])
            pattern += " +" * bool(mark[4])
        done = mark.end()
    return pattern + re.escape(line[done:])


def trimmed(lines: list[str]) -> list[str]:
    """Without blanks at their ends, and without empty lines at the end."""
    lines = [line.rstrip() for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def fits(expected: list[str], actual: list[str]) -> bool:
    """Line by line; where "..." has taken too few lines, it takes one more."""
    expected, actual = (
        [re.sub(r"(?<=\S) +", " ", line) for line in lines] for lines in (expected, actual))
    i = j = 0
    again: Optional[tuple[int, int]] = None
    while j < len(actual):
        if i < len(expected) and expected[i].strip() == "...":
            i += 1
            again = (i, j)
        elif i < len(expected) and re.fullmatch(as_pattern(expected[i]), actual[j]):
            i, j = i + 1, j + 1
        elif again:
            again = (again[0], again[1] + 1)
            i, j = again
        else:
            return False
    return all(line.strip() == "..." for line in expected[i:])


# --- what a machine may lack --------------------------------------------------------------------

# A command that is not on every machine, and Debian's package that has it.
TOOLS = {"ss": "iproute2", "strace": "strace", "gdb": "gdb", "nc": "netcat-openbsd",
         "lsof": "lsof", "top": "procps", "ps": "procps", "telnet": "telnet", "curl": "curl"}


def missing_for(block: Block) -> str:
    """Why it cannot be run on this machine; "" if it can."""
    if not shutil.which("bash"):
        return "there is no bash here (Debian's package bash)"
    text = "\n".join(command.text for command in commands_of(block))
    for tool in re.findall(r"(?:^|[;|&(])\s*(?:timeout \S+ )?(\w+)", text, re.M):
        if tool in TOOLS and not shutil.which(tool):
            return f"there is no {tool} here (Debian's package {TOOLS[tool]})"
    return "" if "/dev/tcp/" not in text or connects() else "this bash has no /dev/tcp"


@lru_cache(None)
def connects() -> bool:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        return not subprocess.run(["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}"],
                                  stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  timeout=DEADLINE).returncode


# --- a run --------------------------------------------------------------------------------------

class Ports:
    """Four digits, as in the notes, so that columns keep their width; below those that the kernel
    hands out, and none that a stage has by default."""

    def __init__(self) -> None:
        self.given: set[int] = set()
        self.lock = threading.Lock()

    def free(self) -> str:
        while True:
            port = random.randrange(2000, 7000)
            with self.lock, socket.socket() as probe, suppress(OSError):
                probe.bind(("", port))
                if port not in self.given:
                    self.given.add(port)
                    return str(port)


PORTS = Ports()
PORT = re.compile(r"(?<![\d.,≈])(70\d\d)(?![.,]?\d)")
# What the make that runs the tests, or its caller, has chosen for them. (CXX and its flags
# stay: with others, make would build everything anew.)
NOT_PASSED_ON = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "SAN", "BUILD", "STAGE",
                 "SERVER", "SERVICE", "ARGS", "SEED", "QUICK", "SCENARIO", "PATIENCE", "RIVALS",
                 "LC_ALL", "LANG", "BASH_ENV", "ENV", "PYTHONUTF8", "PYTHONIOENCODING")


def started_by(mark: str) -> list[int]:
    """Every process with that mark in its environment: all that a block has started, whichever
    session it is in, and whatever its parent is by now (proc(5))."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def end(bash: subprocess.Popen[bytes], mark: str) -> None:
    """It, its process group, and all that it has started."""
    until = time.monotonic() + DEADLINE
    while True:
        with suppress(OSError):
            os.killpg(bash.pid, signal.SIGKILL)
        left = started_by(mark)
        for pid in left:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if not left or time.monotonic() > until:
            break
        time.sleep(0.005)
    bash.wait()


@dataclass
class Played:
    """What each command of a block printed, in the notes' terms; late: it was not over in time."""
    outputs: list[str]
    late: bool


def play(commands: list[Command], seconds: float, slower: int = 1) -> Played:
    mark = uuid.uuid4().hex
    ports = {port: PORTS.free() for port in
             set(PORT.findall("\n".join(command.text for command in commands)))}
    with tempfile.TemporaryDirectory(prefix="notes") as folder:
        # `sleep 1 1 1 1` sleeps for their sum.
        script = [f"sleep() {{ command sleep {' '.join(['$@'] * slower)}; }}"]
        for command in commands:
            text = PORT.sub(lambda port: ports[port[1]], command.text)
            script += [text.replace("build/notes.", f"{folder}/notes."), f"printf '\\n{mark}\\n'"]
        path = Path(folder, "script")
        path.write_text("\n".join(script) + "\n", encoding="utf-8")
        env = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
        env.update(LC_ALL="C.UTF-8", NOTES_BLOCK=mark)
        # Into a file: what a block leaves behind would keep a pipe open.
        with open(Path(folder, "printed"), "w+b") as printed:
            bash = subprocess.Popen(
                ["bash", "--norc", "--noprofile", path], cwd=ROOT, stdin=subprocess.DEVNULL,
                stdout=printed, stderr=printed, start_new_session=True, env=env)
            late = False
            try:
                bash.wait(seconds)
            except subprocess.TimeoutExpired:
                late = True
            finally:
                end(bash, f"NOTES_BLOCK={mark}")
            printed.seek(0)
            text = printed.read().decode("utf-8", "replace")
    for port, used in ports.items():
        text = re.sub(rf"(?<![\d.,]){used}(?![.,]?\d)", port, text)
    text = text.replace(f"{folder}/notes.", "build/notes.")
    text = re.sub(rf"{re.escape(str(path))}: line \d+:", "bash:", text)     # as if it were typed
    return Played(text.split(f"\n{mark}\n"), late)


def told(commands: list[Command], played: Played, seconds: float) -> str:
    """Of the first command that printed something else; "" if there is none."""
    for i, command in enumerate(commands):
        actual = trimmed(played.outputs[i].splitlines())
        over = i + 1 < len(played.outputs)
        if over and fits(command.expected, actual):
            continue
        why = ("what it prints is not what stands there" if over else
               f"it was not over within {seconds:g} s" if played.late else "the shell ended here")
        typed = command.text.replace("\n", "\n> ")
        return "\n    ".join([f"line {command.line}: $ {typed}", why, "in the notes:",
                              *(f"  {line}" for line in command.expected), "printed:",
                              *(f"  {line}" for line in actual)])
    return ""


def wrong_output(block: Block, seconds: float = 3 * DEADLINE) -> str:
    """Runs it, and tells of the first command that printed something else; "" if there is none."""
    commands = commands_of(block)
    wrong = ""
    for slower in (1, 4):
        played = play(commands, seconds, slower)
        wrong = told(commands, played, seconds)
        if not wrong or played.late:
            break
    return wrong
