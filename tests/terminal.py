"""A terminal of our own, for the tests of programs that are meant for one."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time

from harness import DEADLINE


def set_columns(fd: int, columns: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


class Screen:
    """A program on a pseudo-terminal, and all that it has printed there."""

    def __init__(self, arguments: list[str], columns: int = 80, **env: str) -> None:
        self.all = self.shown = b""
        self.cpu = 0.0  # seconds, known at the end
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            set_columns(0, columns)
            os.execve(arguments[0], arguments, {**os.environ, "TERM": "xterm", **env})

    def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def wait_for(self, text: str) -> None:
        """Until the screen has shown this, in what came since the last time."""
        until = time.monotonic() + DEADLINE
        while text.encode() not in self.shown:
            assert select.select([self.fd], [], [], max(0, until - time.monotonic()))[0], \
                f"{text!r} did not come: {self.shown!r}"
            try:
                data = os.read(self.fd, 4096)
            except OSError:  # Linux's word for the end of a terminal
                data = b""
            assert data, f"it ended before {text!r}: {self.shown!r}"
            self.all += data
            self.shown += data
        self.shown = self.shown.partition(text.encode())[2]

    def end(self) -> int:
        """Reads on until it has ended; its exit status."""
        while select.select([self.fd], [], [], DEADLINE)[0]:
            try:
                data = os.read(self.fd, 4096)
            except OSError:
                break
            if not data:
                break
            self.all += data
            self.shown += data
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
