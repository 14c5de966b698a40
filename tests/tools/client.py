"""Talks to a server: a line typed is a line sent, and what comes back is printed.

    client.py 3 chat        the chat service of stage 3, on 127.0.0.1:9303
    client.py 3 greet --port 7000 --address ::1

It watches the keyboard and the socket at the same time, as the servers of stages 3 to 6 watch
their sockets, so a line that nobody asked for appears while you are typing. On a terminal it edits
the line itself, without escape sequences where TERM is dumb or NO_COLOR is set; with its input or
output in a pipe it sends and prints without any decoration, and keeps its own remarks on stderr.
"""

from __future__ import annotations

import argparse
import codecs
import errno
import os
import re
import select
import selectors
import signal
import socket
import string
import sys
import termios
import time
import unicodedata

SERVICES = ("echo", "greet", "chat")
PROMPT = "> "
PATIENCE = 1.0  # seconds without an answer that is due, until we say so
FAREWELL = 1.0  # seconds that a server has to finish, after Ctrl-D
PIECE = 0.2  # seconds until the beginning of a line is shown without its end
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
CTRL_Z = 0  # what no signal has as its number
LAST_OF_KEY = "~" + string.ascii_letters
QUEUE = 65536  # bytes waiting to be sent, until we stop reading more of them

# None if stdout is closed; then nothing is ever printed.
ENCODING = sys.stdout.encoding if sys.stdout else "ascii"
# What the servers do not pass on (shown_length() in text.hpp): control characters, and what breaks
# a line or turns it around. str.isprintable() refuses more that people write: the spaces and
# joiners of other scripts, emoji made of several.
REFUSED = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
PLAIN = os.environ.get("TERM", "") in ("", "dumb") or bool(os.environ.get("NO_COLOR"))


