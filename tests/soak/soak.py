"""The run: servers, one after the other, and what several clients at a time do to each.

Each client knows what must come back. At the end: the descriptors are those of the start, the
memory is flat, the counters add up, and nobody's bytes are lost; and the stop comes while
clients are there.
"""

from __future__ import annotations

import os
import random
import select
import threading
import time
from collections import Counter
from typing import Callable, Optional

from tests.harness import (MEBIBYTE, SANITIZED, Client, Late, Run, Unavailable, Variant,
                           poll_one)
from tests.harness.model import CHAT_STOP, GREET_STOP
from tests.soak.clients import Clients, Kind, Wrong

FAULTS = ", ".join(f"{rule} 5 999999999" for rule in (
    "accept EINTR 3", "accept ECONNABORTED 7", "accept EAGAIN 5", "recv EINTR 7", "recv one 11",
    "send EINTR 13", "send EAGAIN 5", "wait EINTR 9"))
# How a server is run: narrating; -q, for longer; narrating while its calls fail now and then;
# narrating into a pipe whose reader falls asleep.
WAYS = ("narrating", "quiet", "faults", "sleepy")
GOODBYE = {"echo": b"", "greet": GREET_STOP.encode(), "chat": CHAT_STOP.encode()}


class SleepyReader:
    """Copies a server's stdout into a file, in a thread of its own; at times it naps."""

    def __init__(self, stdout: int, into: int) -> None:
        self.stdout, self.into = stdout, into
        self.turn = threading.Lock()             # to read, or to nap
        threading.Thread(target=self._copy, daemon=True).start()

    def _copy(self) -> None:
        data = b"-"
        while data:
            if poll_one(self.stdout, select.POLLIN, 1):
                with self.turn:
                    data = os.read(self.stdout, 1 << 16)
                    os.write(self.into, data)
        os.close(self.stdout)
        os.close(self.into)

    def nap(self, chance: random.Random) -> None:
        if self.turn.acquire(blocking=False):
            threading.Timer(chance.uniform(0, 0.5), self.turn.release).start()

    def has_read_all(self) -> bool:
        with self.turn:
            return not poll_one(self.stdout, select.POLLIN, 0)


