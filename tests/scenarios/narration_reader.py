"""The narration's reader: gone, asleep, or never there."""

import fcntl
import os
import resource
import select
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

from tests.harness import DEADLINE, LOOPBACK, Client, Late, anything, at_least, free_port
from tests.harness.faults import environment
from tests.harness.narration import Malformed, parse
from tests.scenarios import scenario

WITHOUT_STDOUT = (">&-", ">&- 2>&-", "<&- >&- 2>&-")
STOPS = (signal.SIGINT, signal.SIGTERM)


def _up(run, server, port):
    """A client of a server whose narration cannot be read."""
    found = []

    def connected():
        try:
            found.append(Client((LOOPBACK, port), "A", "echo"))
        except ConnectionRefusedError:
            return False
        return True

    server.wait_until(connected, "a connection")
    run.clients.append(found[0])
    return found[0]


@scenario("Started without stdout, stderr or stdin: does it serve?", expect={
    "all": {closed: [True, at_least(5), 0, ""] for closed in WITHOUT_STDOUT},
    "2": {closed: [True, anything, 0, ""] for closed in WITHOUT_STDOUT}})
def without_stdout(run):
    result = {}
    for closed in WITHOUT_STDOUT:
        port = free_port()
        shell = replace(run.variant, program=Path("/bin/sh"), arguments=(
            "-c", f'exec "$0" "$@" {closed}', str(run.variant.program), *run.variant.arguments))
        ours, run.variant = run.variant, shell
        try:
            server = run.start("echo", ports=[port], stdout=os.open(os.devnull, os.O_WRONLY))
        finally:
            run.variant = ours
        client = _up(run, server, port)
        back = client.exchange(b"hello\n" * 10)
        asleep = 0                                 # or does it talk to itself?
        for _ in range(10):
            time.sleep(0.01)
            asleep += server.state() == "S"
        result[closed] = [back == b"hello\n" * 10, asleep, server.stop().status, server.stderr()]
        client.close()
    return result


