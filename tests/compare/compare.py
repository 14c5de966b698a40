"""The stages side by side: plays the scenarios that the tests play, and shows what came of them.

    compare.py                                           the matrix, and a page behind it
    compare.py --stages "1 3" --scenario second_client   one scenario, on one time axis

Everything shown comes from one record: build/compare.json is that record, build/compare.html
and what the terminal shows are two ways to read it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import sys
import textwrap
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

from tests import output
from tests.compare import page
from tests.harness import BUILD, SELECTORS, Variant, end_on_sigterm, judge, variants
from tests.compare.lessons import ROWS, TITLES, calls, lesson, number, rows_of
from tests.harness.narration import parse
from tests.compare.picture import picture
from tests.scenarios import Scenario, scenarios

STEP = 0.3             # seconds from one sentence of a story to the next, so that it can be seen
FORMATS = ("text", "json", "html")
# Roughly the seconds that a scenario takes, to tell how much time is left.
WEIGHTS = {"second_client": 5, "second_listener": 5, "fifty_clients": 1, "idle": 5,
           "silent_clients": 14, "past_fd_setsize": 5, "sixteen_descriptors": 2, "mute_reader": 11,
           "resets": 1, "half_close_queued": 1, "urgent_data": 1, "stop_with_clients": 1}

Record = dict[str, Any]


# --- playing --------------------------------------------------------------------------------

class Pace:
    """Lets each sentence of a story begin a step after the one before, in every stage alike."""

    def __init__(self, step: float) -> None:
        self.step, self.next = step, 0.0

    def __call__(self, kind: str, _: Any) -> None:
        if kind == "say":
            self.next = max(self.next, time.monotonic())
            time.sleep(self.next - time.monotonic() if self.next > time.monotonic() else 0)
            self.next += self.step


def compare(chosen: list[Scenario], stages: list[Variant],
            tell: Callable[[str], None], step: float = STEP) -> Record:
    """Plays these scenarios against these stages; what is observed, fit for JSON."""
    began = time.monotonic()
    weights = [WEIGHTS.get(scenario.name, 2) for scenario in chosen]
    record: Record = {
        "made": time.strftime("%Y-%m-%d %H:%M"), "machine": _machine(),
        "stages": [{"id": v.id, "name": v.name, "title": TITLES[v.id]} for v in stages],
        "rows": [], "scenarios": {}}
    for at, scenario in enumerate(chosen):
        runs = {}
        for i, variant in enumerate(stages):
            done = sum(weights[:at]) + weights[at] * i / len(stages)
            spent = time.monotonic() - began
            left = (spent / done if done else len(stages) / 8) * (sum(weights) - done)
            tell(f"[{at + 1:2}/{len(chosen)}] {scenario.name:20} stage {variant.id:8} "
                 f"{spent:3.0f} s, about {left:.0f} s left")
            runs[variant.id] = _run(scenario, variant, step)
        tell(f"[{at + 1:2}/{len(chosen)}] {scenario.name:20} {len(stages)} stages "
             f"{time.monotonic() - began:9.0f} s, about "
             f"{(time.monotonic() - began) / sum(weights[:at + 1]) * sum(weights[at + 1:]):.0f}"
             " s left\n")
        record["scenarios"][scenario.name] = {
            "question": scenario.question, "runs": runs,
            "lessons": {variant.id: lesson(scenario.name, variant) for variant in stages}}
        for row in rows_of(scenario.name):
            record["rows"].append({
                "id": row.id, "question": row.question, "scenario": row.scenario,
                "cells": {stage: _cell(row, run) for stage, run in runs.items()}})
    record["rows"].sort(key=lambda row: [each.id for each in ROWS].index(row["id"]))
    record["seconds"] = round(time.monotonic() - began, 1)
    return record


def _run(scenario: Scenario, variant: Variant, step: float) -> Record:
    verdict = judge(scenario, variant, watch=Pace(step), timeline=True)
    if verdict.skipped:
        return {"not_played": verdict.skipped}
    if verdict.error:
        return {"failed": verdict.wrong[0].splitlines()[0]}
    return {"observed": verdict.observed, "seconds": round(verdict.seconds, 3),
            "seed": verdict.seed, "picture": picture(verdict.timeline, variant.stage),
            "unexpected": verdict.wrong}


def _cell(row: Any, run: Record) -> Record:
    if "observed" not in run:
        return {"text": "failed" if "failed" in run else "not played", "worst": "failed" in run}
    seen = run["observed"]
    return {"text": row.cell(seen), "worst": bool(row.worst(seen))}


def _machine() -> str:
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:
        cpus = os.cpu_count() or 1
    return (f"{platform.system()} {platform.release()}, {cpus} CPU{'s' * (cpus != 1)}, "
            f"Python {platform.python_version()}")


# --- the terminal ---------------------------------------------------------------------------

class Style:
    """Colour where a stream may get it: see output.styled()."""

    def __init__(self, stream: Any) -> None:
        self.color = output.styled(stream)

    def paint(self, text: str, code: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.color and text.strip() else text

    def worst(self, text: str) -> str:
        return self.paint(text, "1;31")

    def soft(self, text: str) -> str:
        return self.paint(text, "2")

    def strong(self, text: str) -> str:
        return self.paint(text, "1")


def matrix(record: Record, width: int, style: Style) -> Iterator[str]:
    """The matrix; in several parts, if it does not fit side by side."""
    question, cell = 30, 15
    fits = max(1, (width - question) // (cell + 1))
    stages = record["stages"]
    parts = -(-len(stages) // fits)
    fits = -(-len(stages) // parts)                # as many in each
    for first in range(0, len(stages), fits):
        part = stages[first:first + fits]
        yield style.strong(" " * question + "".join(f" {stage['id']:{cell}}" for stage in part))
        yield style.strong(" " * question + "".join(f" {stage['title'].split(',')[0]:{cell}}"
                                                    for stage in part).rstrip())
        for row in record["rows"]:
            cells = [row["cells"][stage["id"]] for stage in part]
            columns = [textwrap.wrap(row["question"], question - 1)] + [
                textwrap.wrap(("! " if each["worst"] else "") + each["text"], cell)
                for each in cells]
            for i in range(max(map(len, columns))):
                line = [column[i] if i < len(column) else "" for column in columns]
                yield (f"{line[0]:{question}}" + "".join(
                    " " + (style.worst if each["worst"] else str)(f"{text:{cell}}")
                    for each, text in zip(cells, line[1:]))).rstrip()
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
    runs = [scenario["runs"][stage["id"]] for stage in stages]
    pictures = [run["picture"] for run in runs]
    left = 28 if width >= 40 * len(stages) else 22
    column = max(8, (width - 8 - left) // len(stages) - 2)
    paints = {"asleep": style.soft, "hot": style.worst}
    rule = "-" * 8 + "-" * left + ("+" + "-" * (column + 1)) * len(stages)

    def row(time_: str, client: str, cells: list[tuple[str, str]]) -> Iterator[str]:
        """One row of the table, in as many lines as its longest cell needs."""
        texts = [[time_], _fold(client, left - 1)] + [_fold(text, column) for text, _ in cells]
        for i in range(max(map(len, texts))):
            first, second, *rest = [text[i] if i < len(text) else "" for text in texts]
            yield (f"{first:8}" + style.strong(f"{second:{left}}") + "".join(
                "| " + paints.get(kind, str)(f"{text:{column}}")
                for text, (_, kind) in zip(rest, cells))).rstrip()

    yield style.strong(f"{name}: {scenario['question']}")
    yield ""
    yield from row("seconds", "clients", [
        (f"{stage['id']} {stage['title'].split(',')[0]}", "") for stage in stages])
    yield rule
    stories = [_story(each) for each in pictures]
    bars = [Bar(each["spans"], story) for each, story in zip(pictures, stories)]
    now = 0.0
    for at, client, cells in _rows(stories, pictures[0]["seconds"] / 50):
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
            yield from textwrap.wrap(f"{stage['id']}: {sentence}", min(width, 100),
                                     subsequent_indent="   ")


class Bar:
    """What a stage's column shows; at a moment at which the server says nothing, its sleep.

    That is the sleep that the server tells of next. Times would not do: the servers' are rounded to
    milliseconds, and a row has the time of whichever stage came to it first. They have to where
    lines were left out, and in stage 2, which never sleeps.
    """

    def __init__(self, spans: list[Any], story: list[Item]) -> None:
        self.spans, self.last = spans, None
        self.ahead = [item for item in story if item.told]

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
                again = self.last == (begin, call)
                self.last = (begin, call)
                if kind == "hot":
                    return ("#" if again else "# tries every socket, in vain"), kind
                return (":" if again else f": asleep in {call}()"), kind
        return "", ""


def _fold(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="  ") or [""]


def _asleep(shown: Record, _: str) -> str:
    where = ", ".join(f"{seconds:.3f} s in {call}" for call, seconds in shown["asleep"].items()
                      if seconds >= 0.05 * shown["seconds"])
    return where or f"never, in {shown['seconds']:.3f} s"


def _calls(shown: Record, stage: str) -> str:
    sums = shown["counters"]
    return f"{number(calls(sums, stage))}, {number(sums.get('would_block', 0))} in vain"


Deed = tuple[str, str, int]                        # who did what, and for the how many-th time


def _rows(stories: list[list[Item]],
          near: float) -> Iterator[tuple[float, str, list[Optional[Item]]]]:
    """(when, what the clients did, what is told in each column), in order.

    Every stage was played by itself, but the clients did the same everywhere: what they did
    cuts each stage's column into pieces, and pieces of the same number stand side by side.
    """
    done = [{item.deed for item in story} for story in stories]
    common = [item.deed for item in stories[0] if item.deed and all(
        item.deed in deeds for deeds in done)]
    pieces = [_cut(story, common) for story in stories]
    if not all(pieces):                            # not in the same order everywhere
        common = []
        pieces = [_cut(story, common) for story in stories]
    for index in range(len(common) + 1):
        heads = [list(piece[index]) for piece in pieces]
        if index:
            deeds = [head.pop(0) for head in heads]
            yield min(deed.at for deed in deeds), deeds[0].text, [None] * len(heads)
        while any(heads):
            at = min(head[0].at for head in heads if head)
            yield at, "", [head.pop(0) if head and head[0].at < at + max(0.004, near) else None
                           for head in heads]


def _cut(story: list[Item], common: list[Deed]) -> list[list[Item]]:
    """A story in pieces, each but the first beginning with a common deed; [] if it cannot be."""
    pieces: list[list[Item]] = [[]]
    for item in story:
        if item.deed in common:
            if common[len(pieces) - 1] != item.deed:
                return []
            pieces.append([])
        pieces[-1].append(item)
    return pieces


@dataclass
class Item:
    at: float
    verb: str                              # the server's verb, or "client send"
    who: str
    text: str
    deed: Optional[Deed] = None            # what a client, or the story, did by itself
    told: bool = False                     # by the server
    sleep: Optional[tuple[float, float, str, str]] = None  # as a span of the picture; until told


def _story(shown: Record) -> list[Item]:
    """What was done and what was told in one stage, in order."""
    told, queues = [], []
    for entry in shown["narration"]:
        if isinstance(entry, int):
            told.append(Item(told[-1].at, "", "", f"... {entry} lines more", told=True))
        else:
            told += _told(entry)
    for lane in shown["lanes"]:
        marks, counts = [], Counter()
        for at, what, count, text in lane["marks"]:
            counts[what] += 1
            said, many = text.partition(": ")[2], f" ({count} times)" * (count > 1)
            if what in ("recv", "eof"):
                waited = [f" after {got - asked:.3f} s" for asked, got, _ in lane.get("waits", ())
                          if abs(got - at) < 0.001]
                marks.append(Item(at, f"client {what}", lane["name"], "".join(
                    [f"> {lane['name']} gets {said or 'the end'}", many, *waited[:1]])))
            else:
                deed = (lane["name"], what, counts[what])
                marks.append(Item(at, f"client {what}", lane["name"],
                                  _deed(lane["name"], what, said) + many, deed))
        queues.append(marks)
    said = [Item(at, "story", "", text, ("story", text, 0)) for at, text in shown["said"]]
    return list(_in_order([said, *queues, told]))


# What must have been before: the servers tell milliseconds, which is not enough to see it.
AFTER = {"accept": ("client connect",), "recv": ("client send",), "client recv": ("send",),
         "recv end": ("client close", "client half_close", "client reset"),
         "client eof": ("close",)}


def _in_order(queues: list[list[Item]]) -> Iterator[Item]:
    """Merges them by time; but who asked comes before who was asked."""
    def too_early(item: Item) -> bool:
        if item.verb == "wait":                    # something must have ended it
            return not woken and any(queue[0].deed and queue[0].at < item.at + 0.001 for queue in queues)
        for queue in queues:
            for other in queue:
                heard = other.verb in ("client recv", "client eof")
                if other.at > item.at + 0.002 or heard and item.verb != "recv end":
                    break
                if other.who == item.who and other.verb in AFTER.get(item.verb, ()):
                    return True
        return False

    woken = False                                  # a client has, since the server's last line
    while queues := [queue for queue in queues if queue]:
        ready = [queue for queue in queues if not too_early(queue[0])] or queues
        item = min(ready, key=lambda queue: queue[0].at).pop(0)
        if item.told or item.verb.startswith("client "):
            woken = not item.told
        yield item


def _deed(name: str, what: str, said: str) -> str:
    return {"connect": f"{name} connects", "send": f"{name} sends {said}",
            "close": f"{name} closes", "reset": f"{name} resets",
            "half_close": f"{name} half-closes",
            "urgent": f"{name} sends {said} as urgent"}.get(what, f"{name} {what}")


def _told(entry: list[Any]) -> Iterator[Item]:
    """A line of the narration in few words, and before it how long it slept."""
    event, who = parse(entry[1]), entry[3]
    verb = "recv end" if event.verb == "recv" and event.get("bytes") == 0 else event.verb
    name = who or f"fd {event.get('fd')}"
    text = ""
    if event.verb == "accept":
        text = f"accept {name}" if "peer" in event.fields else f"accept {event['error']}"
    elif event.verb == "recv":
        data = event.get("data", b"").decode("latin-1").encode("unicode_escape").decode()
        text = f"recv   {name} " + (event.get("error") or data or "end of input")
    elif event.verb == "send":
        left = f", {event['left']} left" if "left" in event.fields else ""
        text = f"send   {name} " + (event.get("error") or f"{event['bytes']} bytes{left}")
    elif event.verb == "close":
        text = f"close  {name} {event['reason']}"
    elif event.verb == "spin":
        text = f"spin   {event['rounds']:,} rounds"
    elif event.verb == "stop":
        text = f"stop   {event['signal']}"
    elif event.verb not in ("start", "limit", "listen", "stats", "wait"):
        text = entry[1][9:]
    if event.get("slept", 0) >= 0.01:
        call = event.get("call", event.verb)
        yield Item(entry[0], verb, who, f"slept {event['slept']:.3f} s in {call}()", told=True,
                   sleep=(entry[0] - event["slept"], math.inf, "asleep", call))
    if text:
        yield Item(entry[0], verb, who, text, told=True)


# --- the command line -----------------------------------------------------------------------

def main() -> int:
    end_on_sigterm()
    words = argparse.ArgumentParser(prog="make compare", description=__doc__,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--stages", default="", help="1 3, 2-5, 6-poll; all if none is named")
    words.add_argument("--scenario", default="", help="one, or several; the matrix's if none is")
    words.add_argument("--format", default="text", help=", ".join(FORMATS))
    words.add_argument("--out", default=str(BUILD), help="where compare.json and .html go")
    words.add_argument("--step", type=float, default=STEP, help=argparse.SUPPRESS)
    asked = words.parse_args()
    every = scenarios()
    try:
        if asked.format not in FORMATS:
            raise ValueError(f"no format {asked.format!r}: there are {', '.join(FORMATS)}")
        names = asked.scenario.replace(",", " ").split()
        for name in names:
            if name not in every:
                raise ValueError(f"no scenario {name!r}: there are {', '.join(every)}")
        # One scenario side by side: stage 6 once, as it comes up unless told otherwise.
        columnar = len(names) == 1 and asked.format == "text"
        stages = variants(asked.stages or (f"1-5 6-{SELECTORS[-1]}" if columnar else ""))
    except ValueError as wrong:
        print(f"compare: {wrong}", file=sys.stderr)
        return 2
    chosen = [every[name] for name in names or dict.fromkeys(row.scenario for row in ROWS)]
    try:
        return show(asked, chosen, stages, columnar)
    except KeyboardInterrupt:
        print("\ncompare: interrupted; no server is left behind", file=sys.stderr)
        return 130


def show(asked: Any, chosen: list[Scenario], stages: list[Variant], columnar: bool) -> int:
    live = output.styled(sys.stderr)

    def tell(text: str) -> None:
        """On a terminal one line that changes; in a pipe one line a scenario."""
        if live:
            sys.stderr.write("\r\033[K" + text)
        elif text.endswith("\n"):
            sys.stderr.write(text)
        sys.stderr.flush()

    record = compare(chosen, stages, tell, asked.step)
    width = shutil.get_terminal_size((200, 50)).columns or 200
    style = Style(sys.stdout)
    if asked.format == "json":
        json.dump(record, sys.stdout, indent=1)
        print()
        return 0
    if asked.format == "html":
        sys.stdout.write(page.page(record))
        return 0
    if columnar:
        name = chosen[0].name
        shown = record["scenarios"][name]
        played = [stage for stage in record["stages"] if "picture" in shown["runs"][stage["id"]]]
        for stage in record["stages"]:
            if stage not in played:
                run = shown["runs"][stage["id"]]
                print(f"stage {stage['id']}: {run.get('not_played') or run.get('failed')}")
        for line in columns(name, shown, played, width, style) if played else ():
            print(line)
        return 0
    for line in matrix(record, width, style):
        print(line)
    wrong = list(unexpected(record))
    for line in wrong:
        print(style.worst("not as expected: ") + line)
    print("! marks the worst cells. " * bool(record["rows"])
          + f"{len(chosen)} scenarios, {len(stages)} servers, {record['seconds']:.0f} s")
    out = Path(asked.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "compare.json").write_text(json.dumps(record, indent=1) + "\n")
    (out / "compare.html").write_text(page.page(record), encoding="utf-8")
    print("One scenario side by side: make compare STAGES=\"1 3\" SCENARIO=second_client")
    print(f"The page behind each cell: {out / 'compare.html'}")
    return 0
