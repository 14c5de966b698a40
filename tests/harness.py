"""What every scenario is played with: the servers, and clients that never wait for ever.

    Variant   one column of the matrix: a stage, stage 6 once for each of its selectors
    Server    a running server: its narration, read while it grows; its counters; how it ends
    Client    one connection, a deadline on everything it does, and a record of what it did
    Run       one scenario against one variant: starts and connects, and looks after the rest
    play()    plays a scenario, checks what must hold after every scenario, returns the Record

A scenario gets a Run, drives it and returns what it observed; see scenarios/__init__.py.
In short:

    server = run.start("echo", "chat")            # any free ports; run.server from then on
    a = run.connect("echo")                       # Client "A"; run.connect("echo", rcvbuf=4096)
    a.send(b"hello\\n")                            # all of it, or until the peer breaks off
    a.recv(6), a.recv_line(), a.recv_until_eof()  # exactly 6 bytes; one line; all there is
    a.exchange(data)                              # sends and receives at the same time
    a.exchange(data, late=True)                   # sends, and reads only when it has to
    a.answered(0.3)                               # does anything come within 0.3 s?
    a.half_close(), a.urgent(b"!"), a.reset(), a.close()
    a.ended                                       # "", "eof", "reset", "closed" (by ourselves)
    crowd = run.crowd(50, "echo")                 # fifty clients in one thread
    crowd.send(lambda i: b"...");  crowd.recv(lambda i: 6)

    run.answered(a), run.answers(crowd)           # ... before the server falls asleep for good?

    server.wait_for("recv", bytes=6)              # the first such line of the narration, Event
    server.wait_for("wait", after=server.mark())  # ... that comes from now on
    server.accepted(a)                            # the accept line of that client: ["fd"]
    server.stats()                                # SIGUSR1, and the stats line that it brings
    server.pause(); server.go_on()                # SIGSTOP; SIGCONT
    server.stop()                                 # -> Stopped(status, stats, seconds)
    server.cpu(), server.rss(), server.descriptors()
    server.idle(0.2)                              # does it sleep while nobody asks anything?

Nothing here asserts what a server does, save that play() checks after every scenario what
holds for all of them: exit status 0, a last stats line without clients, a narration that
keeps to its grammar and whose sums are right, nothing on stderr (so a sanitizer's report
fails whatever was played), and no socket left behind when all clients are gone.

What waits too long raises Late, which says what was waited for and how the narration ended.
Servers write to a file that has no name, so that however slowly it is read, nobody waits and
no line is lost. All times are CLOCK_MONOTONIC, the servers' and the clients' alike, so that
one axis can show both.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import random
import re
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Optional, Sequence

from narration import Event, Malformed, complaints, parse

ROOT = Path(__file__).resolve().parent.parent
SANITIZED = os.environ.get("SAN") == "1"
BUILD = ROOT / (os.environ.get("BUILD") or ("build/san" if SANITIZED else "build"))
PATIENCE = os.environ.get("PATIENCE")            # seconds: tests of a broken server need not wait
DEADLINE = float(PATIENCE or (60 if SANITIZED else 20))   # for whatever has to happen
LEAK_DEADLINE = STOP_DEADLINE = DEADLINE         # to close every socket; to end
MOST_NARRATION = 64 << 20                        # bytes: who narrates more falls silent (EFBIG)
SERVICES = ("echo", "greet", "chat")
LOOPBACK = "127.0.0.1"

# Our own descriptors are many; the servers get the limits that the tests were started with.
_SOFT, _HARD = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (_HARD, _HARD))

# A shell starts what it puts into the background with SIGINT ignored, and that is inherited: no
# server could then be stopped by it before it has a handler of its own.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Late(AssertionError):
    """A deadline has passed."""


class Unavailable(Exception):
    """This machine cannot play that scenario; the text says what it lacks."""


# --- the variants ---------------------------------------------------------------------------

@dataclass(frozen=True)
class Variant:
    name: str                              # 06_selector_callbacks-poll
    id: str                                # 6-poll
    stage: int
    program: Path                          # what to run
    arguments: tuple[str, ...] = ()        # before all others: -s poll
    foreign: bool = False                  # somebody's own server, not ours

    @property
    def folder(self) -> Path:
        return ROOT / FOLDERS[self.stage - 1]

    def matches(self, which: str) -> bool:
        """True for "3", "6" (all of stage 6), "6-poll", "2-5" and lists: "1 3 6-epoll"."""
        for word in which.replace(",", " ").split():
            reach = re.fullmatch(r"([1-6])-([1-6])", word)
            if reach and int(reach[1]) <= self.stage <= int(reach[2]):
                return True
            if word in (str(self.stage), self.id):
                return True
        return False


FOLDERS = ("01_blocking", "02_nonblocking_busyloop", "03_select", "04_poll", "05_epoll",
           "06_selector_callbacks")
SELECTORS = ("select", "poll", "epoll")


def variants(which: str = "", server: str = "") -> list[Variant]:
    """All eight, or those that `which` names; `server` is a program to run in their stead."""
    if server and not (os.path.isfile(server) and os.access(server, os.X_OK)):
        what = ("a folder" if os.path.isdir(server) else
                "not executable" if os.path.exists(server) else "no such file")
        raise ValueError(f"SERVER={server}: {what}; a program that can be run is wanted")
    found = []
    for stage, folder in enumerate(FOLDERS, 1):
        program = Path(server).resolve() if server else BUILD / folder
        if stage < 6:
            found.append(Variant(folder, str(stage), stage, program, (), bool(server)))
        else:
            found += [Variant(f"{folder}-{how}", f"6-{how}", stage, program, ("-s", how),
                              bool(server)) for how in SELECTORS]
    if which:
        for word in which.replace(",", " ").split():
            if not any(variant.matches(word) for variant in found):
                raise ValueError(f"no stage {word!r}: there are 1, 2, 3, 4, 5, 6, and of stage 6 "
                                 + ", ".join(f"6-{how}" for how in SELECTORS))
        found = [variant for variant in found if variant.matches(which)]
    return found


def own_host() -> str:
    """An address on the loopback that nobody else uses: the ports there are all ours, though
    other tests, or somebody's own servers, run on this machine at the same time."""
    pid = os.getpid()
    return f"127.{100 + (pid >> 16 & 127)}.{pid >> 8 & 255}.{max(1, min(pid & 255, 254))}"


