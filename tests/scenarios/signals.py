"""Signals at every moment, and whoever reads the narration: gone, asleep, or never there."""

import fcntl
import os
import resource
import select
import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

from harness import DEADLINE, LOOPBACK, SANITIZED, Client, Late
from narration import Malformed, parse
from scenarios import scenario
from scenarios.faults import environment

STOPS = (signal.SIGINT, signal.SIGTERM)


@scenario("A storm of signals while clients talk: does every byte come back?")
def signal_storm(run):
    storm = (signal.SIGWINCH, signal.SIGURG, signal.SIGCHLD, signal.SIGUSR1, signal.SIGCONT)
    over, sent = threading.Event(), {}

    def blow():
        chance = random_of(run)
        while not over.is_set():
            number = chance.choice((*storm, signal.SIGSTOP))
            run.server.send_signal(number)
            sent[number] = sent.get(number, 0) + 1
            if number == signal.SIGSTOP:
                time.sleep(chance.uniform(0, 0.002))
                run.server.send_signal(signal.SIGCONT)
            time.sleep(chance.uniform(0, 0.001))

    crowd = run.crowd(1 if run.variant.stage == 1 else 3)
    blowing = threading.Thread(target=blow, daemon=True)
    blowing.start()
    same = 0
    try:
        until = time.monotonic() + 0.3
        rounds = 0
        while time.monotonic() < until or len(sent) < 6:
            data = [run.random.randbytes(run.random.choice((1, 100, 100000))) for _ in crowd]
            same += crowd.exchange(lambda i: data[i]) == data
            rounds += 1
    finally:
        over.set()
        blowing.join()
        run.server.send_signal(signal.SIGCONT)
    return {"all_came_back": same == rounds, "rounds": rounds,
            "signals": sum(sent.values()), "stats": len(run.server.all("stats"))}


def random_of(run):
    """A second source of randomness, for a second thread."""
    return type(run.random)(run.random.random())


def _stop_many(run, times, reach):
    """Starts servers, a few at a time, and stops each at a random moment 0 to 20 ms after it was
    started or, with reach=True, after a client has connected; what became of them."""
    result = {"stopped": 0, "too_early_to_be_caught": 0, "lost": 0, "other": []}
    slowest, left, running, told = 0.0, times, [], []
    together = 3 if run.variant.stage == 2 else 8  # each of those takes a whole CPU
    while left or running:
        while left and len(running) < together:
            left -= 1
            server = run.start(wait=False)
            running.append([server, None if reach else time.monotonic() + delay(run)])
        for entry in list(running):
            server, due = entry
            if due is None and server.listening():
                client = run.connect(server=server)
                client.send_some(b"hello\n" * run.random.randrange(3))
                entry[1] = time.monotonic() + delay(run)
            elif due is not None and time.monotonic() >= due:
                server.send_signal(run.random.choice(STOPS))
                told.append((server, time.monotonic()))
                running.remove(entry)
        time.sleep(0.0005)
    for server, since in told:
        try:
            server.wait_end()
        except Late:
            result["lost"] += 1
            server.kill()
            run.servers.remove(server)
            continue
        silent = not server.narration()
        if server.status == 0 and server.all("stats") and server.all("stop"):
            result["stopped"] += 1
            slowest = max(slowest, server.events[-1].time + server.clock - since)
        elif server.status in [-number for number in STOPS] and silent and not reach:
            result["too_early_to_be_caught"] += 1  # before main() had begun
            run.servers.remove(server)
        else:
            result["other"].append([server.status, server.narration()[-200:]])
    for client in run.clients:
        client.close()
    return {**result, "slowest": round(slowest, 3)}


def delay(run):
    return run.random.uniform(0, 0.02)


@scenario("200 stops, 0 to 20 ms after the start or after a connect: is one lost?")
def stops_at_random(run):
    times = 100
    early, late = _stop_many(run, times, False), _stop_many(run, times, True)
    return {
        "all_ended": early["stopped"] + early["too_early_to_be_caught"] == times
                     and late["stopped"] == times,
        "too_early_to_be_caught": early["too_early_to_be_caught"],
        "lost": early["lost"] + late["lost"], "other": early["other"] + late["other"],
        "slowest": max(early["slowest"], late["slowest"])}


