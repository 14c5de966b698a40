"""All kinds of clients at once, at random, for as long as you like: make soak

    make soak                        ten minutes over all eight servers
    make soak SECONDS=60 STAGE=5     one minute for stage 5
    make soak SEED=4711              the same random numbers as in the run that printed this seed

A server is started, and several clients at a time do to it whatever clients do: talk, send
megabytes, read late or not at all, reset, half-close, say nothing, say it byte by byte, send
urgent data or rubbish; signals rain, it is stopped and continued, its descriptors run out.
Each knows what must come back. At the end: the descriptors are those of the start, the memory
is flat, the counters add up, and nobody's bytes are lost.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Optional

sys.path.insert(0, str(Path(__file__).resolve().parent))
from harness import (SANITIZED, Client, Late, Run, Server, Variant, end_on_sigterm,  # noqa: E402
                     variants)
from model import WELCOME, Chat, Greet, ill_line, pieces  # noqa: E402

MEBIBYTE = 1 << 20
SMALL = {"rcvbuf": 4096, "mss": 700}             # a window in which little fits


class Soak:
    """One server, and what its clients do to it."""

    def __init__(self, variant: Variant, seed: int) -> None:
        self.run = Run(variant, ("echo", "greet", "chat"), seed)
        self.variant = variant
        self.single = variant.stage == 1         # one client at a time, of the first listener
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
        client, model, expected = self.connect("greet"), Greet(), WELCOME
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
            some = max(self.server.descriptors()) + chance.randrange(1, 4)
            resource.prlimit(self.server.pid, resource.RLIMIT_NOFILE, (some, limits[1]))
            clients = [self.connect("echo") for _ in range(8)]
            for i, client in enumerate(clients):
                client.send(b"%d" % i)
            time.sleep(chance.uniform(0, 0.02))
            # A limit raised from outside gives no sign; somebody who leaves does.
            resource.prlimit(self.server.pid, resource.RLIMIT_NOFILE, limits)
            self.through(inside)
            right = True
            for i, client in enumerate(clients):
                right &= client.recv(1) == b"%d" % i
                self.through(client)
            return right
        finally:
            self.crowded.release()

    def service(self, chance: random.Random) -> str:
        return "echo" if self.single else chance.choice(("echo", "greet"))

    # The play

    def kinds(self) -> list[Callable[[random.Random], bool]]:
        alone = [self.talk, self.talk, self.megabytes, self.late_reader, self.mute, self.reset,
                 self.nothing, self.byte_by_byte, self.urgent, self.signals, self.pause]
        if self.single:
            return alone
        return alone + [self.greet, self.greet, self.chat, self.chat, self.mute_member,
                        self.no_descriptors]

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

    def play(self, seconds: float, narrated: bool) -> list[str]:
        """Plays for that time; what was wrong."""
        self.server: Server = self.run.start(
            *(("echo",) if self.single else ("echo", "greet", "chat")),
            args=() if narrated else ("-q",))
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
        for worker in workers:
            worker.join(120)
            if worker.is_alive():
                self.wrong.append("somebody was not answered for two minutes")
        return self.wrong or self.at_the_end(before, listeners, memory)

    def at_the_end(self, before: set[int], listeners: int, memory: int) -> list[str]:
        server, wrong = self.server, []
        try:
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
        if stats["bytes_in"] < self.sent or stats["bytes_out"] < self.received:
            wrong.append(f"{self.sent} bytes were sent and {self.received} received: {stats.line}")
        return wrong + self.run.finish()


def soak(variant: Variant, seconds: float, seed: int, *, say: Callable[[str], None] = print
         ) -> list[str]:
    """Plays for that long in pieces, each with a server of its own; what was wrong."""
    until, number = time.monotonic() + seconds, 0
    done: dict[str, int] = {}
    wrong: list[str] = []
    while not wrong and (number == 0 or time.monotonic() < until - 0.5):
        # Narrated in short pieces, that every line can be checked; -q in the longer ones.
        narrated = number % 2 == 0
        left = until - time.monotonic()
        play = Soak(variant, seed + number)
        try:
            wrong = play.play(max(0.2, min(left, 2 if narrated else 30)), narrated)
        except (Late, OSError) as failed:
            wrong = [f"{type(failed).__name__}: {failed}"]
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
        parser.error(str(wrong))
    missing = [variant for variant in chosen if not variant.program.exists()]
    if missing:
        parser.error(f"{missing[0].program} is not there: run make first")
    seed = options.seed or random.SystemRandom().randrange(1, 10 ** 9)
    print(f"seed: {seed}, {options.seconds:g} seconds, {len(chosen)} servers"
          + (", sanitized" if SANITIZED else ""), flush=True)
    end_on_sigterm()
    bad = 0
    for variant in chosen:
        bad += bool(soak(variant, options.seconds / len(chosen), seed,
                         say=lambda text: print(text, flush=True)))
    return 1 if bad else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