def default_address(stage: int, service: str, host: str = LOOPBACK) -> tuple[str, int]:
    """Where a stage listens when its command line names no port."""
    return host, 9001 + 100 * stage + SERVICES.index(service)


# --- the server -----------------------------------------------------------------------------

@dataclass(frozen=True)
class Stopped:
    status: int                            # exit status; negative: killed by that signal
    stats: Optional[Event]                 # the last line, if it was stats
    seconds: float                         # from the signal to the end, queueing for a CPU aside


_running: set["Server"] = set()
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


@atexit.register
def end_all() -> None:
    """Whatever happens to us, no server is left behind."""
    for server in list(_running):
        server.kill()


def end_on_sigterm() -> None:
    """Makes SIGTERM end us as Ctrl-C does, so that what is to be cleaned up is."""
    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, interrupt)


def _environment(extra: Optional[dict[str, str]]) -> dict[str, str]:
    env = dict(os.environ)
    env.setdefault("ASAN_OPTIONS", "detect_stack_use_after_return=1")
    env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1:halt_on_error=1")
    env.update(extra or {})
    if extra and "LD_PRELOAD" in extra:
        env["LD_PRELOAD"] = _preloadable(extra["LD_PRELOAD"])
    return env


@lru_cache(maxsize=None)
def _preloadable(path: str) -> str:
    """LD_PRELOAD is split at spaces and colons, which a folder's name may have. A descriptor of
    ours has a name without them, for as long as we run."""
    try:
        return f"/proc/{os.getpid()}/fd/{os.open(path, os.O_RDONLY)}"
    except OSError:
        return path


def run_program(variant: Variant, *arguments: str, seconds: float = DEADLINE,
                env: Optional[dict[str, str]] = None) -> subprocess.CompletedProcess[str]:
    """Runs a server that is expected to end by itself: -h, -p, a bad word."""
    if not variant.program.exists():
        raise Late(f"{variant.program} is not there: run make first")
    try:
        return subprocess.run([str(variant.program), *variant.arguments, *arguments], text=True,
                              errors="replace", capture_output=True, stdin=subprocess.DEVNULL,
                              timeout=seconds, env=_environment(env))
    except subprocess.TimeoutExpired:
        raise Late(f"{variant.name} {' '.join(arguments)} did not end") from None


