"""`make debug-4` and `make trace-4`: a stage under gdb, or under strace.

    python3 -m tests.debug gdb PROGRAM [--tui] -- ARGUMENTS
    python3 -m tests.debug strace PROGRAM -- ARGUMENTS

What gdb is told stands in PROGRAM.gdb: `gdb -x build/debug/04_poll.gdb build/debug/04_poll`.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / "tests" / "debug" / "suite_state.py"

# The steps of each stage, in order: a function of Server, or a line of server.cpp, by its text.
# The first is where it is about to wait.
STEPS = {
    1: ["calls_.accept(listener)", "serve", "read_from", "send_all", "say_goodbye"],
    2: ["try_all", "accept_from", "read_from", "write_to", "update", "close", "stop"],
    3: ["wait", "serve", "accept_from", "read_from", "write_to", "update", "close", "stop"],
    6: ["wait", "const auto ready = [", "accept_from", "read_from", "write_to", "update", "close",
        "stop"],
}
STEPS[4] = STEPS[5] = STEPS[3]
FIRST = {1: "accept(): `next` sleeps there until a client connects.",
         2: "a round: every socket is tried, ready or not, and each round passes\n"
            "all these steps. On to bytes that came: disable, tbreak Services::receive, continue."}
SKIPS = [r"skip -rfu ^(std|__gnu_cxx)::", "skip -gfi /usr/include/c++/*/*",
         "skip -gfi /usr/include/c++/*/*/*", "skip -gfi /usr/include/*/c++/*/*/*"]


def missing(tool: str) -> int:
    print(f"there is no {tool} here; Debian's and Ubuntu's package is {tool}: "
          f"sudo apt-get install {tool}", file=sys.stderr)
    return 1


def client(stage: int, arguments: list[str]) -> str:
    """What to type in another terminal."""
    services = {"-e": "", "-g": "SERVICE=greet", "-c": "SERVICE=chat"}
    for option, port in zip(arguments, arguments[1:]):
        if option in services:
            words = [f"make client-{stage}", services[option]]
            words += [f'ARGS="--port {port}"'] if port != "0" else \
                ['ARGS="--port PORT"  (PORT is in its listen line)']
            return " ".join(filter(None, words))
    return f"make client-{stage}"


def place(step: str, source: Path) -> tuple[str, str]:
    """Where to break, and what the step is called."""
    if step.isidentifier():
        return f"Server::{step}", step
    lines = source.read_text(encoding="utf-8").splitlines()
    line = next(i for i, each in enumerate(lines, 1) if step in each)
    callback = "[" in step                 # the first line of what is called back
    return (f"{source.parent.name}/{source.name}:{line + callback}",
            "the callback" if callback else "accept")


def script(program: Path, arguments: list[str], python: bool) -> str:
    """What gdb is told. With Python it does it without saying anything."""
    stage = int(program.name[:2])
    places = [place(step, ROOT / program.name / "server.cpp") for step in STEPS[stage]]
    names = [f"{i} {name}" for i, (_, name) in enumerate(places, 1)]
    first = FIRST.get(stage, "wait(): `next`, some times, comes to the call that sleeps.")
    told = f"""
{program.name} has stopped before {first}
Breakpoints: {", ".join(names)}
  continue      on to the next of them; next, step, finish, backtrace, up, print as always
  suite-state   what it watches, what was ready, its clients, and what waits to be sent to them
  Ctrl-C        while the server runs: SIGINT, for the server alone, which stops in good order
  Ctrl-Z        while the server runs: stops it where it is, for a look; continue goes on