class Reader:
    """The other end of a server's stdout, read only when asked to."""

    def __init__(self, run, *services, terminal=False, **how):
        if terminal:
            ours, theirs = os.openpty()
        else:
            ours, theirs = os.pipe()
            fcntl.fcntl(ours, getattr(fcntl, "F_SETPIPE_SZ", 1031), 16384)    # soon full
        self.fd, self.text = ours, b""
        try:
            self.server = run.start(*services, stdout=theirs, **how)
        finally:
            os.close(theirs)
        self.read_until(lambda: self.text.count(b" listen ") == len(services)
                        and self.text.endswith(b"\n"), "listening")
        self.port = int(self.text.partition(b" listen ")[2].partition(b"\n")[0].rpartition(b":")[2])

    def read(self, seconds):
        """Reads once; False if nothing comes in that time, or never again."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.fd, 1 << 16)
        except OSError:                            # a terminal's way to say that nobody has it open
            return False
        self.text += data.replace(b"\r", b"")      # which a terminal puts before each \n
        return bool(data)

    def read_until(self, done, what):
        until = time.monotonic() + DEADLINE
        while not done():
            left = until - time.monotonic()
            if left < 0 or not self.read(left):
                raise Late(f"the narration does not say that it is {what}: {self.text[-200:]!r}")

    def events(self):
        """What was narrated; a line that breaks the grammar is one with the verb `malformed`."""
        lines = self.text.decode("latin-1").split("\n")
        found = []
        for line in lines[:-1]:
            try:
                found.append(parse(line))
            except Malformed:
                found.append(replace(parse("   0.000 lost    lines=1"), verb="malformed"))
        return found

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


@scenario("The narration's reader leaves: does the server go on?", services=("echo",), expect={
    "all": {"served": 20, "after_sigusr1": "again\n", "status": 0,
            "lines_on_stderr": 1, "says_why": True}})
def reader_leaves(run):
    reader = Reader(run, "echo")
    server = reader.server
    reader.close()
    client = _up(run, server, reader.port)
    back = [client.exchange(b"%d\n" % i) == b"%d\n" % i for i in range(20)]
    server.send_signal(signal.SIGUSR1)
    again = client.exchange(b"again\n").decode()
    stopped = server.stop()
    run.servers.remove(server)                     # its stderr is not empty, and need not be
    return {"served": sum(back), "after_sigusr1": again, "status": stopped.status,
            "lines_on_stderr": server.stderr().count("\n"),
            "says_why": "EPIPE" in server.stderr()}


@scenario("The narration's reader leaves, and nobody reads stderr either: does the server go on?",
          expect={
    "all": {"served": 20, "status": 0}})
def both_readers_gone(run):
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    while True:                                    # until not a byte more fits
        try:
            os.write(theirs, b"x" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(theirs, True)
    reader = Reader(run, "echo", stderr=theirs)
    server = reader.server
    os.close(theirs)
    client = _up(run, server, reader.port)
    reader.close()
    back = [client.exchange(b"%d\n" % i) == b"%d\n" % i for i in range(20)]
    os.close(ours)
    run.servers.remove(server)                     # there is no narration to judge it by
    return {"served": sum(back), "status": server.stop().status}


@scenario("The narration goes to a file that must not grow any more: does the server go on?",
          expect={
    "all": {"served": 20, "status": 0, "says_why": True}})
def file_is_full(run):
    server = run.server
    client = run.connect()
    client.exchange(b"hello\n")
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (len(server.narration()),) * 2)
    back = [client.exchange(b"%d\n" % i) == b"%d\n" % i for i in range(20)]
    run.servers.remove(server)                     # it has something on its stderr
    return {"served": sum(back), "status": server.stop().status,
            "says_why": "EFBIG" in server.stderr()}


@scenario("The narration's reader hangs: who waits for it?", services=("echo",), expect={
    "all": {
        reader: {"right_answers": 1000, "served_after_sigusr1": [True, True, True],
                 "served_in_a_storm": True, "lines_lost": at_least(50), "and_no_more": True,
                 "waits_once": True, "malformed": 0,
                 "goes_on_narrating": True, "last_line": "stats", "status": 0}
        for reader in ("pipe", "terminal", "nameless")}})
def reader_hangs(run):
    return {"pipe": _reader_hangs(run), "terminal": _reader_hangs(run, terminal=True),
            # As in a container, where the terminal's name leads nowhere.
            "nameless": _reader_hangs(run, terminal=True,
                                      env=environment(run.variant, "ttyname ENODEV 1 0 99"))}


def _reader_hangs(run, **how):
    reader = Reader(run, "echo", **how)
    server = reader.server
    client = _up(run, server, reader.port)
    right = rounds = 0
    while rounds < 1000:                           # a terminal keeps 64 KiB
        right += client.exchange(b"%d\n" % rounds) == b"%d\n" % rounds
        rounds += 1
    # Asked for its counters, it waits a moment for room, since they were asked for. Asked again
    # and again meanwhile, it must not wait for ever. (A full pipe takes some more now and then.)
    served = []
    for times in (50, 2, 3):
        for _ in range(times):
            server.send_signal(signal.SIGUSR1)
            time.sleep(0.004)
        client.send(b"still here?\n")
        served.append(bool(select.select([client], [], [], 2)[0]))
        if not served[-1]:
            server.send_signal(signal.SIGUSR1)     # wakes it
        client.recv(12)
    # After one timeout it does not wait again: these do not take 200 ms each.
    began = time.monotonic()
    for _ in range(20):
        server.send_signal(signal.SIGUSR1)
        client.exchange(b"and?\n")
    again = time.monotonic() - began
    over, blown = threading.Event(), []

    def blow():
        while not over.wait(0.02):
            server.send_signal(signal.SIGUSR1)
            blown.append(1)

    blowing = threading.Thread(target=blow, daemon=True)
    blowing.start()
    try:
        while len(blown) < 20:
            client.exchange(b"again\n")
    finally:
        over.set()
        blowing.join()
    while reader.read(0):
        pass
    heard = len(reader.events())
    client.exchange(b"and now?\n")
    reader.read(5)
    client.close()
    reader.read_until(lambda: any(event.verb == "close" for event in reader.events()[heard:]),
                      "closing")
    stopped = server.stop()
    while reader.read(1):
        pass
    reader.close()
    events = reader.events()
    lost = [event["lines"] for event in events if event.verb == "lost"]
    last = events[-1]                              # a line for each call and signal, and some more
    most = sum(last.get(name, 0) for name in ("waits", "accept", "recv", "send")) + len(blown) + 200
    most -= last.get("would_block", 0)
    return {"right_answers": right, "served_after_sigusr1": served,
            "served_in_a_storm": len(blown) >= 20, "waits_once": again < 3,
            "lines_lost": sum(lost), "and_no_more": sum(lost) <= most,
            "malformed": sum(event.verb == "malformed" for event in events),
            "goes_on_narrating": any(event.verb == "recv" for event in events[heard:]),
            "last_line": events[-1].verb, "status": stopped.status}


@scenario("The narration's reader hangs, and a stop comes: how soon does the server end?",
          services=("echo",), expect={
    "all": {"right_answers": 200, "status": 0,
  "within_a_second": True}})
def stop_while_reader_hangs(run):
    reader = Reader(run, "echo")
    client = _up(run, reader.server, reader.port)
    right = sum(client.exchange(b"%d\n" % i) == b"%d\n" % i for i in range(200))
    stopped = reader.server.stop(run.random.choice(STOPS))
    reader.close()
    return {"right_answers": right, "status": stopped.status,
            "within_a_second": stopped.seconds < 1}
