"""The programs of the tutorials that this suite follows, with the mistakes that they have there,
and which rungs of the ladder see them.

    python3 -m tests.ladder.tutorials [PROGRAM...]    plays every rung against them: about 20 s

Each program is a script of its own: python3 tests/ladder/tutorials/poll_echo.py PORT. At its head
stands what is wrong with it.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable, Iterator

from tests.harness import DEADLINE, ROOT

HERE = Path(__file__).parent


AT_ONCE = 8                                # programs: most of the time a rung that fails waits


@dataclass(frozen=True)
class Cause:
    """One mistake, and the rungs that fail because of it."""
    why: str
    rungs: str                             # their names, with spaces between
    sign: str                              # a regular expression: what `make try` says of each
    either: str = ""                       # why they need not fail each time


@dataclass(frozen=True)
class Program:
    name: str
    service: str
    causes: tuple[Cause, ...]

    def may_fail(self) -> dict[str, Cause]:
        return {rung: cause for cause in self.causes for rung in cause.rungs.split()}

    def fails(self) -> dict[str, Cause]:
        return {rung: cause for rung, cause in self.may_fail().items() if not cause.either}


# ------ The table. What a program is there to show comes first, then its own mistakes, then those
# that all of the programs have.

# In Python a call that fails raises an exception, and one that nobody catches ends the program.
RESET = Cause("a reset ends it", "reset", "it said: (ConnectionResetError|BrokenPipeError)")
FULL = Cause("accept() without a free descriptor ends it", "full",
             r"it said: OSError: \[Errno 24\]")      # EMFILE

# Matters of time.
LATE_READER = "a client that gets no CPU meanwhile reads late: the server's send buffer is full"
FAST_READER = "a server that gets no CPU meanwhile has a client that reads as fast as it answers"

PROGRAMS = {program.name: program for program in (
    Program("blocking_greeter", "greet", (
        # Nobody else is welcomed.
        Cause("it sleeps in recv() for its one client", "two silent mute fifty",
              "should: . gets a line to welcome it"),
        # "hel" is answered, and so is "lo\nwor"; of many lines in one recv() only the last one.
        Cause("one recv() is taken for one message", "pieces half_close slow quits",
              "came: +(it|A|B) got"),
        RESET,
    )),
    Program("busy_loop_echo", "echo", (
        Cause("it asks all the time", "idle mute", "it was busy for"),
        # send() fails with EAGAIN, which is taken for a recv() that has nothing.
        Cause("what send() has no room for is dropped", "slow", "came: +. got"),
        Cause("the same", "half_close", "came: +. got", FAST_READER),
        Cause("the same", "whole", "came: +. got", LATE_READER),
        RESET, FULL,
    )),
    Program("select_one_list_echo", "echo", (
        # So its peer is not told the end, either. CPython closes what nothing refers to: of many
        # clients that is one, the last.
        Cause("a client that leaves is not closed", "half_close descriptors",
              "has not been told the end|it had 1, and has 2"),
        Cause("sendall() sleeps until a slow client reads", "mute", "A got nothing in 2 s"),
        RESET, FULL,
    )),
    Program("select_queues_echo", "echo", (
        # select() reports it as often as it stands there: after the first send() there need not be
        # room for a second one. With more than 1024 entries Python's select() fails. If the client
        # leaves before, its queue is looked for, and is gone.
        Cause("a client stands in the write list once for each message", "half_close slow mute",
              "it said: (BlockingIOError|ValueError|KeyError)|has not been told the end"),
        Cause("the same", "whole", "it said: (BlockingIOError|ValueError)", LATE_READER),
        Cause("a client that leaves is not closed", "descriptors", "it had 1, and has 2"),
        RESET, FULL,
    )),
    *(Program(name, "echo", (
        Cause("a client that has ended its input is closed, with its queue", "half_close",
              "came: +. got .*and then the end"),
        Cause("a queue has no bound", "mute", "the server has grown by"),
        RESET, FULL,
    )) for name in ("poll_echo", "epoll_echo")),
    Program("callbacks_echo", "echo", (
        Cause("how much send() took is not looked at, and EAGAIN not expected", "slow mute",
              "it said: BlockingIOError"),
        Cause("the same", "half_close", "it said: BlockingIOError", FAST_READER),
        Cause("the same", "whole", "it said: BlockingIOError", LATE_READER),
        RESET, FULL,
    )),
    Program("select_chat", "chat", (
        # The end is readable in every round. It sends an empty line to a member that has left, too:
        # EPIPE, and it ends.
        Cause("a member that leaves is not noticed", "next_one member_leaves descriptors",
              r"came: +(it cannot|the server has ended|. got nothing|it heard [\d,]+ lines)"),
        Cause("every member is always in the write list", "idle", "it was busy for"),
        Cause("send() sleeps until a slow member reads", "mute_member", "B got nothing in 2 s"),
        Cause("one recv() is taken for one message", "relayed", "came: +it heard"),
        RESET, FULL,
    )),
)}


# ------ Playing

@dataclass
class Played:
    program: Program
    failed: dict[str, str] = field(default_factory=dict)   # rung -> what is said of it
    climbed: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)

    def wrong(self) -> Iterator[str]:
        """What is not as the table says."""
        may_fail = self.program.may_fail()
        for rung, cause in self.program.fails().items():
            if rung in self.climbed:
                yield f"{rung} is climbed, and should fail: {cause.why}"
        for rung, said in self.failed.items():
            if rung not in may_fail:
                yield f"{rung} fails, and should not:\n{said}"
            elif not re.search(may_fail[rung].sign, said):
                yield f"{rung} fails, and nothing is said of {may_fail[rung].sign!r}:\n{said}"


def play(name: str) -> Played:
    """All rungs, one after the other."""
    program = PROGRAMS[name]
    command = shlex.join([sys.executable, str(HERE / f"{name}.py")]) + " {port}"
    done = subprocess.run(
        [sys.executable, "-m", "tests.ladder", "--service", program.service, "--all",
         "--server", command],
        cwd=ROOT, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=6 * DEADLINE)
    played, rung = Played(program), ""
    for line in done.stdout.splitlines():
        if found := re.match(r" ?\d+  (\w+) +(ok|no|skipped|FAILED)\b", line):
            rung, how = found.groups()
            if how == "FAILED":
                played.failed[rung] = ""
            else:
                (played.climbed if how == "ok" else played.skipped).add(rung)
        if rung in played.failed and line:
            played.failed[rung] += line + "\n"
    if not played.climbed:
        raise RuntimeError(f"{name}: no rung was played:\n{done.stdout}")
    return played


def row(program: Program, failed: Iterable[str]) -> str:
    """Of the table in NOTES.md: the rungs that fail, those of one cause together."""
    left, cells = list(failed), []
    for cause in program.causes:
        rungs = [rung for rung in cause.rungs.split() if rung in left]
        left = [rung for rung in left if rung not in rungs]
        if rungs:
            cells.append(", ".join(f"`{rung}`" for rung in rungs) + f": {cause.why}"
                         + " (not each time)" * bool(cause.either))
    cells += [f"`{rung}`: not expected" for rung in left]
    return f"| `{program.name}` | {program.service} | {'; '.join(cells)} |"