A client, in a second terminal: {client(stage, arguments)}
Then, here: continue. What it types is answered only while the server runs. quit ends both."""
    if stage >= 5:
        told += "\n(epoll_wait() fails with EINTR after such a stop, and the loop waits again.)"
    if stage == 6:
        told += "\n`step` does not enter a callback (std::function calls it): break there."
    if not python:
        told += "\nThis gdb has no Python, so there is no suite-state: Debian's package gdb has it."
    quiet = ["set breakpoint pending off"] + [f"break {where}" for where, _ in places] + SKIPS
    settings = ["set confirm off", "set pagination off", "set disable-randomization off",
                "set print frame-arguments scalars", "handle SIGINT nostop noprint pass",
                "handle SIGUSR1 nostop noprint pass", "handle SIGTSTP stop print nopass"]
    return "\n".join([
        *(f"python gdb.execute({each!r}, to_string=True)" if python else each
          for each in settings[:4] + quiet + settings[4:]),
        *[f"source {STATE}"] * python, "run",
        # If the server cannot start, it has said why.
        "if !$_isvoid($_exitcode)", "quit $_exitcode", "end",
        # Behind a backslash, as gdb drops the spaces with which a line begins.
        *(("echo \\" if line.startswith(" ") else "echo ") + line + "\\n"
          for line in told.splitlines()), ""])


def debug(program: Path, arguments: list[str], tui: bool) -> int:
    if not shutil.which("gdb"):
        return missing("gdb")
    asked = subprocess.run(["gdb", "-nx", "-batch", "-ex", "python print('yes')"],
                           stdin=subprocess.DEVNULL, capture_output=True, text=True)
    commands = program.with_name(program.name + ".gdb")
    commands.write_text(script(program, arguments, "yes" in asked.stdout), encoding="utf-8")
    os.environ.pop("DEBUGINFOD_URLS", None)            # or gdb asks whether to use them
    # A program that Python starts would ignore these, and so would what gdb starts.
    for number in signal.SIGPIPE, signal.SIGXFSZ:
        signal.signal(number, signal.SIG_DFL)
    os.execvp("gdb", ["gdb", "-q", *["-tui"] * tui, "-x", str(commands), "--args", str(program),
                      *arguments])


# The loop's own calls; with ?, as not every machine has all.
CALLS = "listen,accept,?accept4,recvfrom,sendto,shutdown,close"
WAITS = {"select": "?select,?pselect6", "poll": "?poll,?ppoll",
         "epoll": "?epoll_ctl,?epoll_wait,?epoll_pwait"}


def trace(program: Path, arguments: list[str]) -> int:
    if not shutil.which("strace"):
        return missing("strace")
    stage = int(program.name[:2])
    call = ["", "", "", "select", "poll", "epoll", "epoll"][stage]
    if "-s" in arguments[:-1]:
        call = arguments[arguments.index("-s") + 1]
    said = [f"A client, in a second terminal: {client(stage, arguments)}",
            "Ctrl-C stops the server. A line without a result is the call in which it sleeps."]
    if stage == 2:
        said[1:] = ["Ctrl-C stops the server. Only calls that succeed are shown: thousands a "
                    "second fail with EAGAIN."]
    if call == "select":
        said.append("select() shows as pselect6: the system call of the library's select().")
    elif call and not platform.machine().startswith(("x86", "i686")):
        said.append("On this machine poll() shows as ppoll, epoll_wait() as epoll_pwait.")
    print("\n".join(said), flush=True)
    os.environ["PYTHONPATH"] = str(ROOT)
    # Of SAN=1: to look for leaks is not possible under strace, and fails.
    os.environ["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"
    os.execvp("strace", [
        "strace", "-qq", "-a1", "-s24", *["-z"] * (stage == 2), "-e", "signal=INT,TERM,USR1",
        "-e", ",".join(filter(None, [f"trace={CALLS}", WAITS.get(call)])),
        "-o", f"|exec {shlex.quote(sys.executable)} -m tests.debug lines",
        str(program), "-q", *arguments])


# The program waits until it can print (with -q, too, it says a few things): not the loop's own.
PRINTING = b"poll([{fd=1, ", b"ppoll([{fd=1, "


def lines() -> int:
    """Copies strace's lines to stderr, from the first listen() on: before that, the program is
    loaded. The start of a line at once: a call that sleeps is seen without its result."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)       # it ends when strace does
    line, shown, listening = b"", 0, False
    while True:
        data = os.read(0, 65536)
        if not data:
            return 0
        for part in data.splitlines(keepends=True):
            line += part
            listening = listening or line.startswith(b"listen(")
            undecided = any(each.startswith(line) for each in PRINTING)
            if listening and not undecided and not line.startswith(PRINTING):
                os.write(2, line[shown:])
                shown = len(line)
            if line.endswith(b"\n"):
                line, shown = b"", 0


def main(words: list[str]) -> int:
    how, *words = words
    if how == "lines":
        return lines()
    split = words.index("--")
    program, *options = words[:split]
    if how == "gdb":
        return debug(Path(program), words[split + 1:], "--tui" in options)
    return trace(Path(program), words[split + 1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