class Done(Exception):
    """The conversation is over: exit status, and what to say about it."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Unwritable(Exception):
    """stdout does not take what we print."""


def put(text: str) -> None:
    """Prints at once. sys.stdout would keep what it could not write, and fail again at the end."""
    data = text.encode(ENCODING, "backslashreplace")
    while data:
        try:
            data = data[os.write(1, data):]
        except BlockingIOError:  # another program has left O_NONBLOCK on this terminal or pipe
            select.select([], [1], [])
        except BrokenPipeError:
            raise  # nobody reads it any more: no fault
        except OSError as error:
            raise Unwritable(f"cannot write to stdout: {error.strerror}") from None


def remark(text: str) -> None:
    """A line on stderr. If that is closed or full, the conversation goes on without."""
    try:
        os.write(2, f"{text}\n".encode(ENCODING, "backslashreplace"))
    except OSError:
        pass


def printable(text: str) -> str:
    """No server drives our terminal: what could, and what stdout has no bytes for, is an escape."""
    text = REFUSED.sub(lambda refused: refused[0].encode("unicode_escape").decode(), text)
    return text.encode(ENCODING, "backslashreplace").decode(ENCODING)


def width(text: str) -> int:
    """Columns on a terminal: Chinese and Korean letters take two; accents of their own, joiners and
    the later letters of a Korean syllable (U+1160 to U+11FF) none; a soft hyphen is shown."""
    return sum(0 if (unicodedata.category(c) in ("Mn", "Me", "Cf") or "\u1160" <= c <= "\u11ff")
               and c != "\u00ad" else
               2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def behind(text: str, columns: int) -> tuple[int, int]:
    """Where the cursor stands behind that text: rows below its first, and the column."""
    row = column = 0
    for c in text:
        if column + width(c) > columns:
            row, column = row + 1, 0
        column += width(c)
    return row, column


class Pipe:
    """Input and output without decoration: bytes go through as they are."""

    signals = None  # nothing to put right: they do what they always do

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

    def close(self) -> None:
        pass


class Terminal:
    """A prompt at the bottom, with the line being typed; what arrives is printed above it."""

    def __init__(self) -> None:
        self.line: list[str] = []  # typed, and not yet sent
        self.escape = ""  # the beginning of an arrow key or the like
        self.partial = bytearray()  # received, and its newline has not
        self.prompted = False
        self.shown = ""  # the prompt's row, as it was drawn
        self.known = 0  # columns, when we last looked
        self.asked = 0  # times that the terminal has been asked where its cursor is
        self.asked_at = 0.0
        self.held = ""  # what is printed when it has answered
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.before = termios.tcgetattr(0)
        # A handler runs in the middle of anything, of a write, too. So ours do nothing, and the
        # signal becomes a byte to be read, as in the servers (signals.hpp).
        self.signals, self.wakeup = os.pipe()
        os.set_blocking(self.wakeup, False)
        signal.set_wakeup_fd(self.wakeup, warn_on_full_buffer=False)
        for number in (*ENDS, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, lambda *_: None)
        self.take()

    def take(self) -> None:
        """Every key at once, and none shown unasked. Ctrl-Z is a key like others: the kernel would
        stop make and us together, and the shell go on before we have given the terminal back. After
        Ctrl-S any key starts the output again (IXANY), or we would not come to read Ctrl-Z."""
        self.taken = True
        modes = [*self.before[:6], self.before[6][:]]
        modes[0] |= termios.IXANY
        modes[3] &= ~(termios.ECHO | termios.ICANON)
        modes[6][termios.VMIN], modes[6][termios.VTIME] = 1, 0
        modes[6][termios.VSUSP] = bytes([os.fpathconf(0, "PC_VDISABLE")])
        self.set_modes(modes)

    def give_back(self) -> None:
        if self.taken:
            self.located(0)
            self.taken = False
            try:
                put(self.erase() + self.held)
                self.held = ""
            finally:
                self.set_modes(self.before)

    def set_modes(self, modes: list) -> None:
        while True:
            try:
                return termios.tcsetattr(0, termios.TCSANOW, modes)
            except termios.error as error:
                if error.args[0] != errno.EINTR:  # stopped in the background, and brought back
                    return  # the terminal is gone: reading tells

    def woken(self) -> None:
        """What signals have come?"""
        numbers = os.read(self.signals, 4096)
        for number in ENDS:
            if number in numbers:  # close() gives the terminal back
                sys.exit(0 if number == signal.SIGINT else 128 + number)
        if CTRL_Z in numbers:
            try:
                self.stop(-os.tcgetpgrp(0))  # all that the kernel would have stopped
            except OSError:  # this terminal controls nobody
                pass
        elif numbers.rfind(signal.SIGTSTP) > numbers.rfind(signal.SIGCONT):
            self.stop(os.getpid())
        elif signal.SIGCONT in numbers:
            self.take()
            self.shown = ""  # the cursor is elsewhere
            self.draw()
        elif self.columns() != self.known:  # SIGWINCH
            self.draw()

    def stop(self, pid: int) -> None:
        """Some shells (dash) leave a terminal as they find it: it is given back before we stop."""
        ours = signal.getsignal(signal.SIGTSTP)
        if ours == signal.SIG_IGN:  # a shell without job control
            return
        self.give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(pid, signal.SIGTSTP)  # returns after fg; or at once where nobody could say fg
        signal.signal(signal.SIGTSTP, ours)
        os.write(self.wakeup, bytes([signal.SIGCONT]))

    def columns(self) -> int:
        try:
            return os.get_terminal_size(1).columns or 80
        except OSError:  # it is gone
            return 80

    def row(self) -> str:
        """The prompt, and as much of the line's end as fits beside it. The last column stays free:
        a row that is full may be wrapped, and a second row could not be cleared."""
        columns = self.columns()
        start = PROMPT if self.prompted and columns > len(PROMPT) + 2 else ""
        room = columns - 1 - len(start)
        shown: list[str] = []
        for key in reversed(self.line):
            key = printable(key)
            if width(key) > room:
                while shown and not width(shown[-1]):
                    shown.pop()  # an accent, and its letter is left out
                break
            shown.append(key)
            room -= width(key)
        return start + "".join(reversed(shown))

    def draw(self, above: str = "") -> None:
        """Clears the prompt's row, prints lines, and puts the prompt beneath them again."""
        self.held += above
        columns = self.columns()
        # A terminal made narrower than the row wraps it anew, and the cursor is now some rows below
        # the prompt; or cuts the row off. Where its cursor is, tells (DSR 6 in ECMA-48).
        if columns != self.known and not PLAIN and (self.asked or behind(self.shown, columns)[0]):
            self.asked += 1
            self.asked_at = time.monotonic()
            put("\033[6n")
        self.known = columns
        if not self.asked:
            row = self.row()
            put(self.erase() + self.held + row)
            self.shown, self.held = row, ""

    def located(self, column: int) -> None:
        """The terminal says where its cursor is; 0: not yet, so it is taken for one that wraps."""
        if not self.asked:
            return
        self.asked = self.asked - 1 if column else 0
        if not self.asked and (not column or self.columns() == self.known):
            rows, at = behind(self.shown, self.known)
            full = at == self.known  # then the cursor is on its last column, or behind, or below
            rows += full and column == 1
            if rows and (full or column in (0, at + 1)):
                put(f"\r\033[{rows}A\033[J")
            self.shown = ""

    def not_located(self) -> None:
        """No answer: this terminal has none."""
        self.located(0)
        self.draw()

    def erase(self) -> str:
        if not PLAIN:
            return "\r\033[K"
        return "\r" + " " * min(width(self.shown), self.columns() - 1) + "\r"

    def typed(self, data: bytes) -> tuple[bytes, bool]:
        send = b""
        for key in self.decoder.decode(data):
            if self.escape and key >= " ":  # ESC [ 1 ; 5 C, ESC O P: no key of ours, all is skipped
                self.escape = (self.escape + key)[:16]
                if self.escape[1] not in "[O" or (len(self.escape) > 2 and key in LAST_OF_KEY):
                    answer = re.match(r"\033\[\d+;(\d+)R", self.escape)
                    if answer:
                        self.located(int(answer[1]))
                    self.escape = ""
                continue
            self.escape = ""
            if key == self.before[6][termios.VSUSP].decode("latin-1") != "\0":
                os.write(self.wakeup, bytes([CTRL_Z]))  # first, what is typed is sent
            elif key == "\033":
                self.escape = key
            elif key == "\n":
                sent, self.line = "".join(self.line), []
                self.draw((PROMPT if self.prompted else "") + sent + "\n")
                send += sent.encode() + b"\n"
            elif key in "\b\177":
                del self.line[-1:]
            elif key == "\025":  # Ctrl-U
                self.line = []
            elif key == "\027":  # Ctrl-W
                self.line = list(" ".join("".join(self.line).split(" ")[:-1]))
            elif key == "\004":  # Ctrl-D
                if not self.line:
                    return send, True
            elif not REFUSED.match(key):
                self.line.append(key.replace("\t", " "))
        self.draw()
        return send, not data

    def show(self, data: bytes) -> None:
        self.partial += data
        end = self.partial.rfind(b"\n", len(self.partial) - len(data)) + 1
        if end:
            self.draw(printable(self.partial[:end].decode(errors="backslashreplace")))
            del self.partial[:end]

    def flush(self) -> None:
        """The end of a line is slow to come, or never does: show what there is of it."""
        if self.partial:
            self.show(b"\n")

    def say(self, text: str) -> None:
        self.draw(f"-- {text}\n")

    def prompt(self, shown: bool) -> None:
        if shown != self.prompted:
            self.prompted = shown
            self.draw()

    def close(self) -> None:
        self.give_back()


