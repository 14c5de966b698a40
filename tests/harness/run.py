"""One scenario against one variant: starts and connects, and looks after the rest."""

from __future__ import annotations

import random
import resource
import select
import string
import time
from typing import Any, Callable, Iterable, Iterator, Optional, Sequence

from tests.harness.client import Client, Crowd, Mark
from tests.harness.faults import environment
from tests.harness.process import poll_one
from tests.harness.server import HARD, Server
from tests.harness.variants import DEADLINE, Late, Unavailable, Variant

MEBIBYTE = 1 << 20


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

    def start(self, *services: str, args: Sequence[str] = (), faults: str = "",
              **how: Any) -> Server:
        """Starts a server with these services (the scenario's, if none is named); see Server.

        faults: which of its system calls fail, and when: words as for harness/shim.cpp."""
        if faults:
            how["env"] = environment(self.variant, faults)
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

        if not self.until(all_answered, quiet, lambda pause: poll_one(
                waiting[0].fileno(), select.POLLIN, pause)):
            for client in waiting:
                client._note("wait", since=since, text="no answer")
        return count - len(waiting)

    def answered(self, client: Client, quiet: float = 0.25) -> bool:
        """Whether that client gets something to read before the server has slept that long."""
        return self.answers([client], quiet) == 1

    def fill(self, client: Client, data: bytes) -> int:
        """Sends until neither the kernel nor the server takes more; how many bytes went out.

        No signal for who can sleep: it would wake a server that sleeps where it should not.
        """
        sent, refused, taken = 0, 0, -1

        def more() -> int:
            nonlocal sent
            count = client.send_some(data[sent:sent + MEBIBYTE])
            sent += count
            return count

        while sent < len(data) and refused < 3:
            if self.variant.stage == 2:    # never asleep; a stats line is printed in another round
                before, taken = taken, self.server.stats()["bytes_in"]
                refused = 0 if more() or taken != before else refused + 1
            elif not self.until(more, 0.1):
                break
        return sent

    def hard_limit(self, need: int) -> int:
        """How many descriptors a process may have here; Unavailable if that is less than needed."""
        if HARD != resource.RLIM_INFINITY and HARD < need:
            raise Unavailable(f"a process may have {HARD} descriptors here, {need} are needed")
        return min(HARD, 1 << 20) if HARD != resource.RLIM_INFINITY else 1 << 20

    def say(self, text: str) -> None:
        """Tells what happens now, in plain words, for those who watch."""
        if self._watch:                    # which may take its time
            self._watch("say", text)
        self.said.append((time.monotonic(), text))

    def finish(self) -> list[str]:
        """Ends all, and says what was wrong about how: what must hold after every scenario."""
        wrong: list[str] = []
        for client in self.clients:
            client.close()
        for server in self.servers:
            if not server.ended():
                wrong += _leaks(server)
                try:
                    server.stop(seconds=DEADLINE)
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
        server.wait_until(alone, "all clients' sockets closed")
    except (Late, OSError) as late:
        return [f"{late}\n    open: {sorted(server.descriptors().items())}"
                if not server.ended() else str(late)]
    return []


def _letters(number: int) -> str:
    """A, B, ... Z, AA, AB ..."""
    more, last = divmod(number, 26)
    return (_letters(more - 1) if more else "") + string.ascii_uppercase[last]


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
