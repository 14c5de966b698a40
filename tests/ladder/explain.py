"""A failed rung, told in at most fifteen lines."""

from __future__ import annotations

from typing import Iterator

from tests.harness import Client
from tests.ladder.exam import Exam, Failed
from tests.ladder.rungs import Rung

WIDTH = 96
STEPS = 6                                  # of the timeline: the first two, and the last


def steps(clients: list[Client]) -> list[tuple[float, str]]:
    """What the clients did, in order; what one does again and again is one step."""
    marks = sorted((mark.at, client.name, mark) for client in clients for mark in client.marks)
    found: list[list] = []                 # [when, who, what, how often, bytes, text]
    for at, name, mark in marks:
        if found and found[-1][1:3] == [name, mark.what]:
            found[-1][3] += 1
            found[-1][4] += mark.bytes
        else:
            found.append([at, name, mark.what, 1, mark.bytes, mark.text])
    began = found[0][0] if found else 0.0
    return [(at - began, f"{name} {_deed(what, count, size, text)}")
            for at, name, what, count, size, text in found]


def _deed(what: str, count: int, size: int, text: str) -> str:
    verb = {"connect": "connects", "send": "sends", "recv": "gets", "eof": "gets the end",
            "reset": "resets", "half_close": "half-closes", "close": "closes",
            "urgent": "sends an urgent byte", "wait": "waits, and gets nothing"}[what]
    if what not in ("send", "recv"):
        return verb
    short = ascii(text[:24])
    return f"{verb} {short if size <= 24 else f'{short} ... {size:,} bytes'}" + (
        f", in {count} pieces" if count > 1 else "")


def short(text: str) -> str:
    """In one line. Not textwrap: it drops a word that is too long, and all behind it."""
    return text if len(text) <= WIDTH - 12 else text[:WIDTH - 16] + " ..."


def explained(rung: Rung, number: int, exam: Exam, failed: Failed, again: str) -> Iterator[str]:
    yield f"{number:2}  {rung.name:12} FAILED: {rung.title}"
    deeds = steps(exam.clients)
    if len(deeds) > STEPS:
        left = len(deeds) - STEPS + 1
        deeds[2:2 + left] = [(deeds[2][0], f"... {left} steps more")]
    for at, deed in deeds:
        yield f"      {at:6.2f} s  {deed}"
    yield "    should: " + short(failed.should)
    yield "    came:   " + short(failed.came)
    for i, cause in enumerate(rung.causes[:3]):
        yield ("    likely: " if i == 0 else "        or: ") + short(cause)
    where = [f'NOTES.md, "{rung.read}"'] * bool(rung.read)
    where += [f"make bug-{rung.bug}: the same mistake"] * bool(rung.bug)
    if where:
        yield "    see:    " + "; ".join(where)
    yield f"    again:  {again}"
