"""What every program here does about its stdout: output.run(main, "demo") in place of main().

    the reader leaves (`| head -1`)   the program ends quietly, with status 0
    it cannot be written (disk full)  one line on stderr, and status 1
    it is non-blocking                the program waits until there is room, and loses nothing
    it has no such letter (ASCII)     something that looks like it is printed, or an escape

styled(stream) says whether a stream may get escape sequences; Style(stream) writes them.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
from typing import Any, Callable, NoReturn, Optional, TextIO

STAND_INS = {"µ": "u", "±": "~"}               # of one column each: tables stay aligned


class Stream(io.FileIO):
    """Descriptor 1 or 2. A write that fails raises SystemExit, so that every `finally` is run; a
    SystemExit is no OSError, which callers expect from their sockets."""

    def __init__(self, fd: int, program: str) -> None:
        super().__init__(fd, "w", closefd=False)
        self.program = program

    def write(self, data: Any) -> int:
        while True:
            try:
                count = super().write(data)
            except OSError as error:
                self.give_up(error)
            if count is not None:
                return count
            room = select.poll()               # non-blocking, and there is no room
            room.register(self, select.POLLOUT)
            room.poll()

    def give_up(self, error: OSError) -> NoReturn:
        # What buffers still hold is written later, at the latest at the end: not to fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
        if self.fileno() == 1 and isinstance(error, ConnectionError):     # EPIPE, ECONNRESET
            raise SystemExit(0)
        if self.fileno() == 1:
            complain(self.program, error)
        raise SystemExit(1)


def complain(program: str, error: OSError) -> None:
    print(f"{program}: stdout: {error.strerror}", file=sys.stderr)


def stand_in(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    letter = error.object[error.start]
    code = ord(letter)
    if 0xdc80 <= code <= 0xdcff:               # a byte of a file's name (os.fsdecode())
        code -= 0xdc00
    return STAND_INS.get(letter) or ascii(chr(code))[1:-1], error.start + 1


def stream(fd: int, old: TextIO, program: str) -> TextIO:
    return io.TextIOWrapper(io.BufferedWriter(Stream(fd, program)), old.encoding, "stand_in",
                            line_buffering=fd == 2 or old.isatty())


def run(main: Callable[[], Optional[int]], program: str) -> NoReturn:
    """Ends this program with what main() returns; Ctrl-C is 130, as for a shell."""
    codecs.register_error("stand_in", stand_in)
    # Python has None for what was closed, and print() takes that for stdout.
    sys.stdin = sys.stdin or open(os.devnull)
    sys.stderr = stream(2, sys.stderr, program) if sys.stderr else open(os.devnull, "w")
    if not sys.stdout:
        complain(program, OSError(errno.EBADF, os.strerror(errno.EBADF)))
        sys.exit(1)
    sys.stdout = stream(1, sys.stdout, program)
    status: Any = 0
    for step in main, sys.stdout.flush:
        try:
            status = step() or status
        except SystemExit as end:              # from argparse, or from a Stream
            status = status or end.code
        except KeyboardInterrupt:
            status = 130
    sys.exit(status)


def styled(stream: TextIO) -> bool:
    return bool(stream.isatty() and not os.environ.get("NO_COLOR")
                and os.environ.get("TERM", "dumb") not in ("", "dumb"))


class Style:
    """Colour where a stream may get it."""

    def __init__(self, stream: TextIO) -> None:
        self.color = styled(stream)

    def paint(self, text: str, code: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.color and text.strip() else text

    def worst(self, text: str) -> str:
        return self.paint(text, "1;31")

    def soft(self, text: str) -> str:
        return self.paint(text, "2")

    def strong(self, text: str) -> str:
        return self.paint(text, "1")