class Server:
    """A running server. Ends with the `with` block, the Run, or the tests, whichever is first."""

    def __init__(self, variant: Variant, services: Sequence[str] = SERVICES,
                 args: Sequence[str] = (), *, nofile: Optional[tuple[int, int]] = None,
                 env: Optional[dict[str, str]] = None, ports: Sequence[int] = (),
                 listening: Optional[int] = None, stdout: Optional[int] = None,
                 stderr: Optional[int] = None, wait: bool = True) -> None:
        """Starts it with a free port for each of `services`, or those of `ports`.

        No service: the command line names none, so all three come up on their own ports.
        nofile: soft and hard limit on its descriptors. listening: how many `listen` lines to
        wait for, if not one a service. stdout: a descriptor to write to in place of our file
        (then there is no narration to read); stderr, likewise. wait=False: return at once.
        """
        if not variant.program.exists():
            raise Late(f"{variant.program} is not there: run make first")
        words: list[str] = []
        for i, service in enumerate(services):
            words += ["-" + service[0], str(ports[i] if ports else 0)]
        self.variant = variant
        self.arguments = [*variant.arguments, *words, *args]
        self.events: list[Event] = []
        self.malformed: list[str] = []
        self.status: Optional[int] = None
        self.watcher: Optional[Callable[[Event], None]] = None
        self.used = 0.0                    # seconds of CPU, until it was told to stop
        self._out = tempfile.TemporaryFile()
        self._err = tempfile.TemporaryFile()
        self._read = 0                     # how far into _out
        self._part = b""                   # a line that has not ended yet
        self._foreign_stdout = stdout is not None
        soft_hard = nofile or (_SOFT, _HARD)
        in_main = threading.current_thread() is threading.main_thread()
        we = os.getpid()

        def prepare() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, soft_hard)
            resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_NARRATION, MOST_NARRATION))
            if _libc and in_main:          # PR_SET_PDEATHSIG: nobody outlives the tests
                _libc.prctl(1, signal.SIGKILL)
                if os.getppid() != we:     # it has ended before
                    os._exit(1)

        self.began = time.monotonic()
        self._process = subprocess.Popen(
            [str(variant.program), *self.arguments], stdin=subprocess.DEVNULL,
            stdout=self._out if stdout is None else stdout, stderr=self._err if stderr is None else stderr,
            env=_environment(env), preexec_fn=prepare)
        self.pid = self._process.pid
        _running.add(self)
        if wait and not self._foreign_stdout:
            count = listening if listening is not None else len(services) or len(SERVICES)
            try:
                self.wait_until(lambda: len(self.listening()) >= count, f"{count} listeners")
                if env and "LD_PRELOAD" in env:
                    self._is_preloaded(env["LD_PRELOAD"])
            except BaseException:
                self.kill()
                raise

    def _is_preloaded(self, path: str) -> None:
        """ld.so only warns. A server that is linked statically has none, and no warning."""
        try:
            maps = (Path("/proc") / str(self.pid) / "maps").read_bytes()
        except OSError:                    # it has ended, or they are not for us to read
            return
        if maps and b"/" + os.fsencode(os.path.basename(path)) not in maps:
            kind = Unavailable if SANITIZED or self.variant.foreign else RuntimeError
            raise kind(f"{path} was not loaded into {self.variant.program}: no call of it fails "
                       "on demand" + self.tail())

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    # What it says

    def read(self) -> None:
        """Takes in what was narrated since."""
        until = os.fstat(self._out.fileno()).st_size      # and no further: it may write on and on
        while self._read < until:
            chunk = os.pread(self._out.fileno(), min(1 << 20, until - self._read), self._read)
            self._read += len(chunk)
            *lines, self._part = (self._part + chunk).split(b"\n")
            for line in lines:
                try:
                    event = parse(line.decode("latin-1"))
                except Malformed as wrong:
                    self.malformed.append(str(wrong))
                else:
                    self.events.append(event)
                    if self.watcher:
                        self.watcher(event)

    def mark(self) -> int:
        """Here and now, for `after=`."""
        self.read()
        return len(self.events)

    def all(self, verb: str, *, after: int = 0, **fields: Any) -> list[Event]:
        """All such lines so far."""
        self.read()
        return [event for event in self.events[after:] if event.matches(verb, fields)]

    def wait_for(self, verb: str, *, after: int = 0, seconds: float = DEADLINE,
                 **fields: Any) -> Event:
        """The first such line; waits for it if need be. A field may be a function: bytes=bool."""
        found: list[Event] = []
        seen = after

        def look() -> bool:
            nonlocal seen
            self.read()
            for event in self.events[seen:]:
                seen += 1
                if event.matches(verb, fields):
                    found.append(event)
                    return True
            return False

        wanted = " ".join([verb, *(f"{k}={v}" for k, v in fields.items())])
        self.wait_until(look, f"the line: {wanted}", seconds)
        return found[0]

    def wait_until(self, condition: Callable[[], bool], what: str,
                   seconds: float = DEADLINE) -> None:
        """Until condition() holds: a line, a descriptor count, whatever has no event of its own."""
        until = time.monotonic() + seconds
        pause = 0.0002
        while not condition():
            if self.ended():
                if condition():            # it may have held just before the end
                    return
                raise Late(f"{self.variant.name} ended with {self.status} before {what}"
                           + self.tail())
            if time.monotonic() > until:
                raise Late(f"{self.variant.name}: {seconds:g} s, and not {what}" + self.tail())
            time.sleep(pause)
            pause = min(pause * 1.5, 0.01)

    def tail(self, lines: int = 12) -> str:
        """How the narration ends, for a message."""
        self.read()
        text = "".join("\n    " + event.line for event in self.events[-lines:])
        text += "".join("\n    (malformed) " + line for line in self.malformed[-3:])
        return text + "".join("\n    (stderr) " + line for line in
                              self.stderr().splitlines()[-40:])

    def stderr(self) -> str:
        size = os.fstat(self._err.fileno()).st_size
        return os.pread(self._err.fileno(), size, 0).decode("utf-8", "replace")

    def narration(self) -> str:
        """All of it, as it stands."""
        size = os.fstat(self._out.fileno()).st_size
        return os.pread(self._out.fileno(), size, 0).decode("latin-1")

    # Where it is to be found

    def listening(self, service: str = "") -> list[Event]:
        self.read()
        return [event for event in self.events if event.verb == "listen"
                and service in ("", event["service"])]

    def address(self, service: str = "", index: int = 0) -> tuple[str, int]:
        """Host and port of its (first) listener for that service."""
        host, _, port = self.listening(service)[index]["address"].rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def clock(self) -> float:
        """When it started, on the clock that time.monotonic() reads."""
        return self.wait_for("start")["clock"]

    def accepted(self, client: "Client") -> Event:
        """The accept line of that client; waits for it."""
        return self.wait_for("accept", service=client.service, peer=client.peername)

    def closed(self, client: "Client") -> Event:
        """The close line of that client; waits for it."""
        accepted = self.accepted(client)
        return self.wait_for("close", after=self.events.index(accepted), fd=accepted["fd"])

    # What it costs

    def pause(self) -> None:
        """SIGSTOP: it stops where it is, and what clients do meanwhile has come all at once."""
        self.send_signal(signal.SIGSTOP)
        self.wait_until(lambda: self.state() == "T", "being stopped")

    def go_on(self) -> None:
        self.send_signal(signal.SIGCONT)

    def stats(self) -> Event:
        """Its counters, now."""
        mark = self.mark()
        self.send_signal(signal.SIGUSR1)
        return self.wait_for("stats", after=mark)

    def cpu(self) -> float:
        """Seconds of CPU used so far."""
        try:
            nanoseconds = (Path("/proc") / str(self.pid) / "schedstat").read_text().split()[0]
            return int(nanoseconds) / 1e9
        except OSError:
            words = (Path("/proc") / str(self.pid) / "stat").read_text().rpartition(")")[2].split()
            return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def idle(self, seconds: float) -> dict[str, Any]:
        """What it does while nobody asks anything of it: a window to look through.

        "asleep": it used no CPU at all. That is exact on a busy machine, too: a server that sleeps
        is not woken, so there is nothing to run. "cpu_share" is told, and judges nothing: a server
        that never sleeps gets as much of a CPU as the others leave it.
        """
        def settled() -> bool:             # what it was asked last is done
            used = self.cpu()
            time.sleep(0.005)
            return self.state() == "S" and self.cpu() == used

        until = time.monotonic() + (0 if self.variant.stage == 2 else 5)
        while not settled() and time.monotonic() < until:
            pass
        used, began = self.cpu(), time.monotonic()
        time.sleep(seconds)
        used, passed = self.cpu() - used, time.monotonic() - began
        return {"asleep": used == 0, "cpu_share": round(used / passed, 3),
                "seconds": round(passed, 3)}

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
        status = (Path("/proc") / str(self.pid) / "status").read_text()
        found = re.search(rf"^{which}:\s+(\d+) kB", status, re.M)
        return int(found[1]) * 1024 if found else 0

    def state(self) -> str:
        """R running, S asleep, T stopped, as ps has it."""
        words = (Path("/proc") / str(self.pid) / "stat").read_text().rpartition(")")[2].split()
        return words[0]

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
        if not _libc or not hasattr(os, "pidfd_open"):
            raise Unavailable("nobody can look at another process' sockets here")
        pidfd = os.pidfd_open(self.pid)
        copy = _libc.syscall(438, pidfd, fd, 0)
        os.close(pidfd)
        if copy < 0:
            raise Unavailable("another process' sockets may not be looked at here")
        return socket.socket(fileno=copy)

    # How it ends

    def send_signal(self, number: int) -> None:
        if self.status is None:
            os.kill(self.pid, number)

    def ended(self) -> bool:
        if self.status is None:
            self.status = self._process.poll()
            if self.status is not None:
                _running.discard(self)
        return self.status is not None

    def wait_end(self, seconds: float = DEADLINE) -> int:
        """Waits until it has ended; its exit status."""
        if self._wait_pidfd(seconds):
            seconds = 0.1
        if not self.ended():
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                raise Late(f"{self.variant.name} did not end" + self.tail()) from None
            self.ended()
        self.read()
        assert self.status is not None
        return self.status

    def _wait_pidfd(self, seconds: float) -> bool:
        """Waits until it has ended and reaps nothing; False if this system cannot do that."""
        if self.ended() or not hasattr(os, "pidfd_open"):
            return False
        try:
            pidfd = os.pidfd_open(self.pid)
        except OSError:
            return False
        _poll_one(pidfd, select.POLLIN, seconds)
        os.close(pidfd)
        return True

    def stop(self, number: int = signal.SIGTERM, seconds: float = DEADLINE) -> Stopped:
        """Sends the signal, and waits until it has ended."""
        if not self.ended():
            self.used = self.cpu()
        queued = _queued(self.pid) + _queued(os.getpid())
        began = time.monotonic()
        self.send_signal(number)
        self._wait_pidfd(seconds)
        taken = time.monotonic() - began
        if not self.ended():
            queued = _queued(self.pid) + _queued(os.getpid()) - queued
        status = self.wait_end(seconds)
        last = self.events[-1] if self.events and self.events[-1].verb == "stats" else None
        return Stopped(status, last, max(0.0, taken - queued))

    def kill(self) -> None:
        """Without ceremony, and whatever state it is in."""
        if not self.ended():
            self._process.kill()
            self._process.wait()
            self.ended()

    def complaints(self) -> list[str]:
        """What is wrong with how it ended and with what it said; for after the end."""
        self.read()
        wrong = list(self.malformed)
        if self._part:
            wrong.append(f"the last line has no end: {self._part!r}")
        if self.status != 0:
            wrong.append(f"exit status {self.status}, not 0")
        if self.stderr():
            wrong.append("on stderr: " + self.stderr())
        if not self._foreign_stdout:
            wrong += complaints(self.events, stage=self.variant.stage, arguments=self.arguments)
            start = self.events[0] if self.events else None
            if start and start.verb == "start" and (
                    start["pid"] != self.pid or not -0.1 < start["clock"] - self.began < 60):
                wrong.append(f"pid {self.pid}, started at {self.began:.3f}: {start.line}")
            last = self.events[-1] if self.events else None
            if last and last.verb == "stats" and last["clients"] != 0:
                wrong.append(f"clients are left at the end: {last.line}")
        return wrong


