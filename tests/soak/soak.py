"""All kinds of clients at once, at random, for as long as you like: make soak

    make soak                        ten minutes over all eight servers
    make soak SECONDS=60 STAGE=5     one minute for stage 5
    make soak SEED=4711              the same random numbers as in the run that printed this seed

A server is started, and several clients at a time do to it whatever clients do: talk, send
megabytes, come in crowds, read late or not at all, reset, half-close, say nothing, say it byte
by byte, send urgent data or rubbish; signals rain, it is stopped while some leave and others
come, and continued, its descriptors run out; some servers' calls fail now and then, and some
servers' narration is read by somebody who falls asleep. Each client knows what must come back.
At the end: the descriptors are those of the start, the memory is flat, the counters add up, and
nobody's bytes are lost; and the stop comes while clients are there.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import sys
import threading
import time
from typing import Any, Callable, Optional

from tests.harness import (DEADLINE, SANITIZED, Client, Crowd, Late, Run, Server,
                     Unavailable, Variant, end_on_sigterm, pump, variants)
from tests.harness.model import CHAT_STOP, GREET_STOP, WELCOME, Chat, Greet, ill_line, pieces
from tests.harness.faults import environment

MEBIBYTE = 1 << 20
SMALL = {"rcvbuf": 4096, "mss": 700}             # a window in which little fits
FAULTS = ", ".join(f"{rule} 5 999999999" for rule in (
    "accept EINTR 3", "accept ECONNABORTED 7", "accept EAGAIN 5", "recv EINTR 7", "recv one 11",
    "send EINTR 13", "send EAGAIN 5", "wait EINTR 9"))
# How a server is run: narrating; -q, for longer; narrating while its calls fail now and then;
# narrating into a pipe whose reader falls asleep.
WAYS = ("narrating", "quiet", "faults", "sleepy")


class SleepyReader:
    """Reads a server's stdout into the file that its narration is taken from; at times it naps."""

    def __init__(self) -> None:
        self.ours, self.theirs = os.pipe()
        self.awake = threading.Event()
        self.awake.set()

    def read_for(self, server: Server) -> None:
        os.close(self.theirs)
        into = os.dup(server._out.fileno())
        threading.Thread(target=self._read, args=(into,), daemon=True).start()
        count = len([word for word in server.arguments if word in ("-e", "-g", "-c")])
        server.wait_until(lambda: len(server.listening()) == count, f"{count} listeners")

    def _read(self, into: int) -> None:
        while data := os.read(self.ours, 1 << 16):
            os.write(into, data)
            self.awake.wait()
        os.close(into)
        os.close(self.ours)

    def nap(self, seconds: float) -> None:
        self.awake.clear()
        threading.Timer(seconds, self.awake.set).start()


