"""How the client prints, and what: nothing that drives a terminal."""

from __future__ import annotations

import os
import re
import select
import sys
import unicodedata
from contextlib import suppress

# None if stdout is closed; then nothing is ever printed.
ENCODING = sys.stdout.encoding if sys.stdout else "ascii"
# What the servers do not pass on (shown_length() in text.hpp): control characters, and what breaks
# a line or turns it around. str.isprintable() refuses more that people write: the spaces and
# joiners of other scripts, emoji made of several.
REFUSED = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class Fault(Exception):
    """Ends the client with this line on stderr."""


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
            raise Fault(f"cannot write to stdout: {error.strerror}") from None


def remark(text: str) -> None:
    """A line on stderr. If that is closed or full, the conversation goes on without."""
    with suppress(OSError):
        os.write(2, f"{text}\n".encode(ENCODING, "backslashreplace"))


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
