#!/usr/bin/env python3
"""What changed from one stage to the next: diff.py 03_select 04_poll

The opening comments first, since they differ in every line; then the code; then which headers are
the same, new or gone."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests import output

COLOURS = {"-": "\033[31m", "+": "\033[32m", "@": "\033[36m"}
PLAIN = "\033[m"


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="backslashreplace")


def parts(path: Path) -> tuple[list[str], list[str]]:
    """The lines of the opening comment, and the lines of the code."""
    lines = text_of(path).splitlines()
    length = next((i for i, line in enumerate(lines) if not line.startswith("//")), len(lines))
    return lines[:length], lines[length:]


def changes(old: list[str], new: list[str], before: int, after: int) -> Iterator[str]:
    """A unified diff without its head, of lines that begin at these lines of their files."""
    for line in list(difflib.unified_diff(old, new, lineterm=""))[2:]:
        place = re.match(r"@@ -(\d+)(\S*) \+(\d+)(\S*) @@", line)
        if place:
            line = (f"@@ -{int(place[1]) + before}{place[2]} +{int(place[3]) + after}{place[4]} @@")
        yield line


def compare(old: Path, new: Path, name: str = "") -> Iterator[str]:
    """name: of the new one, if it is not that of its folder."""
    name = name or new.name
    (comment, code), (new_comment, new_code) = parts(old / "server.cpp"), parts(new / "server.cpp")
    yield f"--- {old.name}/server.cpp"
    yield f"+++ {name}/server.cpp"
    yield "@@ the opening comment @@"
    yield from (f"-{line}" for line in comment)
    yield from (f"+{line}" for line in new_comment)
    changed = list(changes(code, new_code, len(comment), len(new_comment)))
    yield from changed
    yield ""
    yield (f"changed lines: {sum(line[:1] in ('-', '+') for line in changed)} of code, "
           f"{len(comment) + len(new_comment)} of opening comment")
    headers = [{path.name for path in folder.glob("*.hpp")} for folder in (old, new)]
    for header in sorted(headers[1] - headers[0]):
        lines = len(text_of(new / header).splitlines())
        yield f"new in {name}: {header} ({lines} lines)"
    for header in sorted(headers[0] - headers[1]):
        yield f"no longer in {name}: {header}"
    both = sorted(headers[0] & headers[1])
    same = [each for each in both if (old / each).read_bytes() == (new / each).read_bytes()]
    yield from (f"differs: {header}" for header in both if header not in same)
    yield f"the same in both: {' '.join(same) or 'nothing'}"


def show(lines: Iterable[str]) -> None:
    colours = output.styled(sys.stdout)
    for line in lines:
        colour = COLOURS.get(line[:1], "") if colours else ""
        print(f"{colour}{line}{PLAIN}" if colour else line)


def main() -> int:
    old, new = map(Path, sys.argv[1:])
    try:
        show(compare(old, new))
    except OSError as error:
        print(f"diff: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    output.run(main, "diff")
