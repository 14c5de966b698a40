"""One rung against one server: the clients that a rung drives, and what it says of them."""

from __future__ import annotations

import random
import time
from typing import Any, Callable, Iterator, NoReturn, Optional, Sequence

from tests.harness import Client, Late, pump
from tests.ladder.examined import Examined, Unseen

PATIENCE = 2.0                             # seconds without a byte, and it hangs
STUCK = 0.15                               # seconds without a byte taken, and it takes no more


class Failed(Exception):
    """What should have come, and what came."""

    def __init__(self, should: str, came: str) -> None:
        super().__init__(f"{should}; {came}")
        self.should, self.came = should, came


def readable(data: bytes, most: int = 48) -> str:
    """Bytes as Python writes them, shortened."""
    if not data:
        return "nothing"
    cut = data if len(data) <= most else data[:most]
    return ascii(cut)[1:] + (f" and {len(data) - most:,} bytes more" if len(data) > most else "")


class Silence:
    """For how long the server could have done something: time that it stood in line for a CPU is
    left out, or a right server would fail on a machine with much else to do. That is three
    quarters of all time at most: some have more threads than there are CPUs."""

    def __init__(self, server: Examined) -> None:
        self.server = server
        self.broken()

    def broken(self) -> None:
        """Something was heard of it."""
        self._since = self._seen = time.monotonic()
        self._before = self._last = self._look()

    def _look(self) -> tuple[float, float, bool]:
        try:
            return self.server.scheduled()
        except Unseen:
            return 0.0, 0.0, False

    def seconds(self) -> float:
        now, last = time.monotonic(), self._look()
        if last != self._last:
            self._seen, self._last = now, last
        in_line = last[1] - self._before[1] + (now - self._seen) * last[2]
        return now - self._since - min((now - self._since) * 0.75, max(0.0, in_line))


