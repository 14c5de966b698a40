"""What greet and chat answer, once more and quite differently: the tests' model of the protocol.

    Greet().feed(bytes), .end()        -> what the server sends, as far as it is decided
    Chat().join(), .feed(m, bytes), .leave(m)
                                       -> {member: what the server sends to it}

Both take bytes as they come, cut anywhere. And mutations(random) makes input that is meant ill.
"""

from __future__ import annotations

import random
import re

LIMIT = 4096
WELCOME = "welcome: every line comes back with ' good' behind it, q ends\n"
GOODBYE = "goodbye\n"
GREET_STOP = "goodbye: the server stops\n"
GREET_TOO_LONG = "error: a line is 4096 bytes at the most\n"
CHAT_STOP = "* the server stops\n"
CHAT_TOO_LONG = "* a line is 4096 bytes at the most\n"
BAD_NAME = "* a name is 1 to 20 letters, digits, - or _\n"
TAKEN = "* that name is taken\n"
UNKNOWN = "* no such command: there are /nick NAME and /who\n"


class Lines:
    """Cuts a stream into lines; None in the place of one that is too long."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> list:
        *whole, self.rest = (self.rest + data).split(b"\n")
        lines = [line[:-1] if line.endswith(b"\r") else line for line in [*whole, self.rest]]
        found = [None if len(line) > LIMIT else line for line in lines]
        rest = found.pop()
        if rest is None:                           # no newline yet, and too long already
            found.append(None)
        return found


class Greet:
    """One client of greet. `ended`: it hears no more."""

    def __init__(self) -> None:
        self.lines, self.ended = Lines(), False

    def feed(self, data: bytes) -> bytes:
        said = b""
        for line in self.lines.feed(data):
            if self.ended:
                break
            if line is None or line == b"q":
                self.ended = True
                said += (GREET_TOO_LONG if line is None else GOODBYE).encode()
            else:
                said += line + b" good\n"
        return said

    def end(self) -> bytes:
        return self.feed(b"\n") if self.lines.rest and not self.ended else b""


def printable(text: bytes) -> bytes:
    """Python's own decoder tells what is valid; each byte of what is not becomes '?'."""
    shown = text.decode("utf-8", "surrogateescape")
    return "".join("?" * len(c.encode("utf-8", "surrogateescape"))
                   if ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or 0xDC80 <= ord(c) <= 0xDCFF
                   or 0x2028 <= ord(c) <= 0x202E or 0x2066 <= ord(c) <= 0x2069
                   else c for c in shown).encode()