class Client:
    def __init__(self, connection: socket.socket, screen: Pipe | Terminal, service: str) -> None:
        self.socket = connection
        self.screen = screen
        self.service = service
        self.outbox = b""
        self.open = True  # there may be more to send
        # Lines that the server still owes us. In a chat only the first one is sure to come.
        self.due = 0 if service == "echo" else 1
        self.due_since = time.monotonic()
        self.impatient = False  # we have said that the answer is late
        self.last = 0.0  # when bytes came in
        self.leave_at: float | None = None
        # select, since this is about three descriptors, and since epoll refuses a file as input.
        self.selector = selectors.SelectSelector()
        self.selector.register(connection, selectors.EVENT_READ)
        self.selector.register(0, selectors.EVENT_READ)
        if screen.signals is not None:
            self.selector.register(screen.signals, selectors.EVENT_READ)

    def run(self) -> None:
        while True:
            self.screen.prompt(self.open and not self.due)
            self.watch()
            ready = {key.fd: mask for key, mask in self.selector.select(self.time_limit())}
            if self.screen.signals in ready:
                self.screen.woken()
                continue  # we may have been stopped, and what was ready is no more
            if ready.get(self.socket.fileno(), 0) & selectors.EVENT_WRITE:
                self.send()
            if ready.get(self.socket.fileno(), 0) & selectors.EVENT_READ:
                self.receive()
            if 0 in ready:
                self.read_keyboard()
            self.look_at_clock()

    def watch(self) -> None:
        """Watch for writing only while there is something to write: stage 3's lesson."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.outbox else 0)
        self.selector.modify(self.socket, events)
        watched = 0 in self.selector.get_map()
        wanted = self.open and len(self.outbox) < QUEUE
        if watched and not wanted:
            self.selector.unregister(0)
        elif wanted and not watched:
            self.selector.register(0, selectors.EVENT_READ)

    def read_keyboard(self) -> None:
        try:
            read = os.read(0, QUEUE)
        except OSError:  # the terminal is gone, or 0 was never open for reading
            read = b""
        data, end = self.screen.typed(read)
        owed = 0 if self.service == "chat" else data.count(b"\n")
        if end:
            owed += 1  # the server's own end
        if owed and not self.due:
            self.due_since = time.monotonic()
        self.due += owed
        self.outbox += data
        self.open = not end
        self.send()
        if end and isinstance(self.screen, Terminal):
            self.leave_at = time.monotonic() + FAREWELL

    def send(self) -> None:
        try:
            while self.outbox:
                self.outbox = self.outbox[self.socket.send(self.outbox):]
        except BlockingIOError:
            return  # the rest when there is room: watch() sees to it
        except (BrokenPipeError, ConnectionResetError):
            self.outbox, self.open = b"", False  # receive() finds out what has happened
            return
        if not self.open:
            # Half-closed: the server sees the end of input, and can still answer.
            try:
                self.socket.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # broken off by the server: receive() finds out

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
        if isinstance(self.screen, Terminal) and self.screen.partial:
            found.append((self.last + PIECE, self.take_piece))
        if isinstance(self.screen, Terminal) and self.screen.asked:
            found.append((self.screen.asked_at + PIECE, self.screen.not_located))
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
        raise Unwritable("cannot write to stdout: it is closed")

    words = parse()
    where = (f"[{words.address}]" if ":" in words.address else words.address) + f":{words.port}"
    try:
        connection = socket.create_connection((words.address, words.port), timeout=10)
    except ConnectionRefusedError:
        remark(f"nothing listens on {where}: start the server first, in another terminal: "
               f"make run-{words.stage}")
        return 1
    except UnicodeError:  # a..b
        remark(f"cannot connect to {where}: that is no host name")
        return 1
    except OSError as error:
        remark(f"cannot connect to {where}: {error.strerror or error}")
        return 1
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
        screen.close()
        connection.close()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (KeyboardInterrupt, BrokenPipeError):  # Ctrl-C; nobody reads what we print any more
        pass
    except Unwritable as fault:
        remark(str(fault))
        sys.exit(1)
