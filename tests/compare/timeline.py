"""What picture.py made of a scenario, drawn: a lane for each client, one for the server below.

timeline(shown, ident, title, longest): `longest` is what the axis has room for, in seconds.
"""

from __future__ import annotations

import math
from itertools import groupby
from typing import Any

from tests.compare.picture import SERVER_VERBS
from tests.output.figures import span
from tests.output.html import SHAPES, Markup, drawing, element, label, stroke

Record = dict[str, Any]

# How a mark looks; in the order in which they are painted: bars are narrow, and come last.
KINDS = {"reset": ("cross", "gray"), "urgent": ("up", "orange"), "urgent_in": ("down", "orange"),
         "send": ("up", "purple"), "recv": ("down", "blue"), "eof": ("down", "blue"),
         "close": ("end", "gray"), "half_close": ("end", "gray"), "pause": ("end", "orange"),
         "resume": ("begin", "orange"), "stop": ("end", "orange"), "accept": ("begin", "good"),
         "connect": ("begin", "good")}

STYLE = """
.life, .step { stroke: var(--soft); } .life { stroke-width: 2; } .step { stroke-dasharray: 3 3; }
.asleep { fill: var(--asleep); } .hot { fill: var(--hot); } .waits { fill: var(--wait); }
.awake { fill: var(--panel); stroke: var(--line); } svg .onhot { fill: #fff; font-weight: 600; }
svg.kinds { position: absolute; width: 0; min-width: 0; }
""" + "".join(f".{kind} {{ marker: url(#mark-{kind}); stroke: transparent; stroke-width: 11; "
              "stroke-linecap: square; }\n" for kind in KINDS)

# The page has each shape once, and a path shows it at each of its points. Hidden by display: none
# it would be drawn nowhere.
MARKERS = element("svg", *(
    element("marker", element("path", d=f"M0 0{SHAPES[shape]}", style=f"fill: var(--{color})"),
            id=f"mark-{kind}", markerUnits="userSpaceOnUse", overflow="visible")
    for kind, (shape, color) in KINDS.items()),
    class_="kinds", viewBox="0 0 0 0", aria_hidden="true")

WIDTH, LEFT, RIGHT = 780, 104, 756         # of a picture, and of its axis, in its own units
LETTER = 7.2                               # how wide one is, at the most: fonts differ
NEAR = 11                                  # nearer ones cannot be pointed at one by one


def timeline(shown: Record, ident: str, title: str, longest: float = 0.0) -> Markup:
    return Timeline(shown, longest or shown["seconds"]).draw(ident, title)