class Exam:
    """What a rung gets: the server, and a way to connect to it."""

    def __init__(self, server: Examined, service: str, stage: int = 0) -> None:
        self.server, self.service = server, service
        self.sleeps = stage != 2           # or it asks all the time, whatever happens
        self.clients: list[Client] = []
        self.random = random.Random(4711)
        self.asked = 0

    def fail(self, should: str, came: str) -> NoReturn:
        raise Failed(should, came)

    # Clients

    def connect(self, name: str = "", seconds: float = PATIENCE, **how: Any) -> Client:
        name = name or "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[len(self.clients) % 26]
        try:
            client = Client((self.server.address, self.server.port), name, self.service,
                            seconds=seconds, **how)
        except (Late, OSError) as error:
            self.alive(f"{name} can connect")
            self.fail(f"{name} can connect", f"it cannot: {error}")
        self.clients.append(client)
        return client

    def crowd(self, most: int, **how: Any) -> list[Client]:
        """As many as that, or as there is room for in the accept queue if nobody accepts them."""
        crowd = [self.connect(**how)]
        while len(crowd) < most:
            try:
                crowd.append(self.connect(seconds=STUCK, **how))
            except Failed:
                break
        return crowd

    def visitor(self, name: str = "", **how: Any) -> Client:
        """One that connects and takes what it is welcomed with, if its service does that."""
        client = self.connect(name, **how)
        if self.service != "echo":
            self.line(client, "a line to welcome it")
        return client

    # What comes back

    def until(self, clients: Sequence[Client], done: Callable[[Client], bool]) -> bool:
        """Sends and receives until all are done; False if nothing has moved for a while."""
        silence, moved = Silence(self.server), time.monotonic()
        while (left := PATIENCE - silence.seconds()) > 0:
            try:
                pump(clients, done, min(left, 0.2))
                break
            except Late:
                last = max(client.marks[-1].at for client in clients)
                if last > moved:
                    silence.broken()
                    moved = last
        return all(done(client) for client in clients)

    def take(self, client: Client, size: int) -> bytes:
        """Exactly so many bytes; fewer if no more come."""
        self.until([client], lambda c: len(c._in) >= size)
        return client._take(min(size, len(client._in)))

    def stuff(self, clients: Sequence[Client]) -> None:
        """Sends what they have to send, and reads nothing, until no more is taken."""
        silence, stuck = Silence(self.server), False
        while any(client._out for client in clients) and not stuck:
            stuck = silence.seconds() >= STUCK           # first: we may have stood in line, too
            for client in clients:
                while client._out and client._push():
                    silence.broken()
                    stuck = False
            time.sleep(0.01)

    def late(self, client: Client, data: bytes, size: int) -> bytes:
        """Sends all, and reads nothing until it can send no more; then all that comes back."""
        client._out = memoryview(data)
        self.stuff([client])
        self.until([client], lambda c: not c._out and len(c._in) >= size)
        return client._take(min(size, len(client._in)))

    def quiet(self) -> None:
        """Until the server has done what it can do without being read from."""
        silence = Silence(self.server)
        while silence.seconds() < STUCK:
            time.sleep(0.01)

    def sips(self, clients: Sequence[Client]) -> Iterator[None]:
        """Reads more slowly than the server writes, so that much waits for them: a step each time,
        until nothing has moved for a while."""
        silence, stuck = Silence(self.server), False
        while not stuck:
            stuck = silence.seconds() >= PATIENCE
            for client in clients:
                if not client.ended and (client._out and client._push()
                                         or client._pull(time.monotonic())):
                    silence.broken()
                    stuck = False
            yield
            time.sleep(0.002)

    def want(self, client: Client, wanted: bytes, what: str = "") -> None:
        """These bytes come next."""
        came = self.take(client, len(wanted))
        if came != wanted:
            self.differs(client, wanted, came, what)

    def differs(self, client: Client, wanted: bytes, came: bytes, what: str = "") -> NoReturn:
        ended = {"eof": ", and then the end", "reset": ", and then a reset",
                 "broken": ", and then a reset"}.get(client.ended, "")
        what = what or f"{client.name} gets " + readable(wanted)
        same = next((i for i, (one, other) in enumerate(zip(wanted, came)) if one != other),
                    min(len(wanted), len(came)))
        if same == len(came) < len(wanted):
            missing = f"{len(came):,} of {len(wanted):,} bytes" if same else "nothing"
            self.fail(what, f"{client.name} got {missing}{ended or f' in {PATIENCE:g} s'}")
        at = f" from byte {same:,} on" if same else ""
        self.fail(what, f"{client.name} got {readable(came[same:])}{at}{ended}")

    def line(self, client: Client, what: str) -> bytes:
        """The next line."""
        self.until([client], lambda c: b"\n" in c._in)
        end = client._in.find(b"\n") + 1
        if not end:
            came = client._take(len(client._in))
            self.fail(f"{client.name} gets {what}", f"{client.name} got {readable(came)}"
                      + (f", and then {client.ended}" if client.ended else f" in {PATIENCE:g} s"))
        return client._take(end)

    def end(self, client: Client, what: str) -> bytes:
        """All that comes until the server ends the connection."""
        if not self.until([client], lambda c: c.ended in ("eof", "reset")):
            self.fail(what, f"{client.name} has not been told the end in {PATIENCE:g} s")
        return client._take(len(client._in))

    # Asking, in any service

    def question(self) -> tuple[bytes, bytes]:
        """Something to ask, and what is to be heard then."""
        self.asked += 1
        text = b"question %d" % self.asked
        return text + b"\n", text + (b" good\n" if self.service == "greet" else b"\n")

    def served(self, client: Client, what: str = "", hearer: Optional[Client] = None) -> None:
        """Asks, and is answered. In a chat, another member hears it."""
        text, answer = self.question()
        client.send(text)
        if self.service != "chat":
            return self.want(client, answer, what and f"{what}: {readable(answer)}")
        assert hearer
        while text.strip() not in (heard := self.line(hearer, "what " + client.name + " said")):
            pass                           # who came and went is told, too
        if not heard.endswith(text):
            self.fail(f"{hearer.name} hears {readable(text)}, and nothing behind it",
                      f"it heard {readable(heard)}")

    def newcomer(self, name: str, what: str = "it is served") -> Client:
        """One that comes now, and is served: in a chat, it is welcomed."""
        client = self.visitor(name)
        if self.service != "chat":
            self.served(client, f"{name}: {what}")
        return client

    # Looking from outside

    def alive(self, what: str) -> None:
        if self.server.ended():
            process = self.server.process
            self.fail(what, "the server has ended" + (
                f": {process.returncode}" if process and process.returncode is not None else ""))

    def settled(self, look: Callable[[], Any], right: Callable[[Any], bool]) -> Any:
        """What there is to be seen once it is right, or will not be any more."""
        silence = Silence(self.server)
        while not right(seen := look()) and silence.seconds() < PATIENCE:
            time.sleep(0.01)
        return seen

    def sleeps_while(self, what: str, seconds: float = 0.3) -> None:
        """Nobody asks anything: it has nothing to do, and no CPU to use. One that spins goes on
        with that; one that is late on a busy machine, or tries again now and then, is looked at
        again."""
        if not self.server.wanted():
            raise Unseen("what CPU it uses cannot be seen")
        least, until = 1.0, time.monotonic() + 2 * PATIENCE
        while least > 0.75:                # one that spins wants all, however busy the machine
            if time.monotonic() > until:
                self.fail(f"it sleeps while {what}",
                          f"it was busy for {least * 100:.0f} % of the time")
            before, began = self.server.wanted(), time.monotonic()
            time.sleep(seconds)
            passed = time.monotonic() - began  # first: we may have to wait for a CPU after that
            least = min(least, (self.server.wanted() - before) / passed)

    def close(self) -> None:
        for client in self.clients:
            client.close()
