"""The record in the terminal: the matrix, or one scenario with a column for each stage."""

from __future__ import annotations

from itertools import zip_longest
from textwrap import wrap
from typing import Any, Callable, Iterator, Optional

from tests.compare.lessons import calls
from tests.compare.story import Item, Span, side_by_side, story
from tests.output import Style
from tests.output.figures import number

Record = dict[str, Any]
Cell = tuple[str, list[str], int, Callable[[str], str]]    # before it, its lines, width, colour


def row_of(cells: list[Cell]) -> Iterator[str]:
    """One row of a table, in as many lines as its longest cell needs."""
    for texts in zip_longest(*(lines for _, lines, _, _ in cells), fillvalue=""):
        yield "".join(before + paint(f"{text:{width}}") for text, (before, _, width, paint)
                      in zip(texts, cells)).rstrip()


def matrix(record: Record, width: int, style: Style) -> Iterator[str]:
    """The matrix; in several parts, if it does not fit side by side."""
    question, column = 30, 15
    stages = record["stages"]
    parts = -(-len(stages) // max(1, (width - question) // (column + 1)))
    fits = -(-len(stages) // parts)                # as many in each
    for first in range(0, len(stages), fits):
        part = stages[first:first + fits]
        yield from row_of([("", ["", ""], question, str), *(
            (" ", [stage["id"], stage["title"].split(",")[0]], column, style.strong)
            for stage in part)])
        for row in record["rows"]:
            cells = [row["cells"][stage["id"]] for stage in part]
            yield from row_of([("", wrap(row["question"], question - 1), question, str), *(
                (" ", wrap("! " * cell["worst"] + cell["text"], column), column,
                 style.worst if cell["worst"] else str) for cell in cells)])
        yield ""


def unexpected(record: Record) -> Iterator[str]:
    """What the tests would complain about, one line each."""
    for name, scenario in record["scenarios"].items():
        for stage, run in scenario["runs"].items():
            for line in run.get("unexpected", [run.get("failed", "")]):
                if line:
                    yield f"{name}, stage {stage}: {line.splitlines()[0]}"


def columns(name: str, scenario: Record, stages: list[dict[str, str]], width: int,
            style: Style) -> Iterator[str]:
    """One scenario: the clients at the left, a column for each stage, one time axis."""
    pictures = [scenario["runs"][stage["id"]]["picture"] for stage in stages]
    left = 28 if width >= 40 * len(stages) else 22
    column = max(8, (width - 8 - left) // len(stages) - 2)
    paints = {"asleep": style.soft, "hot": style.worst}
    rule = "-" * 8 + "-" * left + ("+" + "-" * (column + 1)) * len(stages)

    def row(time: str, client: str, cells: list[tuple[str, str]]) -> Iterator[str]:
        return row_of([("", [time], 8, str), ("", _fold(client, left - 1), left, style.strong), *(
            ("| ", _fold(text, column), column, paints.get(kind, str)) for text, kind in cells)])

    yield style.strong(f"{name}: {scenario['question']}")
    yield ""
    yield from row("seconds", "clients", [
        (f"{stage['id']} {stage['title'].split(',')[0]}", "") for stage in stages])
    yield rule
    stories = [story(each) for each in pictures]
    bars = [Bar(each["spans"], items) for each, items in zip(pictures, stories)]
    now = 0.0
    for at, client, cells in side_by_side(stories, pictures[0]["seconds"] / 50):
        now = max(at, now)
        yield from row(f"{now:7.3f}", client,
                       [bar.show(now, cell) for bar, cell in zip(bars, cells)])
    yield rule
    for label, total in (("asleep", _asleep), ("CPU used", lambda p, _: f"{p['cpu']:.3f} s"),
                         ("calls counted", _calls)):
        yield from row("", label, [(total(each, stage["id"]), "")
                                   for each, stage in zip(pictures, stages)])
    yield ""
    for stage in stages:
        sentence = scenario["lessons"].get(stage["id"])
        if sentence:
            yield from wrap(f"{stage['id']}: {sentence}", min(width, 100), subsequent_indent="   ")


class Bar:
    """What a stage's column shows; at a moment at which the server says nothing, its sleep.

    That is the sleep that the server tells of next. Times would not do: the servers' are rounded to
    milliseconds, and a row has the time of whichever stage came to it first. They have to where
    lines were left out, and in stage 2, which never sleeps.
    """

    def __init__(self, spans: list[Span], items: list[Item]) -> None:
        self.spans, self.last = spans, None
        self.ahead = [item for item in items if item.told]

    def show(self, now: float, item: Optional[Item]) -> tuple[str, str]:
        if item:
            if item.told:
                self.ahead.pop(0)
            self.last = None
            return item.text, ""
        spans = self.spans if self.ahead else []
        if spans and spans[0][2] == "asleep" and self.ahead[0].verb:
            spans = [self.ahead[0].sleep] if self.ahead[0].sleep else []
        for begin, end, kind, call in spans:
            if begin <= now < end:
                again, self.last = self.last == (begin, call), (begin, call)
                if kind == "hot":
                    return "#" + " tries every socket, for nothing" * (not again), kind
                return ":" + f" asleep in {call}()" * (not again), kind
        return "", ""


def _fold(text: str, width: int) -> list[str]:
    return wrap(text, width, subsequent_indent="  ")


def _asleep(shown: Record, _: str) -> str:
    where = ", ".join(f"{seconds:.3f} s in {call}" for call, seconds in shown["asleep"].items()
                      if seconds >= 0.05 * shown["seconds"])
    return where or f"never, in {shown['seconds']:.3f} s"


def _calls(shown: Record, stage: str) -> str:
    sums = shown["counters"]
    return f"{number(calls(sums, stage))}, {number(sums.get('would_block', 0))} for nothing"
