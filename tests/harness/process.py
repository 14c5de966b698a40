"""A running program, seen from outside: what the system tells of it (Linux: proc(5))."""

from __future__ import annotations

import collections
import ctypes
import itertools
import os
import random
import re
import select
import socket
import sys
from pathlib import Path

from tests.harness.variants import Unavailable

LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def poll_one(fd: int, events: int, seconds: float) -> int:
    """What of `events` is there within that time; 0 if nothing."""
    poll = select.poll()
    poll.register(fd, events)
    found = poll.poll(max(0, int(seconds * 1000 + 0.999)))
    return found[0][1] if found else 0


class Process:
    """By its number."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def cpu(self) -> float:
        """Seconds of CPU used so far, by all threads that are still there."""
        try:
            return sum(int(text.split()[0]) for text in self._threads("schedstat")) / 1e9
        except OSError:
            words = self._stat()
            return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def rss(self) -> int:
        """Bytes of memory that it holds."""
        return self._memory("VmRSS")

    def size(self) -> int:
        """Bytes of its address space."""
        return self._memory("VmSize")

    def most_rss(self) -> int:
        """The most that it has held until now."""
        return self._memory("VmHWM")

    def _memory(self, which: str) -> int:
        found = re.search(rf"^{which}:\s+(\d+) kB", self._file("status"), re.M)
        return int(found[1]) * 1024 if found else 0

    def state(self) -> str:
        """R running (if only one thread is), S asleep, T stopped, as ps has it."""
        states = [text.rpartition(")")[2].split()[0] for text in self._threads("stat")]
        return "R" if "R" in states else states[0]

    def _stat(self) -> list[str]:
        """The words of its stat file behind its name, which may have blanks."""
        return self._file("stat").rpartition(")")[2].split()

    def _threads(self, name: str) -> list[str]:
        """That file of each thread, the first one's first; only that with SAN=thread, as the
        sanitizer has a thread of its own, which does not sleep."""
        found = []
        threads = sorted(os.listdir(f"/proc/{self.pid}/task"), key=int)
        for thread in threads[:1] if os.environ.get("SAN") == "thread" else threads:
            try:
                found.append(self._file(f"task/{thread}/{name}"))
            except (FileNotFoundError, ProcessLookupError):
                if name not in os.listdir(f"/proc/{self.pid}/task/{self.pid}"):
                    raise                  # this system has none; or else the thread has just ended
        return found

    def _file(self, name: str) -> str:
        return (Path("/proc") / str(self.pid) / name).read_text()

    def descriptors(self) -> dict[int, str]:
        """Its open descriptors and what they are: socket:[4711], pipe:[...], a path."""
        folder = Path("/proc") / str(self.pid) / "fd"
        found: dict[int, str] = {}
        try:
            names = os.listdir(folder)
        except (PermissionError, FileNotFoundError):
            return found                   # it has just ended: what is left has no descriptors
        for fd in names:
            try:
                found[int(fd)] = os.readlink(folder / fd)
            except FileNotFoundError:
                pass                       # closed while we looked
        return found

    def sockets(self) -> int:
        return sum(what.startswith("socket:") for what in self.descriptors().values())

    def socket_of(self, fd: int) -> socket.socket:
        """A copy of its socket with that number, to ask how it is set up (pidfd_getfd(2))."""
        if not LIBC or not hasattr(os, "pidfd_open"):
            raise Unavailable("nobody can look at another process' sockets here")
        pidfd = os.pidfd_open(self.pid)
        copy = LIBC.syscall(438, pidfd, fd, 0)
        os.close(pidfd)
        if copy < 0:
            raise Unavailable("another process' sockets may not be looked at here")
        return socket.socket(fileno=copy)

    def queued(self) -> float:
        """Seconds that it has stood in line for a CPU, as far as the system tells."""
        try:
            return sum(int(text.split()[1]) for text in self._threads("schedstat")) / 1e9
        except (OSError, IndexError):
            return 0.0


# Each is named once, as several servers are started at the same time; beginning anywhere, as other
# tests run beside us. Clients are given ports from 32768 on (ip(7), ip_local_port_range).
_PORTS = itertools.cycle(range(10_000, 32_768))
collections.deque(itertools.islice(_PORTS, random.SystemRandom().randrange(22_768)), maxlen=0)


def free_port() -> int:
    """A port that nobody has, and that nobody else is given before the server has it."""
    while True:
        with socket.socket() as one:
            try:
                one.bind(("", next(_PORTS)))
            except OSError:
                continue
            return one.getsockname()[1]