def _queued(pid: int) -> float:
    """Seconds that a process has stood in line for a CPU, as far as the system tells."""
    try:
        return int((Path("/proc") / str(pid) / "schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _poll_one(fd: int, events: int, seconds: float) -> int:
    """What of `events` is there within that time; 0 if nothing."""
    poll = select.poll()
    poll.register(fd, events)
    found = poll.poll(max(0, int(seconds * 1000 + 0.999)))
    return found[0][1] if found else 0


# --- the clients ----------------------------------------------------------------------------

@dataclass(frozen=True)
class Mark:
    """What a client did: from when to when (monotonic), what, how many bytes, the first 40."""
    since: float
    at: float
    what: str                  # connect send recv eof reset half_close urgent close wait note
    bytes: int = 0
    text: str = ""


class Client:
    """One connection. Whatever would wait for ever raises Late instead."""

    def __init__(self, address: tuple[str, int], name: str = "A", service: str = "", *,
                 rcvbuf: int = 0, sndbuf: int = 0, mss: int = 0, connect: bool = True,
                 seconds: float = DEADLINE,
                 watcher: Optional[Callable[["Client", Mark], None]] = None) -> None:
        """rcvbuf, mss: a small window, set before the connection is, so that little fits into it.

        A small mss goes with a small rcvbuf: on loopback a segment is 64 KiB otherwise, and the
        kernel takes one whole, however small the window.
        """
        self.name, self.service, self.address = name, service, address
        self.marks: list[Mark] = []
        self.sent = self.received = 0      # bytes so far
        self.ended = ""                    # eof, reset, closed; broken: send failed first
        self.peername = ""                 # our end, as the server names it; unique per service:
        #                                    a port may lead to several listeners at a time
        self._in = bytearray()             # came in, not asked for yet
        self._out = memoryview(b"")        # to be sent while pumping
        self._watcher = watcher
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        # What we send goes out at once, not when the piece before it has been acknowledged.
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        if sndbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
        if mss:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, mss)
        self._began = time.monotonic()
        self.sock.connect_ex(address)
        if connect:
            self.connected(seconds)

    def connected(self, seconds: float = DEADLINE) -> None:
        """Waits until the connection stands; OSError if it is refused."""
        if not _poll_one(self.sock.fileno(), select.POLLOUT, seconds):
            raise Late(f"client {self.name} is not connected to {self.address}")
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self.sock.close()
            raise OSError(error, f"client {self.name}: {os.strerror(error)}")
        host, port = self.sock.getsockname()[:2]
        self.peername = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._note("connect", since=self._began)

    def fileno(self) -> int:
        return self.sock.fileno()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Out

    def send(self, data: bytes, seconds: float = DEADLINE) -> int:
        """Sends all of it, reading nothing meanwhile; how much went out before a peer broke off."""
        before = self.sent
        self._out = memoryview(bytes(data))
        pump([self], lambda c: not c._out, seconds, reading=False, what=f"{len(data)} bytes sent")
        return self.sent - before

    def send_some(self, data: bytes) -> int:
        """Sends what the kernel takes now, and no more."""
        self._out = memoryview(bytes(data))
        before = self.sent
        while self._out and self._push():
            pass
        self._out = memoryview(b"")
        return self.sent - before

    def urgent(self, data: bytes = b"!") -> None:
        """Sends urgent data: the last byte of it is, as TCP has it."""
        self.sock.send(data, socket.MSG_OOB)
        self.sent += len(data)
        self._note("urgent", len(data), data)

    def half_close(self) -> None:
        """No more from us; we still read."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass                           # the peer was faster
        self._note("half_close")

    def reset(self) -> None:
        """Breaks the connection off: the peer gets a reset, not an end of input."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
        self.ended = "closed"
        self._note("reset")

    def close(self) -> None:
        if self.ended != "closed":
            self.sock.close()
            self.ended = "closed"
            self._note("close")

    # In

    def recv(self, size: int, seconds: float = DEADLINE) -> bytes:
        """Exactly that many bytes; fewer only if the peer ends first."""
        pump([self], lambda c: len(c._in) >= size, seconds, what=f"{size} bytes")
        return self._take(min(size, len(self._in)))

    def recv_line(self, seconds: float = DEADLINE) -> bytes:
        """One line with its newline; without it only if the peer ends first; b"" if it has."""
        pump([self], lambda c: b"\n" in c._in, seconds, what="a line")
        end = self._in.find(b"\n")
        return self._take(end + 1 if end >= 0 else len(self._in))

    def recv_lines(self, count: int, seconds: float = DEADLINE) -> list[bytes]:
        return [self.recv_line(seconds) for _ in range(count)]

    def recv_until_eof(self, seconds: float = DEADLINE) -> bytes:
        """All there is; .ended says how it ended."""
        pump([self], lambda c: False, seconds, what="the end")
        return self._take(len(self._in))

    def exchange(self, data: bytes, size: Optional[int] = None, *, half_close: bool = False,
                 late: bool = False, seconds: float = DEADLINE) -> bytes:
        """Sends `data` and receives `size` bytes (as many as sent) at the same time.

        half_close: no more from us as soon as all is sent, and all that comes until the end.
        late: reads only when nothing more can be sent, so that as much as possible is queued.
        """
        size = len(data) if size is None else size
        self._out = memoryview(bytes(data))
        until = time.monotonic() + seconds
        while late and self._out and not self.ended:
            if not self._push() and not _poll_one(self.fileno(), select.POLLOUT, 0.02):
                self._pull(time.monotonic())
            if time.monotonic() > until:
                raise Late(f"{seconds:g} s, and not {len(data)} bytes sent")
        if half_close:
            pump([self], lambda c: not c._out, seconds, what=f"{len(data)} bytes sent")
            self.half_close()
            return self.recv_until_eof(seconds)
        pump([self], lambda c: not c._out and len(c._in) >= size, seconds,
             what=f"{size} bytes back")
        return self._take(min(size, len(self._in)))

    def answered(self, seconds: float) -> bool:
        """Whether anything comes (bytes or the end) within that time: a window to look through."""
        if self._in or self.ended:
            return True
        since = time.monotonic()
        found = bool(_poll_one(self.sock.fileno(), select.POLLIN, seconds))
        if not found and seconds:
            self._note("wait", since=since, text="no answer")
        return found

    # Inside

    def _take(self, size: int) -> bytes:
        taken = bytes(self._in[:size])
        del self._in[:size]
        return taken

    def _push(self) -> bool:
        """Sends once; False if it would have to wait."""
        try:
            count = self.sock.send(self._out[:1 << 20])
        except BlockingIOError:
            return False
        except OSError:                    # EPIPE, ECONNRESET: what was still coming is read yet
            self._out = memoryview(b"")
            self._note("reset", text="broke off while sending")
            self.ended = self.ended or "broken"
            return False
        self._note("send", count, bytes(self._out[:40]))
        self.sent += count
        self._out = self._out[count:]
        return True

    def _pull(self, since: float) -> bool:
        """Receives once; False if there is nothing."""
        try:
            data = self.sock.recv(1 << 18)
        except BlockingIOError:
            return False
        except OSError:
            self.ended = "reset"
            self._note("reset", since=since)
            return False
        if not data:
            self.ended = "eof"
            self._note("eof", since=since)
            try:                           # as clients do: when the server has ended, we end, too
                self.sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            return False
        self.received += len(data)
        self._in += data
        self._note("recv", len(data), data[:40], since=since)
        return True

    def _note(self, what: str, count: int = 0, data: bytes = b"", *, since: float = 0.0,
              text: str = "") -> None:
        now = time.monotonic()
        mark = Mark(since or now, now, what, count, text or data[:40].decode("latin-1"))
        self.marks.append(mark)
        if self._watcher:
            self._watcher(self, mark)


def pump(clients: Iterable[Client], done: Callable[[Client], bool], seconds: float = DEADLINE, *,
         reading: bool = True, what: str = "done") -> None:
    """For all these clients at once: sends what is to be sent, reads what comes (if `reading`),
    until each is done, or its peer has ended. One thread, as many clients as you like."""
    began = time.monotonic()
    waiting: dict[int, Client] = {}
    poll = select.poll()

    def interest(client: Client) -> int:
        return (select.POLLIN if reading else 0) | (select.POLLOUT if client._out else 0)

    for client in clients:
        while client._out and client._push():        # at once, as long as it goes
            pass
        if client.ended in ("eof", "reset", "closed") or done(client):
            continue
        if client.ended == "broken" and not reading:
            continue
        waiting[client.fileno()] = client
        poll.register(client.fileno(), interest(client))
    while waiting:
        left = began + seconds - time.monotonic()
        ready = poll.poll(max(0, int(left * 1000 + 0.999)))
        if not ready and left <= 0:
            some = ", ".join(f"{c.name} (got {bytes(c._in[-60:])!r})" for c in
                             list(waiting.values())[:5])
            raise Late(f"{seconds:g} s, and not {what}: {len(waiting)} clients: {some}")
        for fd, events in ready:
            client = waiting[fd]
            had_out = bool(client._out)
            if events & (select.POLLOUT | select.POLLERR | select.POLLHUP) and client._out:
                client._push()
            if reading and events & (select.POLLIN | select.POLLERR | select.POLLHUP):
                client._pull(max(began, client.marks[-1].at if client.marks else began))
            over = client.ended in ("eof", "reset") or (client.ended and not reading)
            if over or done(client):
                poll.unregister(fd)
                del waiting[fd]
            elif had_out != bool(client._out):
                poll.modify(fd, interest(client))


class Crowd(list):
    """Many clients, driven at once by one thread."""

    def send(self, data: Callable[[int], bytes], seconds: float = DEADLINE) -> None:
        """Client i sends data(i); all at the same time."""
        for i, client in enumerate(self):
            client._out = memoryview(data(i))
        pump(self, lambda c: not c._out, seconds, reading=False, what="all sent")

    def recv(self, size: Callable[[int], int], seconds: float = DEADLINE) -> list[bytes]:
        """Client i receives exactly size(i) bytes; all at the same time."""
        wanted = {client: size(i) for i, client in enumerate(self)}
        pump(self, lambda c: len(c._in) >= wanted[c], seconds, what="all received")
        return [client._take(min(wanted[client], len(client._in))) for client in self]

    def recv_lines(self, count: int = 1, seconds: float = DEADLINE) -> list[list[bytes]]:
        """Every client receives that many lines."""
        pump(self, lambda c: c._in.count(b"\n") >= count, seconds, what=f"{count} lines each")
        return [client.recv_lines(count) for client in self]

    def exchange(self, data: Callable[[int], bytes], seconds: float = DEADLINE) -> list[bytes]:
        """Client i sends data(i) and receives as many bytes; all at the same time."""
        wanted = {}
        for i, client in enumerate(self):
            client._out = memoryview(data(i))
            wanted[client] = len(client._out)
        pump(self, lambda c: not c._out and len(c._in) >= wanted[c], seconds, what="all back")
        return [client._take(min(wanted[client], len(client._in))) for client in self]

    def half_close(self) -> None:
        for client in self:
            client.half_close()

    def recv_until_eof(self, seconds: float = DEADLINE) -> list[bytes]:
        """All that each client gets until its server ends."""
        pump(self, lambda c: False, seconds, what="all ended")
        return [client._take(len(client._in)) for client in self]

    def close(self) -> None:
        for client in self:
            client.close()


# --- one scenario against one variant -------------------------------------------------------

class Run:
    """What a scenario gets: it starts servers and connects clients, and keeps them for later."""

    def __init__(self, variant: Variant, services: Sequence[str] = ("echo",),
                 seed: Optional[int] = None,
                 watch: Optional[Callable[[str, Any], None]] = None) -> None:
        """watch: is called with ("server", Event), ("client", (Client, Mark)) and ("say", text)
        as they become known; the narration becomes known whenever somebody waits for a line."""
        self.variant = variant
        self.services = tuple(services)
        self.seed = random.SystemRandom().randrange(10 ** 9) if seed is None else seed
        self.random = random.Random(f"{self.seed} {variant.id}")
        self.servers: list[Server] = []
        self.clients: list[Client] = []
        self.said: list[tuple[float, str]] = []
        self.began = time.monotonic()
        self._watch = watch

    def start(self, *services: str, args: Sequence[str] = (), **how: Any) -> Server:
        """Starts a server with these services (the scenario's, if none is named); see Server."""
        server = Server(self.variant, services or self.services, args, **how)
        self.servers.append(server)
        if self._watch:
            watch = self._watch
            for event in server.events:
                watch("server", event)
            server.watcher = lambda event: watch("server", event)
        return server

    @property
    def server(self) -> Server:
        """The server started last; starts the scenario's, if there is none yet."""
        return self.servers[-1] if self.servers else self.start()

    def connect(self, service: str = "", name: str = "", *, server: Optional[Server] = None,
                index: int = 0, **how: Any) -> Client:
        """A new client of that service (the scenario's first, if none is named); see Client."""
        server = server or self.server
        service = service or self.services[0]
        watcher = None
        if self._watch:
            watch = self._watch
            def watcher(client: Client, mark: Mark) -> None:  # noqa: E306
                for each in self.servers:
                    each.read()
                watch("client", (client, mark))
        client = Client(server.address(service, index), name or _letters(len(self.clients)),
                        service, watcher=watcher, **how)
        self.clients.append(client)
        return client

    def crowd(self, count: int, service: str = "", *, seconds: float = DEADLINE,
              **how: Any) -> Crowd:
        """That many clients, connecting all at once."""
        crowd = Crowd(self.connect(service, connect=False, **how) for _ in range(count))
        until = time.monotonic() + seconds
        for client in crowd:
            client.connected(max(0.0, until - time.monotonic()))
        return crowd

    def until(self, condition: Callable[[], Any], quiet: float = 0.25,
              nap: Callable[[float], Any] = time.sleep) -> bool:
        """True once the condition holds, False if the server has slept `quiet` seconds before.

        It has to sleep that long without a break: so a window that is short on an idle machine
        is long enough on a busy one, too, where a server stands in line for the CPU; that is no
        sleep.
        """
        server, began, asleep, pause = self.server, time.monotonic(), 0.0, 0.0005
        while not condition():
            looked = time.monotonic()
            if asleep >= quiet or looked > began + DEADLINE or server.ended():
                return False
            slept = server.state() == "S"
            nap(pause)
            slept = slept and server.state() == "S"
            asleep = asleep + time.monotonic() - looked if slept else 0.0
            pause = min(pause * 2, 0.02)
        return True

    def answers(self, clients: Iterable[Client], quiet: float = 0.25) -> int:
        """How many of these clients have something to read, once all have, or none will."""
        waiting = list(clients)
        count = len(waiting)
        since = time.monotonic()

        def silent(client: Client) -> bool:
            if not client.answered(0):
                return True
            if not client._in and not client.ended:
                client._pull(since)        # now, so that its mark says when it came
            return False

        def all_answered() -> bool:
            waiting[:] = [client for client in waiting if silent(client)]
            return not waiting

        if not self.until(all_answered, quiet, lambda pause: _poll_one(
                waiting[0].fileno(), select.POLLIN, pause)):
            for client in waiting:
                client._note("wait", since=since, text="no answer")
        return count - len(waiting)

    def answered(self, client: Client, quiet: float = 0.25) -> bool:
        """Whether that client gets something to read before the server has slept that long."""
        return self.answers([client], quiet) == 1

    def hard_limit(self, need: int) -> int:
        """How many descriptors a process may have here; Unavailable if that is less than needed."""
        if _HARD != resource.RLIM_INFINITY and _HARD < need:
            raise Unavailable(f"a process may have {_HARD} descriptors here, {need} are needed")
        return min(_HARD, 1 << 20) if _HARD != resource.RLIM_INFINITY else 1 << 20

    def say(self, text: str) -> None:
        """Tells what happens now, in plain words, for those who watch."""
        if self._watch:                    # which may take its time
            self._watch("say", text)
        self.said.append((time.monotonic(), text))

    def finish(self, *, descriptors: bool = True) -> list[str]:
        """Ends all, and says what was wrong about how: what must hold after every scenario."""
        wrong: list[str] = []
        for client in self.clients:
            client.close()
        for server in self.servers:
            if not server.ended():
                if descriptors:
                    wrong += _leaks(server)
                try:
                    server.stop(seconds=STOP_DEADLINE)
                except Late as late:
                    wrong.append(str(late))
            wrong += server.complaints()
        return wrong

    def close(self) -> None:
        for client in self.clients:
            client.close()
        for server in self.servers:
            server.kill()


def _leaks(server: Server) -> list[str]:
    """With all clients gone, the listeners are the only sockets that a server has."""
    def alone() -> bool:
        return server.sockets() <= len(server.listening())
    try:
        server.wait_until(alone, "all clients' sockets closed", LEAK_DEADLINE)
    except (Late, OSError) as late:
        return [f"{late}\n    open: {sorted(server.descriptors().items())}"
                if not server.ended() else str(late)]
    return []


def _letters(number: int) -> str:
    """A, B, ... Z, AA, AB ..."""
    text = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(65 + rest) + text
    return text


@dataclass
class Record:
    """What came of a scenario: what it observed, what was wrong, and who did what when."""
    scenario: str
    variant: Variant
    seed: int
    observed: dict[str, Any] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    seconds: float = 0.0
    timeline: dict[str, Any] = field(default_factory=dict)


def play(scenario: Any, variant: Variant, *, seed: Optional[int] = None,
         watch: Optional[Callable[[str, Any], None]] = None, timeline: bool = False) -> Record:
    """Plays it, and ends everything that it started, come what may."""
    run = Run(variant, scenario.services, seed, watch)
    record = Record(scenario.name, variant, run.seed)
    try:
        record.observed = scenario.function(run)
        record.complaints = run.finish(descriptors=scenario.descriptors)
    finally:
        run.close()
        record.seconds = time.monotonic() - run.began
        if timeline:
            record.timeline = dict(timeline_of(run))
    return record


def timeline_of(run: Run) -> Iterator[tuple[str, Any]]:
    """Everybody's lane, fit for JSON; all times are monotonic seconds."""
    yield "began", run.began
    yield "said", [{"at": at, "text": text} for at, text in run.said]
    yield "clients", [{
        "name": client.name, "service": client.service, "peer": client.peername,
        "marks": [vars(mark) for mark in client.marks]} for client in run.clients]
    yield "servers", [{
        "stage": server.variant.name, "pid": server.pid, "arguments": server.arguments,
        "clock": server.clock if server.events else server.began, "cpu": server.used,
        "events": [{
            "at": round((server.clock if server.events else server.began) + event.time, 6),
            "verb": event.verb, "line": event.line,
            "fields": {key: value.decode("latin-1") if isinstance(value, bytes) else value
                       for key, value in event.fields.items()}} for event in server.events]}
        for server in run.servers]