class Soak:
    """One server, and what its clients do to it."""

    def __init__(self, variant: Variant, seed: int, way: str) -> None:
        self.run = Run(variant, ("echo", "greet", "chat"), seed)
        self.variant = variant
        self.way = way
        self.reader: Optional[SleepyReader] = None
        self.single = variant.stage == 1         # one client at a time, of the first listener
        self.services = ("echo", "greet", "chat")
        if self.single:
            self.services = (self.run.random.choice(("echo", "echo", "greet")),)
        self.wrong: list[str] = []
        self.done: dict[str, int] = {}
        self.room = threading.Lock()             # the chat's model knows of one play at a time
        self.crowded = threading.Lock()
        self.kept = threading.Lock()
        self.sent = self.received = 0            # by clients who saw everything through
        self.over = threading.Event()

    # What clients do. Each returns whether all came as it had to.

    def connect(self, service: str, **how: Any) -> Client:
        return Client(self.addresses[service], service, service, **how)

    def through(self, client: Client) -> None:
        """This one's bytes have all been taken and answered: the counters know of them."""
        client.close()
        with self.kept:
            self.sent += client.sent
            self.received += client.received

    def talk(self, chance: random.Random) -> bool:
        client = self.connect("echo")
        right = True
        for _ in range(chance.randrange(1, 30)):
            data = chance.randbytes(chance.choice((1, 10, 1000, 30000)))
            right &= client.exchange(data) == data
        self.through(client)
        return right

    def megabytes(self, chance: random.Random) -> bool:
        client = self.connect("echo")
        data = chance.randbytes(chance.choice((1, 2, 4)) * MEBIBYTE)
        right = client.exchange(data, half_close=chance.random() < 0.5) == data
        self.through(client)
        return right

    def late_reader(self, chance: random.Random) -> bool:
        client = self.connect("echo", **SMALL)
        data = chance.randbytes(chance.randrange(1, 600_000))
        right = client.exchange(data, late=True, half_close=True) == data
        self.through(client)
        return right

    def mute(self, chance: random.Random) -> bool:
        client = self.connect("echo", **SMALL)
        client.send_some(bytes(MEBIBYTE))
        time.sleep(chance.uniform(0, 0.02))
        client.reset() if chance.random() < 0.5 else client.close()
        return True

    def reset(self, chance: random.Random) -> bool:
        for _ in range(20):
            client = self.connect(self.service(chance))
            client.send_some(chance.randbytes(chance.choice((0, 1, 100, 100_000))))
            client.reset() if chance.random() < 0.7 else client.close()
        return True

    def nothing(self, chance: random.Random) -> bool:
        for _ in range(chance.randrange(100)):
            self.connect(self.service(chance)).close()
        return True

    def byte_by_byte(self, chance: random.Random) -> bool:
        client = self.connect("echo")
        data = chance.randbytes(100)
        for i in range(100):
            client.send(data[i:i + 1])
        client.half_close()
        right = client.recv_until_eof() == data
        self.through(client)
        return right

    def urgent(self, chance: random.Random) -> bool:
        """The urgent byte may or may not be told of; what is around it must come back."""
        client = self.connect("echo")
        client.send(b"before")
        client.urgent(b"!")
        client.send(b"behind")
        client.half_close()
        return client.recv_until_eof().replace(b"!", b"") == b"beforebehind"

    def greet(self, chance: random.Random) -> bool:
        client, model, expected = self.connect("greet"), Greet(), WELCOME.encode()
        for _ in range(chance.randrange(10)):
            for piece in pieces(chance, ill_line(chance, chance.random() < 0.9) + b"\n"):
                client.send(piece)
                expected += model.feed(piece)
        client.half_close()
        expected += model.end()
        got = client.recv_until_eof()
        client.close()
        return got == expected or (model.ended and client.ended == "reset"
                                   and expected.startswith(got))

    def chat(self, chance: random.Random) -> bool:
        """A room of our own: every member hears what the model says, and nothing else."""
        if not self.room.acquire(blocking=False):
            return True
        try:
            names, members = Chat(), {}
            right = True
            while not self.room_is_empty():
                pass
            for _ in range(chance.randrange(1, 5)):
                client = self.connect("chat")
                me, said = names.join()
                # Who was here before has used up some guest numbers: the line tells how many.
                hello = client.recv_line()
                if not members:
                    names.guests = me = int(hello.split(b"guest-")[1].split(b",")[0])
                    names.names = {me: f"guest-{me}"}
                    names.lines = {me: names.lines.popitem()[1]}
                    said = {me: hello}
                members[me] = client
                right &= hello == said.pop(me)
                right &= all(members[m].recv(len(text)) == text for m, text in said.items())
            for _ in range(chance.randrange(20)):
                me = chance.choice(list(members))
                line = ill_line(chance, harmless=True) + b"\n"
                for piece in pieces(chance, line):
                    members[me].send(piece)
                    said = names.feed(me, piece)
                    right &= all(members[m].recv(len(text)) == text for m, text in said.items())
                if not right:
                    break
            for me in list(members):
                members[me].half_close()
                for m, text in names.leave(me).items():
                    right &= members[m].recv(len(text)) == text if m in members else True
                right &= members.pop(me).recv_until_eof() == b""
            return right
        finally:
            self.room.release()

    def mute_member(self, chance: random.Random) -> bool:
        """One who reads nothing is dropped; who speaks never waits."""
        if not self.room.acquire(blocking=False):
            return True
        try:
            mute, speaker = self.connect("chat", **SMALL), self.connect("chat")
            speaker.recv_line()
            line = b"x" * 4000 + b"\n"
            for _ in range(chance.randrange(300)):
                speaker.send(line)
            speaker.send(b"/nick\n")
            heard = speaker.recv_line()
            while heard.startswith((b"* guest-", b"guest-")):
                heard = speaker.recv_line()
            mute.close()
            speaker.close()
            return heard.startswith(b"* a name is")
        finally:
            self.room.release()

    def room_is_empty(self) -> bool:
        with self.connect("chat") as looks:
            looks.half_close()                   # the end comes when this one has left the room
            return looks.recv_until_eof().endswith(b"alone here\n")

    # What befalls the server

    def signals(self, chance: random.Random) -> bool:
        for _ in range(chance.randrange(30)):
            self.server.send_signal(chance.choice((signal.SIGUSR1, signal.SIGWINCH, signal.SIGCHLD,
                                                   signal.SIGURG, signal.SIGCONT)))
        return True

    def pause(self, chance: random.Random) -> bool:
        self.server.send_signal(signal.SIGSTOP)
        time.sleep(chance.uniform(0, 0.01))
        self.server.send_signal(signal.SIGCONT)
        return True

    def no_descriptors(self, chance: random.Random) -> bool:
        """For a moment there is no room for anybody more; then newcomers must get in again."""
        if not self.crowded.acquire(blocking=False):
            return True
        try:
            inside = self.connect("echo")
            inside.exchange(b"let me in\n")
            limits = resource.prlimit(self.server.pid, resource.RLIMIT_NOFILE)
            # Some more than it has: a few may be let in meanwhile, and poll() wants no fewer.
            some = max(self.server.descriptors()) + chance.randrange(8, 12)
            resource.prlimit(self.server.pid, resource.RLIMIT_NOFILE, (some, limits[1]))
            clients = [self.connect("echo") for _ in range(20)]
            for i, client in enumerate(clients):
                client.send(b"%02d" % i)
            time.sleep(chance.uniform(0, 0.02))
            # A limit raised from outside gives no sign; somebody who leaves does.
            resource.prlimit(self.server.pid, resource.RLIMIT_NOFILE, limits)
            self.through(inside)
            right = True
            for i, client in enumerate(clients):
                right &= client.recv(2) == b"%02d" % i
                self.through(client)
            return right
        finally:
            self.crowded.release()

    def crowd(self, chance: random.Random) -> bool:
        """Many at once, each of them with its own bytes."""
        with self.crowded:             # not while the limit of descriptors is low
            return self._crowd(chance)

    def _crowd(self, chance: random.Random) -> bool:
        # With select, there has to be room for two more crowds.
        many = 300 if self.variant.id in ("3", "6-select") else 1200
        clients = self.connect_many(chance.choice((10, 100, 100, many)))
        data = [chance.randbytes(20) for _ in clients]
        right = clients.exchange(lambda i: data[i]) == data
        for client in clients:
            self.through(client)
        return right

    def connect_many(self, count: int) -> Crowd:
        clients = Crowd(self.connect("echo", connect=False) for _ in range(count))
        for client in clients:
            client.connected(DEADLINE)
        return clients

    def events_for_the_dead(self, chance: random.Random) -> bool:
        """While it stands still, some speak and leave, and others come."""
        clients = self.connect_many(20)
        right = clients.exchange(lambda i: b"%2d" % i) == [b"%2d" % i for i in range(20)]
        self.server.send_signal(signal.SIGSTOP)
        try:
            for client in clients[::2]:
                client.send(b"last words")
                client.reset() if chance.random() < 0.5 else client.close()
            others = self.connect_many(10)
            others.send(lambda i: b"new %d" % i)
        finally:
            self.server.send_signal(signal.SIGCONT)
        right &= others.recv(lambda i: 5) == [b"new %d" % i for i in range(10)]
        stayed = Crowd(clients[1::2])
        right &= stayed.exchange(lambda i: b"old %d" % i) == [b"old %d" % i for i in range(10)]
        for client in (*others, *stayed):
            self.through(client)
        return right

    def paste(self, chance: random.Random) -> bool:
        """A member says very much at once; another hears it all, in its order."""
        if not self.room.acquire(blocking=False):
            return True
        try:
            while not self.room_is_empty():
                pass
            with self.connect("chat") as speaker, self.connect("chat") as hearer:
                name = speaker.recv_line().split()[3].strip(b",")
                hearer.recv_line()
                lines = [b"%d\n" % i for i in range(chance.randrange(5000))]
                speaker._out = memoryview(b"".join(lines))
                wanted = b"".join(name + b": " + line for line in lines)
                pump([speaker, hearer], lambda c: not c._out and (
                    c is speaker or len(c._in) >= len(wanted)))
                return hearer.recv(len(wanted)) == wanted
        finally:
            self.room.release()

    def nap(self, chance: random.Random) -> bool:
        if self.reader:
            self.reader.nap(chance.uniform(0, 0.5))
        return True

    def service(self, chance: random.Random) -> str:
        return chance.choice([service for service in self.services if service != "chat"])

    # The play

    def kinds(self) -> list[Callable[[random.Random], bool]]:
        found = [self.reset, self.nothing, self.signals, self.pause]
        if self.reader:
            found += [self.nap]
        if "echo" in self.services:
            found += [self.talk, self.talk, self.megabytes, self.late_reader, self.mute,
                      self.byte_by_byte, self.urgent]
        if "greet" in self.services:
            found += [self.greet, self.greet]
        if not self.single:
            found += [self.chat, self.chat, self.mute_member, self.paste, self.no_descriptors,
                      self.crowd, self.events_for_the_dead]
        return found

    def work(self, seed: int) -> None:
        chance = random.Random(f"{self.run.seed} {seed}")
        while not self.over.is_set() and not self.wrong:
            kind = chance.choice(self.kinds())
            self.do(kind, chance)

    def do(self, kind: Callable[[random.Random], bool], chance: random.Random) -> None:
        try:
            right = kind(chance)
        except (Late, OSError, IndexError, ValueError) as failed:
            right = False
            self.wrong.append(f"{kind.__name__}: {type(failed).__name__}: {failed}")
        else:
            if not right:
                self.wrong.append(f"{kind.__name__}: what came is not what had to come")
        self.done[kind.__name__] = self.done.get(kind.__name__, 0) + 1

    def start(self) -> Server:
        how: dict[str, Any] = {"args": ["-q"]} if self.way == "quiet" else {}
        if self.way == "faults":
            try:
                how["env"] = environment(self.variant, FAULTS)
            except Unavailable:
                pass                             # then it has to do without
        if self.way == "sleepy":
            self.reader = SleepyReader()
            how["stdout"] = self.reader.theirs
        server = self.run.start(*self.services, **how)
        if self.reader:
            self.reader.read_for(server)
        return server

    def play(self, seconds: float) -> list[str]:
        """Plays for that time; what was wrong."""
        self.server = self.start()
        # The threads do not read the narration: the server writes it to a file meanwhile.
        self.addresses = {event["service"]: self.server.address(event["service"])
                          for event in self.server.listening()}
        before = set(self.server.descriptors())
        listeners = len(self.server.listening())
        chance = random.Random(f"{self.run.seed} warm")
        for kind in dict.fromkeys(self.kinds()):        # each once: what memory that takes is taken
            self.do(kind, chance)
        memory = self.server.rss()
        until = time.monotonic() + seconds
        workers = [threading.Thread(target=self.work, args=(i,), daemon=True)
                   for i in range(1 if self.single else 3)]
        for worker in workers:
            worker.start()
        while time.monotonic() < until and not self.wrong and not self.server.ended():
            time.sleep(0.05)
        self.over.set()
        if self.reader:
            self.reader.nap(0)
        for worker in workers:
            worker.join(120)
            if worker.is_alive():
                self.wrong.append("somebody was not answered for two minutes")
        return self.wrong or self.at_the_end(before, listeners, memory)

    def empty_the_backlogs(self) -> None:
        """Whoever came before somebody who is answered has been accepted."""
        for service in self.services:
            client = self.connect(service)
            client.send(b"\n")
            client.recv(1)
            client.close()

    def at_the_end(self, before: set[int], listeners: int, memory: int) -> list[str]:
        server, wrong = self.server, []
        try:
            self.empty_the_backlogs()
            server.wait_until(lambda: server.sockets() == listeners, "all have left")
            grown = server.rss() - memory
            if grown > 3 * MEBIBYTE and not SANITIZED:
                wrong.append(f"memory grew by {grown >> 10} KiB")
            more = set(server.descriptors()) - before
            if more:
                wrong.append(f"descriptors that were not there at the start: {sorted(more)}")
            stats = server.stats()
        except Late as late:
            return [str(late)]
        if stats["clients"]:
            wrong.append(f"clients are left: {stats.line}")
        # Of those who broke off, nobody can say what was taken; of all others, all was.
        if stats["bytes_in"] < self.sent or stats["bytes_out"] < self.received:
            wrong.append(f"{self.sent} bytes were sent and {self.received} received: {stats.line}")
        if not wrong and "echo" in self.services:
            self.sent = self.received = 0
            self.do(self.talk, self.run.random)
            self.do(self.late_reader, self.run.random)
            after = server.stats()
            counted = [after[key] - stats[key] for key in ("bytes_in", "bytes_out")]
            if counted != [self.sent, self.received]:
                wrong.append(f"{self.sent} and {self.received} bytes were counted as {counted}")
        return wrong + self.wrong + self.stop_with_clients() + self.run.finish()

    def stop_with_clients(self) -> list[str]:
        """The stop comes while clients are there; they are told, as far as they understand it."""
        goodbye = {"echo": "", "greet": GREET_STOP, "chat": CHAT_STOP}
        clients = [self.connect(service) for service in self.services for _ in range(3)]
        for client in clients[:1] if self.single else clients:
            client.exchange(b"in\n") if client.service == "echo" else client.recv_line()
        status = self.server.stop().status
        wrong = [] if status == 0 else [f"stopped with clients: status {status}"]
        for client in clients[:1] if self.single else clients:
            heard = client.recv_until_eof()
            told = heard.endswith(goodbye[client.service].encode()) or self.way == "faults"   # offered once
            if not told or client.ended != "eof":
                wrong.append(f"{client.service}, at the stop: {client.ended} after {heard[-99:]!r}")
        for client in clients:
            client.close()
        return wrong


