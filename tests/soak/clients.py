"""The kinds of clients, and what befalls a server beside them.

Each kind is a function of a random.Random. It returns if all came that had to come, else it
raises: Wrong, Late or an OSError. Several threads play at a time, against the same server.
"""

from __future__ import annotations

import random
import re
import resource
import signal
import threading
import time
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Sequence

from tests.harness import DEADLINE, MEBIBYTE, Client, Crowd, Server
from tests.harness.model import BAD_NAME, WELCOME, Chat, Greet, ill_line, pieces

SMALL = {"rcvbuf": 4096, "mss": 700}             # a window in which little fits
Kind = Callable[[random.Random], None]


class Wrong(Exception):
    """What came is not what had to come: the first bytes that differ, and some before them."""

    def __init__(self, client: Client, came: bytes, expected: bytes, number: int, of: int) -> None:
        same = next((i for i, (a, b) in enumerate(zip(came, expected)) if a != b),
                    min(len(came), len(expected)))
        first = max(0, same - 10)
        shown = [f"{len(data)} bytes: {'...' if first else ''}{data[first:first + 60]!r}"
                 for data in (expected, came)]
        super().__init__(f"{client.service}, {number} of {of} clients, from byte {same} on\n"
                         f"    expected {shown[0]}\n"
                         f"    came     {shown[1]}{client.ended and ', then ' + client.ended}")
        self.client = client


def compare_all(clients: Sequence[Client], came: Sequence[bytes],
                expected: Sequence[bytes]) -> None:
    """What came to each of them is what had to."""
    wrong = [each for each in zip(clients, came, expected) if each[1] != each[2]]
    if wrong:
        raise Wrong(*wrong[0], len(wrong), len(clients))


def compare(client: Client, came: bytes, expected: bytes) -> None:
    compare_all([client], [came], [expected])


def exchange_all(clients: Crowd, data: Sequence[bytes]) -> None:
    """All speak at once, and each gets its own bytes back."""
    compare_all(clients, clients.exchange(data.__getitem__), data)


def number_in(hello: bytes) -> int:
    """Of "* you are guest-3, ...", 3."""
    found = re.match(rb"\* you are guest-(\d+),", hello)
    return int(found[1]) if found else 0


