"""A terminal of our own, for the tests of programs that are meant for one."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from typing import Callable

from tests.harness import DEADLINE


def set_columns(fd: int, columns: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


class Glass:
    """What is seen: as much of a terminal as our programs use, and of ASCII alone."""

    def __init__(self, columns: int, wraps: bool = True, answers: bool = True) -> None:
        self.columns = columns
        self.wraps = wraps  # what has become too long for a row; or it is cut off (xterm)
        self.answers = answers  # where its cursor is
        self.rows = [""]
        self.joined = {0: False}  # those that go on with the row above
        self.y = self.x = 0

    def show(self, text: str) -> str:
        """Prints that; what the terminal answers."""
        answer = ""
        for piece in re.findall(r"\033\[\d*[A-Za-z]|.", text, re.S):
            number = int(piece[2:-1] or 1) if piece[2:] else 1
            if piece == "\r":
                self.x = 0
            elif piece == "\n":
                self._below(False)
            elif len(piece) == 1:
                assert piece.isprintable(), repr(piece)
                if self.x == self.columns:
                    self._below(True)
                    self.x = 0
                row = self.rows[self.y].ljust(self.x)
                self.rows[self.y] = row[:self.x] + piece + row[self.x + 1:]
                self.x += 1
            elif piece == "\033[K":
                self.rows[self.y] = self.rows[self.y][:self.x]
            elif piece == "\033[J":
                self.rows[self.y:] = [self.rows[self.y][:self.x]]
            elif piece[-1] == "A":
                self.y = max(0, self.y - number)
            elif piece == "\033[6n":
                if self.answers:
                    answer += f"\033[{self.y + 1};{min(self.x + 1, self.columns)}R"
            else:
                raise AssertionError(f"unknown: {piece!r}")
        return answer

    def _below(self, joined: bool) -> None:
        self.y += 1
        if self.y == len(self.rows):
            self.rows.append("")
        self.joined[self.y] = joined

    def resize(self, columns: int) -> None:
        self.columns = columns
        if not self.wraps:
            self.rows = [row[:columns] for row in self.rows]
            self.x = min(self.x, columns - 1)
            return
        rows, joined = self.rows, self.joined
        self.rows, self.joined = [], {}
        y, x = self.y, self.x
        line, start = "", 0
        for number, row in enumerate(rows):
            if joined[number]:
                line += row
            else:
                line, start = row, len(self.rows)
            del self.rows[start:]
            if number == y:
                at = len(line) - len(row) + x
                past = (at - 1) // columns if at else 0
                self.y, self.x = start + past, at - past * columns
            for piece in range(0, len(line) or 1, columns):
                self.joined[len(self.rows)] = piece > 0
                self.rows.append(line[piece:piece + columns])


class Screen:
    """A program on a pseudo-terminal, and all that it has printed there."""

    def __init__(self, arguments: list[str], columns: int = 80, **env: str) -> None:
        self.all = self.shown = b""
        self.cpu = 0.0  # seconds, known at the end
        self.glass: Glass | None = None
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            set_columns(0, columns)
            os.execvpe(arguments[0], arguments, {**os.environ, "TERM": "xterm", **env})

    def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def _read(self, until: float, what: object) -> bytes:
        """What comes next; nothing at the end."""
        assert select.select([self.fd], [], [], max(0, until - time.monotonic()))[0], \
            f"{what!r} did not come: {self.shown!r}"
        try:
            data = os.read(self.fd, 4096)
        except OSError:  # Linux's word for the end of a terminal
            data = b""
        self.all += data
        self.shown += data
        return data

    def wait_until(self, holds: Callable[[], object], what: object) -> None:
        """Reads on until that is so."""
        until = time.monotonic() + DEADLINE
        while not holds():
            data = self._read(until, what)
            assert data, f"it ended before {what!r}: {self.shown!r}"
            if self.glass:
                os.write(self.fd, self.glass.show(data.decode("ascii")).encode())

    def wait_for(self, text: str) -> None:
        """Until the screen has shown this, in what came since the last time."""
        self.wait_until(lambda: text.encode() in self.shown, text)
        self.shown = self.shown.partition(text.encode())[2]

    def find(self, pattern: bytes) -> tuple[bytes, ...]:
        """The groups of that pattern, once the screen has shown it."""
        self.wait_until(lambda: re.search(pattern, self.shown, re.S), pattern)
        return re.search(pattern, self.shown, re.S).groups()

    def resize(self, columns: int) -> None:
        """The window first, then its program is told, as terminals do it."""
        if self.glass:
            self.glass.resize(columns)
        set_columns(self.fd, columns)

    def end(self) -> int:
        """Reads on until it has ended; its exit status."""
        while self._read(time.monotonic() + DEADLINE, "its end"):
            pass
        _, status, used = os.wait4(self.pid, 0)
        self.cpu = used.ru_utime + used.ru_stime
        return os.waitstatus_to_exitcode(status)

    def line_mode(self) -> bool:
        """Whether the terminal edits lines itself, and echoes them, as a shell wants it."""
        both = termios.ICANON | termios.ECHO
        return termios.tcgetattr(self.fd)[3] & both == both

    def __enter__(self) -> "Screen":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind:
            try:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass  # end() has seen it out
        os.close(self.fd)
