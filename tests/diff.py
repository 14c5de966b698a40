#!/usr/bin/env python3
"""What changed from one stage to the next: diff.py 03_select 04_poll

The opening comments first, since they differ in every line; then the code; then which headers are
the same, new or gone."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

COLOURS = {"-": "\033[31m", "+": "\033[32m", "@": "\033[36m"}
PLAIN = "\033[m"


def parts(path: Path) -> tuple[list[str], list[str]]:
    """The lines of the opening comment, and the lines of the code."""
    lines = path.read_text().splitlines()
    length = next((i for i, line in enumerate(lines) if not line.startswith("//")), len(lines))
    return lines[:length], lines[length:]


def changes(old: list[str], new: list[str], before: int, after: int) -> Iterator[str]:
    """A unified diff without its head, of lines that begin at these lines of their files."""
    for line in list(difflib.unified_diff(old, new, lineterm=""))[2:]:
        place = re.match(r"@@ -(\d+)(\S*) \+(\d+)(\S*) @@", line)
        if place:
            line = (f"@@ -{int(place[1]) + before}{place[2]} +{int(place[3]) + after}{place[4]} @@")
        yield line


def compare(old: Path, new: Path) -> Iterator[str]:
    (comment, code), (new_comment, new_code) = parts(old / "server.cpp"), parts(new / "server.cpp")
    yield f"--- {old.name}/server.cpp"
    yield f"+++ {new.name}/server.cpp"
    yield "@@ the opening comment @@"
    yield from (f"-{line}" for line in comment)
    yield from (f"+{line}" for line in new_comment)
    changed = list(changes(code, new_code, len(comment), len(new_comment)))
    yield from changed
    yield ""
    yield (f"changed lines: {sum(line[:1] in ('-', '+') for line in changed)} of code, "
           f"{len(comment) + len(new_comment)} of opening comment")
    headers = [{path.name for path in folder.glob("*.hpp")} for folder in (old, new)]
    for name in sorted(headers[1] - headers[0]):
        lines = len((new / name).read_text().splitlines())
        yield f"new in {new.name}: {name} ({lines} lines)"
    for name in sorted(headers[0] - headers[1]):
        yield f"no longer in {new.name}: {name}"
    both = sorted(headers[0] & headers[1])
    for name in both:
        if (old / name).read_bytes() != (new / name).read_bytes():
            yield f"differs: {name}"
    same = [name for name in both if (old / name).read_bytes() == (new / name).read_bytes()]
    yield f"the same in both: {' '.join(same) or 'nothing'}"


def show(lines: Iterable[str]) -> None:
    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ and \
        os.environ.get("TERM", "dumb") != "dumb"
    for line in lines:
        colour = COLOURS.get(line[:1], "") if colours else ""
        print(f"{colour}{line}{PLAIN}" if colour else line)
    sys.stdout.flush()


def main() -> int:
    old, new = map(Path, sys.argv[1:])
    try:
        show(compare(old, new))
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)   # nothing is left to be written at the end
        if isinstance(error, BrokenPipeError):         # the reader has seen enough
            return 0
        print(f"diff: {error.filename or 'stdout'}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
