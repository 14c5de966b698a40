"""The program that is examined: started as from a shell, and judged from outside alone.

Of its processes the system tells what they use (Linux: proc(5)). A server may have children and
threads: all of them count.
"""

from __future__ import annotations

import os
import resource
import shlex
import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Optional

from tests.harness import HARD, LIBC, SOFT, Process, free_port

START = 10.0                               # seconds that it may take until it listens
KEPT = 4096                                # bytes of what it prints
LISTENS = "0A"                             # /proc/net/tcp has states as hexadecimal numbers


class Unseen(Exception):
    """What has to be looked at cannot be seen on this system."""


def listening(port: int) -> Optional[str]:
    """The address to connect to if somebody listens on that port; nobody is connected to for it."""
    for name, address in (("tcp", "127.0.0.1"), ("tcp6", "::1")):
        try:
            lines = Path(f"/proc/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, _, state, *_ = line.split()
            if state == LISTENS and int(local.rpartition(":")[2], 16) == port:
                return address
    return None


def _parents() -> dict[int, tuple[int, int]]:
    """Of each process its parent and its session."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:                # it has just ended
                continue
            if words[0] not in "ZX":
                found[int(entry.name)] = (int(words[1]), int(words[3]))
    return found


def holder_of(port: int) -> int:
    """Who has the listening socket of that port open; Unseen if that cannot be seen."""
    inodes = set()
    for name in ("tcp", "tcp6"):
        try:
            for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == LISTENS and int(words[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{words[9]}]")
        except OSError:
            pass
    for pid in sorted(_parents()):
        try:
            if inodes & set(Process(pid).descriptors().values()):
                return pid
        except PermissionError:            # another user's
            pass
    raise Unseen("whose process it is cannot be seen")


class Examined:
    """A server on a port: started with `command` ({port} stands for it), or there already."""

    # free_port() binds the port for a moment. A process that another thread starts just then has a
    # copy of that socket until its exec(), and our server would find the port taken.
    _forks = threading.Lock()

    def __init__(self, command: str = "", port: int = 0) -> None:
        with self._forks:
            self.command, self.port = command, port or free_port()
        self.address = ""
        self.printed = b""
        self.process: Optional[subprocess.Popen[bytes]] = None
        self._pid = 0
        self._seen: list[Process] = []     # its processes, as they were
        self._looked = 0.0                 # at that time

    def start(self) -> str:
        """Waits until it listens; what is wrong, or ""."""
        if self.command:
            try:
                self._run(shlex.split(self.command.replace("{port}", str(self.port))))
            except OSError as error:
                return f"it cannot be started: {error.strerror}"
        until = time.monotonic() + START * bool(self.command)
        while not (address := listening(self.port)):
            if self.process and self.process.poll() is not None:
                return f"it ended ({ended_how(self.process.returncode)}) before it listened"
            if time.monotonic() >= until:
                return f"nobody listens on port {self.port}" + (
                    f" after {START:g} s" if self.command else "")
            time.sleep(0.02)
        self.address = address
        return ""

    def _run(self, words: list[str]) -> None:
        """With a shell's dispositions of signals, and in a session of its own: all of it can be
        ended then, and Ctrl-C reaches all of it."""
        def prepare() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT, HARD))
            for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            if LIBC:
                LIBC.prctl(1, signal.SIGKILL)      # PR_SET_PDEATHSIG: it does not outlive us

        with self._forks:
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                start_new_session=True, preexec_fn=prepare)
        self._pid = self.process.pid
        self._drainer = threading.Thread(target=self._drain, daemon=True)
        self._drainer.start()

    def _drain(self) -> None:
        """Reads what it prints, which may be without end, or it would have to wait for us."""
        assert self.process and self.process.stdout
        fd = self.process.stdout.fileno()
        try:
            while data := os.read(fd, 1 << 16):
                self.printed = (self.printed + data)[-KEPT:]
        except (OSError, ValueError):
            pass

    def processes(self) -> list[Process]:
        """It and its children, as far as they can be seen."""
        first = self._pid or holder_of(self.port)
        known = _parents()
        mine, more = {first} & set(known), True
        if self.process:
            mine |= {pid for pid, (_, session) in known.items() if session == first}
        while more:
            more = {pid for pid, (parent, _) in known.items() if parent in mine} - mine
            mine |= more
        return [Process(pid) for pid in sorted(mine)]

    def ended(self) -> bool:
        if self.process:
            self.process.poll()            # or it stays there as a zombie
            return not self.processes()
        return not listening(self.port)

    def sockets(self) -> int:
        return sum(process.sockets() for process in self.processes())

    def memory(self) -> int:
        return sum(process.rss() for process in self.processes())

    def scheduled(self) -> tuple[float, float, bool]:
        """Seconds that its threads were on a CPU; that they stood in line for one, as far as that
        is over; and whether one of them is on a CPU or in line now."""
        ran, stood, wants = 0, 0, False
        if time.monotonic() > self._looked + 0.2:        # to find them takes long, if often done
            self._seen, self._looked = self.processes(), time.monotonic()
        for process in self._seen:
            for task in Path(f"/proc/{process.pid}/task").glob("*"):
                try:
                    words = (task / "schedstat").read_text().split()
                    state = (task / "stat").read_text().rpartition(") ")[2]
                except OSError:
                    continue
                ran, stood = ran + int(words[0]), stood + int(words[1])
                wants = wants or state.startswith("R")
        return ran / 1e9, stood / 1e9, wants

    def wanted(self) -> float:
        """Seconds for which its threads had something to do: on a CPU, or in line for one. So a
        server that spins is seen on a busy machine, too."""
        ran, stood, _ = self.scheduled()
        return ran + stood

    def few_descriptors(self, more: int) -> None:
        """From now on it may have that many more than it has."""
        for process in self.processes():
            have = process.descriptors()
            if have:
                _, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
                resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (max(have) + 1 + more, hard))

    def signal(self, number: int) -> None:
        os.killpg(self._pid, number)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It is stopped meanwhile (SIGSTOP), if we have started it."""
        if self.process and not self.ended():
            self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            if self.process and not self.ended():
                self.signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process:
            for pid in {self._pid, *(process.pid for process in self.processes())}:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.process.wait()
            self._drainer.join(1.0)        # or its last words are missing


def ended_how(status: int) -> str:
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"