class Clients:
    """What is done to one server, and what the clients must remember of it."""

    def __init__(self, server: Server, services: Sequence[str]) -> None:
        self.server, self.services = server, services
        # The threads do not read the narration: the server writes it to a file meanwhile.
        self.addresses = {event["service"]: server.address(event["service"])
                          for event in server.listening()}
        self.sent = self.received = 0            # by clients who saw everything through
        self.counting = threading.Lock()
        self.room = threading.Lock()             # the chat's model knows of one play at a time
        self.crowded = threading.Lock()          # one crowd at a time, or one lower limit
        self.standing = threading.Lock()
        self.kinds: list[Kind] = [self.reset, self.nothing, self.signals, self.pause]
        if "echo" in services:
            self.kinds += [self.talk, self.talk, self.megabytes, self.late_reader, self.mute,
                           self.byte_by_byte, self.urgent]
        if "greet" in services:
            self.kinds += [self.greet, self.greet]
        if "chat" in services:                   # and all the others: it serves many at a time
            self.kinds += [self.chat, self.chat, self.mute_member, self.paste, self.crowd,
                           self.no_descriptors, self.events_for_the_dead]

    def connect(self, service: str, **how: Any) -> Client:
        return Client(self.addresses[service], service, service, **how)

    def connect_any(self, chance: random.Random) -> Client:
        return self.connect(chance.choice([each for each in self.services if each != "chat"]))

    def connect_many(self, count: int) -> Crowd:
        clients = Crowd(self.connect("echo", connect=False) for _ in range(count))
        for client in clients:
            client.connected(DEADLINE)
        return clients

    def through(self, *clients: Client) -> None:
        """Their bytes have all been taken and answered: the counters know of them."""
        for client in clients:
            client.close()
            with self.counting:
                self.sent += client.sent
                self.received += client.received

    # Echo

    def talk(self, chance: random.Random) -> None:
        client = self.connect("echo")
        for _ in range(chance.randrange(1, 30)):
            data = chance.randbytes(chance.choice((1, 10, 1000, 30000)))
            compare(client, client.exchange(data), data)
        self.through(client)

    def megabytes(self, chance: random.Random) -> None:
        client = self.connect("echo")
        data = chance.randbytes(chance.choice((1, 2, 4)) * MEBIBYTE)
        compare(client, client.exchange(data, half_close=chance.random() < 0.5), data)
        self.through(client)

    def late_reader(self, chance: random.Random) -> None:
        client = self.connect("echo", **SMALL)
        data = chance.randbytes(chance.randrange(1, 600_000))
        compare(client, client.exchange(data, late=True, half_close=True), data)
        self.through(client)

    def byte_by_byte(self, chance: random.Random) -> None:
        client = self.connect("echo")
        data = chance.randbytes(100)
        for i in range(100):
            client.send(data[i:i + 1])
        client.half_close()
        compare(client, client.recv_until_eof(), data)
        self.through(client)

    def urgent(self, chance: random.Random) -> None:
        """The urgent byte may or may not be told of; what is around it must come back."""
        with self.connect("echo") as client:
            client.send(b"before")
            client.urgent(b"!")
            client.send(b"behind")
            client.half_close()
            compare(client, client.recv_until_eof().replace(b"!", b""), b"beforebehind")

    def mute(self, chance: random.Random) -> None:
        client = self.connect("echo", **SMALL)
        client.send_some(bytes(MEBIBYTE))
        time.sleep(chance.uniform(0, 0.02))
        client.reset() if chance.random() < 0.5 else client.close()

    def crowd(self, chance: random.Random) -> None:
        """Many at once, each of them with its own bytes."""
        # select has room for a thousand in all.
        many = 300 if self.server.variant.id in ("3", "6-select") else 1200
        with self.crowded:
            clients = self.connect_many(chance.choice((10, 100, 100, many)))
            exchange_all(clients, [chance.randbytes(20) for _ in clients])
            self.through(*clients)

    # Echo or greet

    def reset(self, chance: random.Random) -> None:
        for _ in range(20):
            client = self.connect_any(chance)
            client.send_some(chance.randbytes(chance.choice((0, 1, 100, 100_000))))
            client.reset() if chance.random() < 0.7 else client.close()

    def nothing(self, chance: random.Random) -> None:
        for _ in range(chance.randrange(100)):
            self.connect_any(chance).close()

    def greet(self, chance: random.Random) -> None:
        client, model, expected = self.connect("greet"), Greet(), WELCOME.encode()
        for _ in range(chance.randrange(10)):
            for piece in pieces(chance, ill_line(chance, chance.random() < 0.9) + b"\n"):
                client.send(piece)
                expected += model.feed(piece)
        client.half_close()
        expected += model.end()
        came = client.recv_until_eof()
        # What is sent behind the last word may be answered with a reset.
        if not (model.ended and client.ended == "reset" and expected.startswith(came)):
            compare(client, came, expected)
        client.close()

    # Chat

    @contextmanager
    def empty_room(self) -> Iterator[None]:
        """All who were in the room have left it, and nobody else comes."""
        def alone() -> bool:
            with self.connect("chat") as client:
                client.half_close()              # the end comes when this one has left the room
                return client.recv_until_eof().endswith(b"alone here\n")
        with self.room:
            self.server.wait_until(alone, "an empty room")
            yield

    def chat(self, chance: random.Random) -> None:
        """A room of our own: every member hears what the model says, and nothing else."""
        with self.empty_room():
            names, members = Chat(), {}

            def hear(said: dict[int, bytes]) -> None:
                for me, text in said.items():
                    compare(members[me], members[me].recv(len(text)), text)

            for _ in range(chance.randrange(1, 5)):
                client = self.connect("chat")
                hello = client.recv_line()
                if not members:                  # who was here before has used up some numbers
                    names.guests = number_in(hello) - 1
                me, said = names.join()
                members[me] = client
                compare(client, hello, said.pop(me))
                hear(said)
            for _ in range(chance.randrange(20)):
                me = chance.choice(list(members))
                for piece in pieces(chance, ill_line(chance, harmless=True) + b"\n"):
                    members[me].send(piece)
                    hear(names.feed(me, piece))
            for me, client in list(members.items()):
                client.half_close()
                hear(names.leave(me))
                compare(client, client.recv_until_eof(), b"")
                del members[me]

    def mute_member(self, chance: random.Random) -> None:
        """One who reads nothing is dropped; who speaks never waits."""
        with self.room, self.connect("chat", **SMALL), self.connect("chat") as speaker:
            speaker.recv_line()
            for _ in range(chance.randrange(300)):
                speaker.send(b"x" * 4000 + b"\n")
            speaker.send(b"/nick\n")
            heard = speaker.recv_line()
            while heard.startswith((b"* guest-", b"guest-")):
                heard = speaker.recv_line()
            compare(speaker, heard, BAD_NAME.encode())

    def paste(self, chance: random.Random) -> None:
        """A member says very much at once; another hears it all, in its order."""
        with self.empty_room(), self.connect("chat") as speaker, self.connect("chat") as hearer:
            name = b"guest-%d: " % number_in(speaker.recv_line())
            hearer.recv_line()
            lines = [b"%d\n" % i for i in range(chance.randrange(5000))]
            speaker.send(b"".join(lines))
            expected = b"".join(name + line for line in lines)
            compare(hearer, hearer.recv(len(expected)), expected)

    # What befalls the server

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It stands still meanwhile. Not for two at a time: the first would let it go on."""
        with self.standing, self.server.paused():
            yield

    def signals(self, chance: random.Random) -> None:
        for _ in range(chance.randrange(30)):
            self.server.send_signal(chance.choice((signal.SIGUSR1, signal.SIGWINCH,
                                                   signal.SIGCHLD, signal.SIGURG)))
        with self.standing:
            self.server.send_signal(signal.SIGCONT)

    def pause(self, chance: random.Random) -> None:
        with self.stopped():
            time.sleep(chance.uniform(0, 0.01))

    def no_descriptors(self, chance: random.Random) -> None:
        """For a moment there is no room for anybody more; then newcomers must get in again."""
        with self.crowded:
            inside = self.connect("echo")
            inside.exchange(b"let me in\n")
            # It stands still, or clients come between the look and the limit, and it has more
            # than the limit allows: poll() fails then, and it lets them go (limit_lowered).
            with self.stopped():
                high, _ = resource.prlimit(self.server.pid, resource.RLIMIT_NOFILE)
                low = max(self.server.descriptors()) + chance.randrange(1, 12)
                self.server.limit(resource.RLIMIT_NOFILE, low)
            clients, data = self.connect_many(20), [b"%02d" % i for i in range(20)]
            clients.send(data.__getitem__)
            time.sleep(chance.uniform(0, 0.02))
            # A limit raised from outside gives no sign; somebody who leaves does.
            self.server.limit(resource.RLIMIT_NOFILE, high)
            self.through(inside)
            compare_all(clients, clients.recv(lambda i: 2), data)
            self.through(*clients)

    def events_for_the_dead(self, chance: random.Random) -> None:
        """While it stands still, some speak and leave, and others come."""
        clients = self.connect_many(20)
        exchange_all(clients, [b"%2d" % i for i in range(20)])
        with self.stopped():
            for client in clients[::2]:
                client.send(b"last words")
                client.reset() if chance.random() < 0.5 else client.close()
            others, data = self.connect_many(10), [b"new %d" % i for i in range(10)]
            others.send(data.__getitem__)
        compare_all(others, others.recv(lambda i: 5), data)
        stayed = Crowd(clients[1::2])
        exchange_all(stayed, [b"old %d" % i for i in range(10)])
        self.through(*others, *stayed)
