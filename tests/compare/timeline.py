"""What picture.py made of a scenario, drawn: a lane for each client, one for the server below.

timeline(shown, ident, title, longest): `longest` is what the axis has room for, in seconds.
"""

from __future__ import annotations

import math
from typing import Any

from tests.output.figures import span
from tests.output.html import Markup, drawing, element, label, mark, stroke

Record = dict[str, Any]

STYLE = """
svg .step { stroke-dasharray: 3 3; stroke: var(--soft); } .lane { stroke: var(--line);
  stroke-width: 1.5; } .life { stroke: var(--soft); stroke-width: 2; }
.asleep { fill: var(--asleep); } .hot { fill: var(--hot); } .waits { fill: var(--wait); }
svg .onhot { fill: #fff; font-weight: 600; }
.notch { stroke: var(--page); stroke-width: 2; } .awake { fill: var(--panel); stroke: var(--line); }
.accept, .connect { fill: var(--good); } .recv, .eof { fill: var(--blue); }
.send { fill: var(--purple); } .close, .half_close, .reset { fill: var(--gray); }
.urgent, .pause, .resume, .stop { fill: var(--orange); }
"""

WIDTH, LEFT, RIGHT = 780, 104, 756         # of a picture, and of its axis, in its own units
LETTER = 7.2                               # how wide one is, at the most: fonts differ
# Up: something is sent; down: something is received; a bar: begin and end.
SHAPES = {"send": "up", "urgent": "up", "recv": "down", "eof": "down", "reset": "cross"}
VERBS = ("accept", "recv", "send", "close", "urgent", "pause", "resume", "stop")


def timeline(shown: Record, ident: str, title: str, longest: float = 0.0) -> Markup:
    return Timeline(shown, longest or shown["seconds"]).draw(ident, title)


class Timeline:
    def __init__(self, shown: Record, seconds: float) -> None:
        self.shown, self.seconds = shown, seconds
        self.parts: list[Markup] = []
        self.y = 8.0

    def x(self, at: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * min(1.0, at / self.seconds), 1)

    def draw(self, ident: str, title: str) -> Markup:
        self.story()
        top = self.y
        for lane in self.shown["lanes"]:
            self.lane(lane)
        self.server()
        steps = [stroke(f"M{self.x(at)} {top - 6}V{self.y}", "step")
                 for at, _ in self.shown["said"]]
        self.axis()
        return drawing(ident, title, in_words(self.shown), (WIDTH, self.y), steps, self.parts)

    def text(self, *given: Any) -> None:
        self.parts.append(label(*given))

    def stroke(self, path: str, kind: str) -> None:
        self.parts.append(stroke(path, kind))

    def marks(self, y: float, marks: list[Any], hint: str, like: str = "") -> None:
        """hint: how one of them is put into words."""
        for at, what, count, text in marks:
            times = f"{count} x " if count > 1 else ""
            self.parts.append(mark(SHAPES.get(like or what, "bar"), self.x(at), y, hint.format(
                at=span(at), times=times, what=what, text=text), what))

    def box(self, begin: float, end: float, y: float, height: float, kind: str, hint: str = "",
            texts: tuple[str, ...] = (), look: str = "small") -> None:
        """With the first of the texts that fits into it."""
        x, width = self.x(begin), max(1.0, self.x(end) - self.x(begin))
        self.parts.append(element("rect", element("title", hint) if hint else "", class_=kind, x=x,
                                  y=y, width=width, height=height))
        fits = next((text for text in texts if width > 7 * len(text)), "")
        if fits:
            self.text((self.x(begin) + self.x(end)) / 2, y + height / 2 + 4, fits, look, "middle")

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
        middle = self.y + height / 2
        self.text(6, middle + (0 if many else 4), lane["name"])
        self.stroke(f"M{LEFT} {middle:g}H{RIGHT}", "lane")
        if many:
            self.text(6, middle + 14, f"{lane['count']:,} more", "soft small")
            self.waiting(lane, middle + height / 2 - 4)
        elif marks:
            self.stroke(f"M{self.x(marks[0][0])} {middle:g}H{self.x(marks[-1][0])}", "life")
        for begin, end, answered in lane.get("waits", ()):
            text = f"waits {span(end - begin)}" + ("" if answered else ", and gets nothing")
            alone = not any(begin < mark[0] < end for mark in marks)
            self.box(begin, end, middle - 8, 16, "waits", text, (text,) if alone else ())
        self.marks(self.y + 9 if many else middle, marks, "{at}: {times}{what} {text}")
        self.y += height

    def waiting(self, lane: Record, floor: float) -> None:
        """How many of them wait for an answer, as an area; full height is all of them."""
        scale = 30 / lane["count"]
        path = "".join(f"H{self.x(at)}V{floor - count * scale:.1f}"
                       for at, count in lane["waiting"])
        most = max(count for _, count in lane["waiting"])
        if most:
            hint = element("title", f"up to {most} of them wait for an answer")
            self.parts.append(element("path", hint, class_="waits",
                                      d=f"M{LEFT} {floor}{path}V{floor}z"))

    def server(self) -> None:
        self.y += 8
        self.text(6, self.y + 8, "server")
        self.text(6, self.y + 22, f"CPU: {span(self.shown['cpu'])}", "soft small")
        self.box(0, self.shown["seconds"], self.y, 22, "awake")
        for begin, end, kind, call in self.shown["spans"]:
            vain = self.shown["counters"].get("would_block", 0)
            text = f"spins: {vain:,} calls for nothing" if kind == "hot" else f"asleep in {call}()"
            hint = f"{text}, {span(end - begin)}"
            self.box(begin, end, self.y, 22, kind, hint, (hint, text, call),
                     "small onhot" if kind == "hot" else "small")
            if kind == "asleep":                   # a notch: here it woke
                self.stroke(f"M{self.x(end)} {self.y}v22", "notch")
        self.y += 26
        for verb in VERBS:
            marks = [mark for mark in self.shown["marks"] if mark[1] == verb]
            if marks:
                self.text(LEFT - 8, self.y + 10, verb, "soft small", "end")
                self.stroke(f"M{LEFT} {self.y + 7:g}H{RIGHT}", "lane")
                self.marks(self.y + 7, [mark for mark in marks if mark[2] == 1], "{at}: {text}",
                           "recv" if verb == "urgent" else "")
                self.marks(self.y + 7, [mark for mark in marks if mark[2] > 1],
                           "{at}: {times}{what}, the first: {text}")
                self.y += 15

    def axis(self) -> None:
        self.stroke(f"M{LEFT} {self.y + 4:g}H{RIGHT}", "line")
        power = 10 ** math.floor(math.log10(self.seconds / 6))
        step = next(power * factor for factor in (1, 2, 5, 10)
                    if power * factor >= self.seconds / 6 * 0.999)
        for i in range(int(self.seconds / step) + 1):
            self.stroke(f"M{self.x(i * step)} {self.y + 4:g}v5", "line")
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