def _flood(clients, over):
    """Sends without a pause and reads what comes, from all of them, until each has ended."""
    socks = {client.fileno(): client.sock for client in clients}
    data = bytes(65536)
    poll = select.poll()
    for fd in socks:
        poll.register(fd, select.POLLIN | select.POLLOUT)
    while socks and not over.is_set():
        for fd, events in poll.poll(100):
            try:
                if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    if not socks[fd].recv(1 << 20):
                        raise ConnectionResetError
                if events & select.POLLOUT:
                    socks[fd].send(data)
            except BlockingIOError:
                pass
            except OSError:
                poll.unregister(fd)
                del socks[fd]


@scenario("A stop while three clients flood without a pause: how soon?")
def stop_while_flooded(run):
    result = {}
    for number in STOPS:
        server = run.start()
        clients = run.crowd(3)
        over = threading.Event()
        flooding = threading.Thread(target=_flood, args=(clients, over), daemon=True)
        flooding.start()
        server.wait_until(lambda: len(server.all("send")) > 200, "a flood")
        stopped = server.stop(number)
        over.set()
        flooding.join()
        result[signal.Signals(number).name] = {
            "status": stopped.status, "within_a_second": stopped.seconds < 1,
            "stops": len(server.all("stop"))}
    return result


@scenario("Two stop signals in a row, and SIGUSR1 before, between and behind")
def stop_twice(run):
    result = {"status": [], "stops": [], "stats": [], "within_a_second": []}
    again = [(signal.SIGTERM, signal.SIGTERM)] * 8
    for numbers in (*again, (signal.SIGINT, signal.SIGTERM),
                    (signal.SIGUSR1, signal.SIGINT), (signal.SIGINT, signal.SIGUSR1),
                    (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)):
        server = run.start()
        crowd = run.crowd(10)                      # something to do for it meanwhile
        crowd[0].exchange(b"hello\n")
        for number in numbers[:-1]:
            server.send_signal(number)
            time.sleep(run.random.uniform(0, 0.0003))
        stopped = server.stop(numbers[-1])
        result["status"].append(stopped.status)
        result["stops"].append(len(server.all("stop")))
        result["stats"].append(bool(stopped.stats))
        result["within_a_second"].append(stopped.seconds < 1)
    return {key: sorted(set(values)) for key, values in result.items()}


# --- the narration's reader -----------------------------------------------------------------

def _free_port():
    with socket.socket() as one:
        one.bind((LOOPBACK, 0))
        return one.getsockname()[1]


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


@scenario("Started without stdout, stderr or stdin: does it serve?")
def without_stdout(run):
    result = {}
    for closed in (">&-", ">&- 2>&-", "<&- >&- 2>&-"):
        port = _free_port()
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


@scenario("The narration's reader leaves: does the server go on?", services=("echo",))
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


@scenario("The narration's reader leaves, and nobody reads stderr either: does the server go on?")
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


@scenario("The narration goes to a file that must not grow any more: does the server go on?")
def file_is_full(run):
    server = run.server
    client = run.connect()
    client.exchange(b"hello\n")
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (len(server.narration()),) * 2)
    back = [client.exchange(b"%d\n" % i) == b"%d\n" % i for i in range(20)]
    run.servers.remove(server)                     # it has something on its stderr
    return {"served": sum(back), "status": server.stop().status,
            "says_why": "EFBIG" in server.stderr()}


@scenario("The narration's reader hangs: who waits for it?", services=("echo",))
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
    last = events[-1]                              # a line for each call, each signal, and some more
    most = sum(last.get(name, 0) for name in ("waits", "accept", "recv", "send")) + len(blown) + 200
    most -= last.get("would_block", 0)
    return {"right_answers": right, "served_after_sigusr1": served,
            "served_in_a_storm": len(blown) >= 20, "waits_once": again < 3,
            "lines_lost": sum(lost), "and_no_more": sum(lost) <= most,
            "malformed": sum(event.verb == "malformed" for event in events),
            "goes_on_narrating": any(event.verb == "recv" for event in events[heard:]),
            "last_line": events[-1].verb, "status": stopped.status}


@scenario("The narration's reader hangs, and a stop comes: how soon does the server end?",
          services=("echo",))
def stop_while_reader_hangs(run):
    reader = Reader(run, "echo")
    client = _up(run, reader.server, reader.port)
    right = sum(client.exchange(b"%d\n" % i) == b"%d\n" % i for i in range(200))
    stopped = reader.server.stop(run.random.choice(STOPS))
    reader.close()
    return {"right_answers": right, "status": stopped.status,
            "within_a_second": stopped.seconds < 1}