class Timeline:
    def __init__(self, shown: Record, seconds: float) -> None:
        self.shown, self.seconds = shown, seconds
        self.under = {"line": "", "step": "", "life": ""}      # lies under the parts, one path each
        self.parts: list[Markup] = []
        self.y = 8

    def x(self, at: float) -> int:
        return round(LEFT + (RIGHT - LEFT) * min(1.0, at / self.seconds))

    def draw(self, ident: str, title: str) -> Markup:
        self.story()
        top = self.y
        for lane in self.shown["lanes"]:
            self.lane(lane)
        self.server()
        for at, _ in self.shown["said"]:
            self.under["step"] += f"M{self.x(at)} {top - 6}V{self.y}"
        self.axis()
        return drawing(ident, title, in_words(self.shown), (WIDTH, self.y), [
            stroke(path, kind) for kind, path in self.under.items() if path], self.parts)

    def text(self, *given: Any) -> None:
        self.parts.append(label(*given))

    def marks(self, y: int, marks: list[Any], like: str = "") -> None:
        """Those of a kind that are near each other become one path, with one title."""
        for what in sorted({mark[1] for mark in marks}, key=list(KINDS).index):
            runs: list[list[Any]] = []
            for mark in (mark for mark in marks if mark[1] == what):
                if not runs or self.x(mark[0]) - self.x(runs[-1][-1][0]) > NEAR:
                    runs.append([])
                runs[-1].append(mark)
            for run in runs:
                count, places = sum(mark[2] for mark in run), [self.x(mark[0]) for mark in run]
                steps = "".join(f"h{after - place}" for place, after in zip(places, places[1:]))
                when = " to ".join(dict.fromkeys([span(run[0][0]), span(run[-1][0])]))
                said = f"{count} x {what}, the first:" if count > 1 else what
                self.parts.append(element(
                    "path", element("title", f"{when}: {said} {run[0][3]}"), class_=like or what,
                    d=f"M{places[0]} {y}{steps or 'h0'}"))

    def box(self, times: list[tuple[float, float]], y: int, height: int, kind: str, hint: str = "",
            *texts: str) -> None:
        """One for each of the times; in the last one, the first of the texts that fits."""
        path = ""
        for begin, end in times:
            x, width = self.x(begin), self.x(end) - self.x(begin)
            width = max(1, width - (kind == "asleep"))     # a notch: here it woke
            path += f"M{x} {y}h{width}v{height}h-{width}z"
        fits = next((text for text in texts if width > 7 * len(text)), "")
        self.parts.append(element("path", element("title", hint) if hint != fits else "",
                                  class_=kind, d=path))
        if fits:
            self.text(x + width / 2, y + height / 2 + 4, fits, f"small on{kind}", "middle")

    def story(self) -> None:
        """The sentences, each at its time; in as many rows as they need not to overlap."""
        ends: list[float] = []
        for at, text in self.shown["said"]:
            wide, begin, anchor = LETTER * len(text), self.x(at) + 4, ""
            if begin + wide > WIDTH:
                if wide + 4 <= self.x(at):         # there is room to the left
                    begin, anchor = self.x(at) - 4 - wide, "end"
                else:
                    begin = max(4.0, WIDTH - wide)
            row = next((i for i, end in enumerate(ends) if end < begin), len(ends))
            ends[row:row + 1] = [begin + wide]
            self.text(begin + wide if anchor else begin, self.y + 8 + 15 * row, text, "", anchor)
        self.y += 15 * len(ends) + 4 * bool(ends)

    def lane(self, lane: Record) -> None:
        many, marks = lane["count"] > 1, lane["marks"]
        height = 44 if many else 28
        middle = self.y + height // 2
        self.text(6, middle + (0 if many else 4), lane["name"])
        self.under["line"] += f"M{LEFT} {middle}H{RIGHT}"
        if many:
            self.text(6, middle + 14, f"{lane['count']:,} more", "soft small")
            self.waiting(lane, middle + height // 2 - 4)
        elif marks:
            self.under["life"] += f"M{self.x(marks[0][0])} {middle}H{self.x(marks[-1][0])}"
        for begin, end, answered in lane.get("waits", ()):
            text = f"waits {span(end - begin)}" + ("" if answered else ", and gets nothing")
            alone = not any(begin < mark[0] < end for mark in marks)
            self.box([(begin, end)], middle - 8, 16, "waits", text, text if alone else "")
        self.marks(self.y + 9 if many else middle, marks)
        self.y += height

    def waiting(self, lane: Record, floor: int) -> None:
        """How many of them wait for an answer, as an area; full height is all of them."""
        scale = 30 / lane["count"]
        path = "".join(f"H{self.x(next(steps)[0])}V{floor - height}" for height, steps in groupby(
            lane["waiting"], lambda step: round(step[1] * scale)))
        hint = f"up to {max(count for _, count in lane['waiting'])} of them wait for an answer"
        self.parts.append(element("path", element("title", hint), class_="waits",
                                  d=f"M{LEFT} {floor}{path}V{floor}z"))

    def server(self) -> None:
        self.y += 8
        self.text(6, self.y + 8, "server")
        self.text(6, self.y + 22, f"CPU: {span(self.shown['cpu'])}", "soft small")
        self.box([(0, self.shown["seconds"])], self.y, 22, "awake")
        boxes: dict[Any, list[tuple[float, float]]] = {}       # short sleeps in one call share one
        for begin, end, kind, call in self.shown["spans"]:
            alone = begin if self.x(end) - self.x(begin) > NEAR else None
            boxes.setdefault((kind, call, alone), []).append((begin, end))
        for (kind, call, _), times in boxes.items():
            vain = self.shown["counters"].get("would_block", 0)
            text = f"spins: {vain:,} calls for nothing" if kind == "hot" else f"asleep in {call}()"
            hint = f"{text}, {span(sum(end - begin for begin, end in times))}"
            hint += f" in {len(times)} parts" * (len(times) > 1)
            self.box(times, self.y, 22, kind, hint, hint, text, call)
        self.y += 26
        for verb in SERVER_VERBS:
            marks = [mark for mark in self.shown["marks"] if mark[1] == verb]
            if marks:
                self.text(LEFT - 8, self.y + 10, verb, "soft small", "end")
                self.under["line"] += f"M{LEFT} {self.y + 7}H{RIGHT}"
                self.marks(self.y + 7, marks, "urgent_in" if verb == "urgent" else "")
                self.y += 15

    def axis(self) -> None:
        self.under["line"] += f"M{LEFT} {self.y + 4}H{RIGHT}"
        power = 10 ** math.floor(math.log10(self.seconds / 6))
        step = next(power * factor for factor in (1, 2, 5, 10)
                    if power * factor >= self.seconds / 6 * 0.999)
        for i in range(int(self.seconds / step) + 1):
            self.under["line"] += f"M{self.x(i * step)} {self.y + 4}v5"
            self.text(self.x(i * step), self.y + 22, span(i * step, step), "soft small", "middle")
        self.y += 30


def in_words(shown: Record) -> str:
    """The picture, for those who do not see it."""
    sentences = [text for _, text in shown["said"]]
    for lane in shown["lanes"]:
        if lane["count"] > 1:
            most = max(count for _, count in lane["waiting"])
            sentences.append(f"Of {lane['count']} more clients, up to {most} wait for an answer.")
        elif lane["waits"]:
            begin, end, answered = max(lane["waits"], key=lambda wait: wait[1] - wait[0])
            sentences.append(f"Client {lane['name']} waits up to {span(end - begin)} for an answer"
                             + ("." if answered else ", and gets none."))
    if any(kind == "hot" for _, _, kind, _ in shown["spans"]):
        vain = shown["counters"].get("would_block", 0)
        sentences.append(f"The server never sleeps: it spins for {span(shown['seconds'])}, "
                         f"and {vain:,} calls come back empty.")
    sentences += [f"The server sleeps in {call} for {span(seconds)} of {span(shown['seconds'])}."
                  for call, seconds in shown["asleep"].items() if seconds >= 0.001]
    return " ".join([*sentences, f"CPU used: {span(shown['cpu'])}."])