def soak(variant: Variant, seconds: float, seed: int, *, say: Callable[[str], None] = print
         ) -> list[str]:
    """Plays for that long in pieces, each with a server of its own; what was wrong."""
    until, number = time.monotonic() + seconds, 0
    done: dict[str, int] = {}
    wrong: list[str] = []
    ways = random.Random(seed).sample(WAYS, len(WAYS))
    while not wrong and (number == 0 or time.monotonic() < until - 0.5):
        # Narrated in short pieces, that every line can be checked; -q in the longer ones.
        way = ways[number % len(ways)]
        left = until - time.monotonic()
        play = Soak(variant, seed + number, way)
        try:
            wrong = play.play(max(0.2, min(left, seconds / 3, 30 if way == "quiet" else 2)))
        except (Late, OSError) as failed:
            wrong = [f"{way}: {type(failed).__name__}: {failed}"]
        finally:
            play.run.close()
        for kind, times in play.done.items():
            done[kind] = done.get(kind, 0) + times
        number += 1
    say(f"{variant.id:9} {'ok' if not wrong else 'WRONG':5} {sum(done.values())} plays in "
        f"{number} servers: " + " ".join(f"{kind}={n}" for kind, n in sorted(done.items())))
    for line in wrong:
        say(f"          {line}")
    return wrong


def main(words: Optional[list[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--stage", default="")
    parser.add_argument("--server", default="")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(words)
    try:
        chosen = variants(options.stage, options.server)
    except ValueError as wrong:
        print(f"soak: {wrong}", file=sys.stderr)
        return 2
    missing = [variant for variant in chosen if not variant.program.exists()]
    if missing:
        print(f"soak: {missing[0].program} is not there: run make first", file=sys.stderr)
        return 2
    seed = options.seed or random.SystemRandom().randrange(1, 10 ** 9)
    print(f"seed: {seed}, {options.seconds:g} seconds, {len(chosen)} servers"
          + (", sanitized" if SANITIZED else ""), flush=True)
    end_on_sigterm()
    bad = 0
    for variant in chosen:
        bad += bool(soak(variant, options.seconds / len(chosen), seed,
                         say=lambda text: print(text, flush=True)))
    return 1 if bad else 0