class Chat:
    """A room. Members are numbers, as join() hands them out."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}            # in order of joining
        self.lines: dict[int, Lines] = {}
        self.ended: set[int] = set()
        self.guests = 0
        self._said: dict[int, bytes] = {}

    def join(self) -> tuple[int, dict[int, bytes]]:
        self.guests += 1
        me, name = self.guests, f"guest-{self.guests}"
        others = "here: " + self._list() if self.names else "alone here"
        for member in self.names:
            self._say(member, f"* {name} joins\n")
        self.names[me], self.lines[me] = name, Lines()
        self._say(me, f"* you are {name}, {others}\n")
        return me, self._take()

    def feed(self, me: int, data: bytes) -> dict[int, bytes]:
        for line in self.lines[me].feed(data):
            if me in self.ended:
                break
            if line is None:
                self._say(me, CHAT_TOO_LONG)
                self._gone(me)
                self.ended.add(me)
            else:
                self._take_line(me, line)
        return self._take()

    def leave(self, me: int) -> dict[int, bytes]:
        if self.lines[me].rest and me not in self.ended:
            self._take_line(me, self.lines[me].rest.removesuffix(b"\r")
                            if hasattr(bytes, "removesuffix") else self.lines[me].rest)
        self._gone(me)
        return self._take()

    def _take_line(self, me: int, line: bytes) -> None:
        word = line.split(b" ", 1)[0]
        if word == b"/nick":
            self._rename(me, line[6:])
        elif line == b"/who":
            self._say(me, f"* here: {self._list()}\n")
        elif line.startswith(b"/"):
            self._say(me, UNKNOWN)
        elif line:
            for other in self.names:
                if other != me:
                    self._say(other, self.names[me].encode() + b": " + printable(line) + b"\n")

    def _rename(self, me: int, name: bytes) -> None:
        if not re.fullmatch(rb"[A-Za-z0-9_-]{1,20}", name):
            return self._say(me, BAD_NAME)
        low = name.decode().lower()
        if low.startswith("guest-") or low == "server" or any(
                other != me and have.lower() == low for other, have in self.names.items()):
            return self._say(me, TAKEN)
        for member in self.names:
            self._say(member, f"* {self.names[me]} is now {name.decode()}\n")
        self.names[me] = name.decode()

    def _gone(self, me: int) -> None:
        if me in self.names:
            name = self.names.pop(me)
            for member in self.names:
                self._say(member, f"* {name} leaves\n")

    def _list(self) -> str:
        names = list(self.names.values())
        more = f" and {len(names) - 50} more" if len(names) > 50 else ""
        return ", ".join(names[:50]) + more

    def _say(self, member: int, text) -> None:
        self._said[member] = self._said.get(member, b"") + (
            text if isinstance(text, bytes) else text.encode())

    def _take(self) -> dict[int, bytes]:
        said, self._said = self._said, {}
        return said


# --- input that is meant ill ----------------------------------------------------------------

SEEDS = [
    b"", b"hello", b"q", b" q", b"q ", b"Q", b"\r", b"\r\r", b"q\r", b"/nick anna", b"/nick ",
    b"/who", b"/nick server", b"/nick guest-1", b"/nick SERVER", b"/nick " + b"x" * 20,
    b"/nick " + b"x" * 21, b"/nick a b", b"/nick anna\0", b"/nick \xd0\xb0nna", b"/who ", b"/",
    b"//", b"* anna leaves", b"anna: hello", b"\0", b"\xff\xfe", b"\x1b[2J\x1b]0;x\x07",
    b"\x9b31m", b"\xc2\x9b31m", b"\xc2\xa0", "größer \u20ac \U0001d11e".encode(), b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80", b"\xc0\xaf", b"%s%n", b"\xe2\x80\xae", b"x" * 4095, b"x" * 4096,
    b"x" * 4096 + b"\r", b"x" * 4097, b"\xc3" * 4096, b"\r\n".join([b"a"] * 50), b"\n" * 100,
    b"\t\x0b\x0c\x7f", b"\x80\xbf" * 30]


def ill_line(chance: random.Random, harmless: bool = False) -> bytes:
    """A line (or several, or half of one) made of the seeds, mutated."""
    line = bytearray(chance.choice(SEEDS))
    for _ in range(chance.choice((0, 0, 1, 2, 8))):
        at = chance.randrange(len(line) + 1)
        how = chance.randrange(5)
        if how == 0:
            line[at:at] = bytes([chance.randrange(256)])
        elif how == 1:
            line[at:at + chance.randrange(4)] = b""
        elif how == 2:
            line[at:at] = chance.choice(SEEDS)
        elif how == 3 and line:
            line[at % len(line)] ^= 1 << chance.randrange(8)
        else:
            line[at:at] = chance.choice((b"\n", b"\r", b"\r\n", b"/", b" ", b"\0", b"\x1b"))
    if harmless:                                   # nothing that ends the conversation
        line = line.replace(b"\n", b"")[:LIMIT - 10]
        if line.startswith(b"q"):
            line[:1] = b"Q"
    return bytes(line)


def pieces(chance: random.Random, data: bytes) -> list[bytes]:
    """The same bytes, cut anywhere."""
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.choice((0, 0, 1, 3))))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)]) if a < b]
