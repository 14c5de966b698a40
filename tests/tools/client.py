"""Talks to a server: a line typed is a line sent, and what comes back is printed.

    client.py 3 chat        the chat service of stage 3, on 127.0.0.1:9303
    client.py 3 greet --port 7000 --address ::1

It watches the keyboard and the socket at the same time, as the servers of stages 3 to 6 watch
their sockets, so a line that nobody asked for appears while you are typing (line_editor.py). With
its input or output in a pipe it sends and prints without any decoration, and keeps its own remarks
on stderr.
"""

from __future__ import annotations

import argparse
import codecs
import os
import select
import socket
import sys
import time
from contextlib import suppress

from tests.tools.line_editor import Terminal
from tests.tools.printing import Fault, printable, put, remark

SERVICES = ("echo", "greet", "chat")
PATIENCE = 1.0  # seconds without an answer that is due, until we say so
FAREWELL = 1.0  # seconds that a server has to finish, after Ctrl-D
PIECE = 0.2  # seconds until the beginning of a line is shown without its end
QUEUE = 65536  # bytes waiting to be sent, until we stop reading more of them


class Done(Exception):
    """The conversation is over: exit status, and what to say about it."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Pipe:
    """Input and output without decoration: bytes go through as they are."""

    def __init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def typed(self, data: bytes) -> tuple[bytes, bool]:
        """What to send for what was read from stdin, and whether that was the end."""
        return data, not data

    def show(self, data: bytes) -> None:
        put(printable(self.decoder.decode(data)))

    def say(self, text: str) -> None:
        remark(f"-- {text}")

    def flush(self) -> None:
        """Nothing follows: half a character was all there is of it."""
        put(printable(self.decoder.decode(b"", final=True)))

    def prompt(self, shown: bool) -> None:
        pass

    def give_back(self) -> None:
        pass


class Client:
    def __init__(self, connection: socket.socket, screen: Pipe | Terminal, service: str) -> None:
        self.socket = connection
        self.screen = screen
        self.terminal = screen if isinstance(screen, Terminal) else None
        self.service = service
        self.outbox = b""
        self.open = True  # there may be more to send
        # Lines that the server still owes us. In a chat only the first one is sure to come.
        self.due = 0 if service == "echo" else 1
        self.due_since = time.monotonic()
        self.impatient = False  # we have said that the answer is late
        self.last = 0.0  # when bytes came in
        self.leave_at: float | None = None

    def run(self) -> None:
        """Around select, since this is about three descriptors, and epoll refuses a file."""
        while True:
            self.screen.prompt(self.open and not self.due)
            reading: list[object] = [self.socket]
            if self.open and len(self.outbox) < QUEUE:
                reading.append(0)
            if self.terminal:
                reading.append(self.terminal.signals)
            # Watch for writing only while there is something to write: stage 3's lesson.
            writing = [self.socket] if self.outbox else []
            reading, writing, _ = select.select(reading, writing, [], self.time_limit())
            if self.terminal and self.terminal.signals in reading:
                self.terminal.woken()
                continue  # we may have been stopped, and what was ready is no more
            if writing:
                self.send()
            if self.socket in reading:
                self.receive()
            if 0 in reading:
                self.read_keyboard()
            self.look_at_clock()

    def read_keyboard(self) -> None:
        try:
            read = os.read(0, QUEUE)
        except OSError:  # the terminal is gone, or 0 was never open for reading
            read = b""
        data, end = self.screen.typed(read)
        owed = int(end)  # the server's own end
        if self.service != "chat":
            owed += data.count(b"\n")
        if owed and not self.due:
            self.due_since = time.monotonic()
        self.due += owed
        self.outbox += data
        self.open = not end
        self.send()
        if end and self.terminal:
            self.leave_at = time.monotonic() + FAREWELL

    def send(self) -> None:
        try:
            while self.outbox:
                self.outbox = self.outbox[self.socket.send(self.outbox):]
        except BlockingIOError:
            return  # the rest when there is room: run() sees to it
        except (BrokenPipeError, ConnectionResetError):
            self.outbox, self.open = b"", False  # receive() finds out what has happened
            return
        if not self.open:
            # Half-closed: the server sees the end of input, and can still answer.
            with suppress(OSError):  # broken off by the server: receive() finds out
                self.socket.shutdown(socket.SHUT_WR)

    def receive(self) -> None:
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            raise Done(1, f"the server broke off the connection: {error.strerror}") from None
        if not data:
            raise Done(0, "the server closed the connection")
        now = time.monotonic()
        self.screen.show(data)
        if self.impatient:
            self.screen.say(f"that took {now - self.due_since:.1f} s")
        self.due = max(0, self.due - data.count(b"\n"))
        self.due_since = self.last = now
        self.impatient = False

    def deadlines(self) -> list[tuple[float, object]]:
        """What happens when nothing else does."""
        found: list[tuple[float, object]] = []
        if self.due and not self.impatient:
            found.append((self.due_since + PATIENCE, self.grow_impatient))
        if self.terminal and self.terminal.partial:
            found.append((self.last + PIECE, self.take_piece))
        if self.terminal and self.terminal.asked:
            found.append((self.terminal.asked_at + PIECE, self.terminal.not_located))
        if self.leave_at is not None:
            found.append((self.leave_at, self.leave))
        return found

    def time_limit(self) -> float | None:
        times = [when for when, _ in self.deadlines()]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def look_at_clock(self) -> None:
        for when, act in self.deadlines():
            if when <= time.monotonic():
                act()

    def grow_impatient(self) -> None:
        self.impatient = True
        self.screen.say(f"no answer for {PATIENCE:.0f} s: is the server busy with somebody else?")

    def take_piece(self) -> None:
        """A server that ends its answers without a newline has answered, too."""
        self.screen.flush()
        self.due = max(0, self.due - 1)

    def leave(self) -> None:
        raise Done(0, "left without waiting for the server any longer")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Talks to the server of a stage.")
    parser.add_argument("stage", type=int, choices=range(1, 7), help="1 to 6")
    parser.add_argument("service", nargs="?", default="echo", choices=SERVICES)
    parser.add_argument("--address", default="127.0.0.1", help="127.0.0.1 if not given")
    parser.print_help = lambda: put(parser.format_help())  # a full disk gets one line, there, too
    parser.add_argument("--port", type=int, help="9N01, 9N02 or 9N03 if not given")
    words = parser.parse_args()
    if words.port is None:
        words.port = 9000 + 100 * words.stage + 1 + SERVICES.index(words.service)
    if not 1 <= words.port <= 65535:
        parser.error(f"--port {words.port}: ports are 1 to 65535")
    return words


def main() -> int:
    # What is closed of 0, 1 and 2 would become the socket's number, as open() and socket() take the
    # lowest that is free. /dev/null in its place: there, stdin is at its end.
    while (unused := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(unused)
    if not sys.stdout:
        raise Fault("cannot write to stdout: it is closed")

    words = parse()
    where = (f"[{words.address}]" if ":" in words.address else words.address) + f":{words.port}"
    try:
        connection = socket.create_connection((words.address, words.port), timeout=10)
    except ConnectionRefusedError:
        raise Fault(f"nothing listens on {where}: start the server first, in another terminal: "
                    f"make run-{words.stage}") from None
    except UnicodeError:  # a..b
        raise Fault(f"cannot connect to {where}: that is no host name") from None
    except OSError as error:
        raise Fault(f"cannot connect to {where}: {error.strerror or error}") from None
    connection.setblocking(False)

    screen = Terminal() if os.isatty(0) and os.isatty(1) else Pipe()
    try:
        screen.say(f"connected to {where}, {words.service}; Ctrl-D leaves")
        Client(connection, screen, words.service).run()
    except Done as done:
        screen.flush()
        screen.say(str(done))
        return done.status
    finally:
        screen.give_back()
        connection.close()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (KeyboardInterrupt, BrokenPipeError):  # Ctrl-C; nobody reads what we print any more
        pass
    except Fault as fault:
        remark(str(fault))
        sys.exit(1)
