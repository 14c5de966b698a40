"""A running server: its narration, read while it grows; its counters; how it ends."""

from __future__ import annotations

import atexit
import os
import resource
import select
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Callable, Iterator, Optional, Sequence

from tests.harness.client import Client
from tests.harness.narration import Event, Malformed, complaints, parse
from tests.harness.process import LIBC, Process, poll_one
from tests.harness.variants import (DEADLINE, NOT_HERE, SANITIZED, SERVICES, Late,
                                    Unavailable, Variant)

most_narration = 64 << 20              # bytes: who narrates more falls silent (EFBIG)

# Our own descriptors are many; the servers get the limits that the tests were started with.
SOFT, HARD = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (HARD, HARD))

# A shell starts what it puts into the background with SIGINT and SIGQUIT ignored, and that is
# inherited: no server could then be stopped by one before it has a handler of its own.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGQUIT) == signal.SIG_IGN:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@dataclass(frozen=True)
class Stopped:
    status: int                            # exit status; negative: killed by that signal
    stats: Optional[Event]                 # the last line, if it was stats
    seconds: float                         # from the signal to the end, queueing for a CPU aside


_running: set["Server"] = set()


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


def narrates(variant: Variant) -> bool:
    """Whether that program takes our command line, and begins to narrate as ours do."""
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            [str(variant.program), *variant.arguments, "-e", "0"], stdin=subprocess.DEVNULL,
            stdout=out, stderr=subprocess.STDOUT, env=_environment(None))
        until = time.monotonic() + 5
        try:
            while time.monotonic() < until and b"\n" not in os.pread(out.fileno(), 4096, 0):
                if process.poll() is not None:
                    break
                time.sleep(0.005)
        finally:
            process.kill()
            process.wait()
        first = os.pread(out.fileno(), 4096, 0).partition(b"\n")[0]
    try:
        return parse(first.decode("latin-1")).verb == "start"
    except Malformed:
        return False


class Server(Process):
    """Ends with the `with` block, the Run, or the tests, whichever is first."""

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
        soft_hard = nofile or (SOFT, HARD)
        in_main = threading.current_thread() is threading.main_thread()
        we = os.getpid()

        def prepare() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, soft_hard)
            if variant.stage == 2:         # or it takes all that other tests need: it never sleeps
                os.nice(5)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_narration, most_narration))
            if LIBC and in_main:           # PR_SET_PDEATHSIG: nobody outlives the tests
                LIBC.prctl(1, signal.SIGKILL)
                if os.getppid() != we:     # it has ended before
                    os._exit(1)

        self.began = time.monotonic()
        self._process = subprocess.Popen(
            [str(variant.program), *self.arguments], stdin=subprocess.DEVNULL,
            stdout=self._out if stdout is None else stdout,
            stderr=self._err if stderr is None else stderr,
            env=_environment(env), preexec_fn=prepare)
        super().__init__(self._process.pid)
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
            maps = self._file("maps")
        except OSError:                    # it has ended, or they are not for us to read
            return
        if maps and "/" + os.path.basename(path) not in maps:
            kind = Unavailable if SANITIZED or self.variant.foreign else RuntimeError
            raise kind(f"{path} was not loaded into {self.variant.program}: no call of it fails "
                       "on demand" + self.tail())

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

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
                if self.status == NOT_HERE:
                    raise Unavailable(self.stderr().strip())
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

    @contextmanager
    def paused(self) -> Iterator[None]:
        """SIGSTOP: what happens within the block has all happened when it goes on."""
        self.send_signal(signal.SIGSTOP)
        self.wait_until(lambda: not self.ended() and self.state() == "T", "stopped by SIGSTOP")
        try:
            yield
        finally:
            self.send_signal(signal.SIGCONT)

    def stats(self) -> Event:
        """Its counters, now."""
        mark = self.mark()
        self.send_signal(signal.SIGUSR1)
        return self.wait_for("stats", after=mark)

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

    def limit(self, which: int, soft: int) -> None:
        """Changes one of its limits (getrlimit(2)) while it runs."""
        _, hard = resource.prlimit(self.pid, which)
        resource.prlimit(self.pid, which, (soft, hard))

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
        poll_one(pidfd, select.POLLIN, seconds)
        os.close(pidfd)
        return True

    def stop(self, number: int = signal.SIGTERM, seconds: float = DEADLINE) -> Stopped:
        """Sends the signal, and waits until it has ended."""
        if not self.ended():
            self.used = self.cpu()
        ours = Process(os.getpid())
        queued = self.queued() + ours.queued()
        began = time.monotonic()
        self.send_signal(number)
        self._wait_pidfd(seconds)
        taken = time.monotonic() - began
        if not self.ended():
            queued = self.queued() + ours.queued() - queued
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