class Soak:
    """One server, and what its clients do to it."""

    def __init__(self, variant: Variant, seed: int, way: str) -> None:
        self.run = Run(variant, ("echo", "greet", "chat"), seed)
        self.single = variant.stage == 1         # one client at a time, of the first listener
        self.services = self.run.services
        if self.single:
            self.services = (self.run.random.choice(("echo", "echo", "greet")),)
        self.way = way
        self.reader: Optional[SleepyReader] = None
        self.wrong: list[str] = []
        self.wronged: list[Client] = []
        self.done: Counter[str] = Counter()

    def start(self) -> None:
        if self.way == "sleepy":
            ours, theirs = os.pipe()
            self.server = self.run.start(*self.services, stdout=theirs)
            os.close(theirs)
            # Into the file that its narration is taken from.
            self.reader = SleepyReader(ours, os.dup(self.server._out.fileno()))
            self.server.wait_until(lambda: len(self.server.listening()) == len(self.services),
                                   "its listeners")
        else:
            try:
                self.server = self.run.start(*self.services,
                                             args=["-q"] if self.way == "quiet" else [],
                                             faults=FAULTS if self.way == "faults" else "")
            except Unavailable:                  # then it has to do without
                self.server = self.run.start(*self.services)
        self.clients = Clients(self.server, self.services)
        self.clients.kinds += [self.reader.nap] if self.reader else []

    def do(self, kind: Kind, chance: random.Random) -> None:
        if self.wrong:                           # one mistake makes many
            return
        try:
            kind(chance)
        except Wrong as wrong:
            self.wrong.append(f"{kind.__name__}: {wrong}")
            self.wronged.append(wrong.client)
        except Exception as failed:              # a broken server may break a client in any way
            self.wrong.append(f"{kind.__name__}: {type(failed).__name__}: {failed}")
        self.done[kind.__name__] += 1

    def work(self, number: int, until: float) -> None:
        chance = random.Random(f"{self.run.seed} {number}")
        while time.monotonic() < until and not self.wrong:
            self.do(chance.choice(self.clients.kinds), chance)

    def all_at_once(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        workers = [threading.Thread(target=self.work, args=(i, until), daemon=True)
                   for i in range(1 if self.single else 3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(seconds + 120)
            if worker.is_alive():
                self.wrong.append("somebody was not answered for two minutes")

    def play(self, seconds: float) -> None:
        """Plays for that time; what was wrong is in .wrong then."""
        self.start()
        before = set(self.server.descriptors())
        chance = random.Random(f"{self.run.seed} warm")
        for kind in dict.fromkeys(self.clients.kinds):  # each once: what memory that takes is taken
            self.do(kind, chance)
        if not self.wrong:
            memory = self.server.rss()
            self.all_at_once(seconds)
        if not self.wrong:
            self.at_the_end(before, memory)
        if self.server.ended():
            self.wrong.append(f"it ended with {self.server.status}{self.server.tail()}")
        elif self.wronged and self.way in ("narrating", "faults"):     # all of it can be read
            self.tell_of(self.wronged[0])
        if not self.wrong:
            self.stop_with_clients()
            self.wrong += self.run.finish()

    def tell_of(self, client: Client) -> None:
        """How the server saw it end, and why."""
        client.close()
        server = self.server
        # The last one of that address: its port may have been somebody's before.
        for came in server.all("accept", service=client.service, peer=client.peername)[-1:]:
            end = server.wait_for("close", after=server.events.index(came), fd=came["fd"])
            self.wrong.append(f"narrated: {end.line.strip()}")

    def equal(self, what: str, came: object, expected: object) -> None:
        if came != expected:
            self.wrong.append(f"{what}: expected {expected!r}, came {came!r}")

    def at_the_end(self, before: set[int], memory: int) -> None:
        server, clients = self.server, self.clients
        for service in self.services:            # who came before one who is answered, was accepted
            with clients.connect(service) as client:
                client.send(b"\n")
                client.recv(1)
        server.wait_until(lambda: server.sockets() == len(self.services), "all have left")
        grown = server.rss() - memory
        if grown > 3 * MEBIBYTE and not SANITIZED:
            self.wrong.append(f"memory grew by {grown >> 10} KiB")
        self.equal("more descriptors than at the start", set(server.descriptors()) - before, set())
        if self.reader:                          # or stats() takes a line of before for its own
            server.wait_until(self.reader.has_read_all, "a reader that is awake")
        stats = server.stats()
        self.equal("clients that are left", stats["clients"], 0)
        # Of those who broke off, nobody can say what was taken; of all others, all was.
        if stats["bytes_in"] < clients.sent or stats["bytes_out"] < clients.received:
            self.wrong.append(f"{clients.sent} bytes were sent and {clients.received} received: "
                              + stats.line)
        if "echo" in self.services:
            clients.sent = clients.received = 0
            self.do(clients.talk, self.run.random)
            self.do(clients.late_reader, self.run.random)
            after = server.stats()
            self.equal("bytes counted, in and out", [
                after[key] - stats[key] for key in ("bytes_in", "bytes_out")],
                [clients.sent, clients.received])

    def stop_with_clients(self) -> None:
        """The stop comes while clients are there; they are told, as far as they understand it."""
        everybody = [self.clients.connect(service) for service in self.services for _ in range(3)]
        served = everybody[:1] if self.single else everybody
        for client in served:
            client.exchange(b"in\n") if client.service == "echo" else client.recv_line()
        self.equal("status of the stop", self.server.stop().status, 0)
        for client in served:
            heard, last = client.recv_until_eof(), GOODBYE[client.service]
            # It is offered once: a call that fails just then is not repeated.
            if client.ended != "eof" or not (heard.endswith(last) or self.way == "faults"):
                self.wrong.append(f"{client.service}, at the stop: expected ...{last!r} and eof, "
                                  f"came ...{heard[-60:]!r} and {client.ended}")
        for client in everybody:
            client.close()


def soak(variant: Variant, seconds: float, seed: int, *, say: Callable[[str], None] = print
         ) -> list[str]:
    """Plays for that long in pieces, each with a server of its own; what was wrong."""
    until, number = time.monotonic() + seconds, 0
    done: Counter[str] = Counter()
    wrong: list[str] = []
    ways = random.Random(seed).sample(WAYS, len(WAYS))
    while not wrong and (number == 0 or time.monotonic() < until - 0.5):
        # Narrated in short pieces, that every line can be checked; -q in the longer ones.
        way = ways[number % len(ways)]
        left = until - time.monotonic()
        play = Soak(variant, seed + number, way)
        try:
            play.play(max(0.2, min(left, seconds / 3, 30 if way == "quiet" else 2)))
        except (Late, OSError) as failed:
            play.wrong.append(f"{type(failed).__name__}: {failed}")
        finally:
            play.run.close()
        wrong, done = play.wrong, done + play.done
        number += 1
    say(f"{variant.id:9} {'ok' if not wrong else 'WRONG':5} {sum(done.values())} plays in "
        f"{number} servers: " + " ".join(f"{kind}={n}" for kind, n in sorted(done.items())))
    if wrong:
        wrong.append(f"seed: {seed}; the server was number {number}, {way}")
    for line in "\n".join(wrong).splitlines():
        say(f"          {line}")
    return wrong
