"""One connection, or many: a deadline on all that is done, and a record of what was."""

from __future__ import annotations

import os
import select
import selectors
import socket
import struct
import time
from dataclasses import dataclass
from typing import Callable, Iterable, Optional

from tests.harness.process import poll_one
from tests.harness.variants import DEADLINE, Late

SMALL = {"rcvbuf": 16 * 1024, "mss": 1400}       # a window that does not hide what is queued


@dataclass(eq=False)
class Mark:
    """What a client did: from when to when (monotonic), what, how many bytes, the first 40."""
    since: float
    at: float
    what: str                  # connect send recv eof reset half_close urgent close wait note
    bytes: int = 0
    text: str = ""


class Client:
    """One connection. What takes too long raises Late."""

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
        if not poll_one(self.sock.fileno(), select.POLLOUT, seconds):
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

    def recv_lines_until(self, last: bytes) -> list[bytes]:
        """Lines up to one that begins like that, or to the end of all."""
        lines = [self.recv_line()]
        while lines[-1] and not lines[-1].startswith(last):
            lines.append(self.recv_line())
        return lines

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
            if not self._push() and not poll_one(self.fileno(), select.POLLOUT, 0.02):
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
        found = bool(poll_one(self.sock.fileno(), select.POLLIN, seconds))
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

    def interest(client: Client) -> int:
        return (selectors.EVENT_READ * reading) | (selectors.EVENT_WRITE * bool(client._out))

    def over(client: Client) -> bool:
        return (client.ended in ("eof", "reset", "closed") or done(client)
                or client.ended == "broken" and not reading)

    late = []
    for client in clients:
        while client._out and client._push():            # at once, as long as it goes
            pass
        if not over(client):
            late.append(client)
    if not late:
        return
    with selectors.DefaultSelector() as selector:
        for client in late:
            selector.register(client, interest(client))
        while waiting := selector.get_map():
            left = began + seconds - time.monotonic()
            ready = selector.select(max(0, left))
            if not ready and left <= 0:
                some = ", ".join(f"{key.fileobj.name} (got {bytes(key.fileobj._in[-60:])!r})"
                                 for key in list(waiting.values())[:5])
                raise Late(f"{seconds:g} s, and not {what}: {len(waiting)} clients: {some}")
            for key, events in ready:
                client, before = key.fileobj, key.events
                if events & selectors.EVENT_WRITE:
                    client._push()
                if events & selectors.EVENT_READ:
                    client._pull(max(began, client.marks[-1].at if client.marks else began))
                if over(client):
                    selector.unregister(client)
                elif before != interest(client):
                    selector.modify(client, interest(client))


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
