"""What the pages in build/ have in common: the frame, the colours, elements, charts.

    element("p", "a < b", class_="soft")     <p class="soft">a &lt; b</p>
    document(title, style, *body)            a page: one file, nothing to fetch
    chart(...)                               both axes logarithmic

What an element holds may be text, which is escaped; Markup, which is not; and lists of both.
Each drawing has a text alternative, and scrolls sideways where the screen is narrow.
"""

from __future__ import annotations

import math
from html import escape
from statistics import fmean
from string import Template
from typing import Any, NamedTuple, Optional, Sequence, Union

from tests.output.figures import number

# A mechanism has the same colour on every page. Paper is light, whatever the screen is.
STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1b1f24; --soft: #59636e;
  --line: #d5dae0; --panel: #f6f7f9; --good: #116329; --bad: #a40e26; --badback: #fdecee;
  --asleep: #c9d6e6; --hot: #d13438; --wait: #f0b429; --gray: #57606a; --blue: #0a58ca;
  --pink: #b3123f; --orange: #a04a00; --purple: #6f3bb8; --teal: #00695c; }
@media screen and (prefers-color-scheme: dark) { :root { --page: #14171a; --ink: #e8eaed;
  --soft: #a0a8b2; --line: #363c44; --panel: #1c2025; --good: #56d373; --bad: #ff8089;
  --badback: #3a1a1f; --asleep: #33475e; --wait: #7d5c08; --gray: #b1bac4; --blue: #79b8ff;
  --pink: #ff7b98; --orange: #ffb059; --purple: #c3a1ff; --teal: #4fd1bd; } }
@media print { :root { color-scheme: light; --panel: #fff; --badback: #fff; --line: #bbb; }
  figure, tr, .table { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .scroll { overflow: visible !important; }
  html { font-size: 10px !important; } body { max-width: none !important; }
  svg { min-width: 0 !important; } }
* { box-sizing: border-box; }
html { font-size: clamp(16px, .45vw + 11px, 22px); scroll-padding-top: 1rem; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 72rem; background: var(--page);
  color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.35rem; margin: 2.6rem 0 .4rem; line-height: 1.3; }
h3 { font-size: 1.1rem; margin: 2.2rem 0 .3rem; line-height: 1.35; }
p, figcaption { max-width: 46rem; } p { margin: .5rem 0; }
.soft { color: var(--soft); } .small { font-size: .86rem; }
a { color: inherit; text-underline-offset: .15em; }
:is(a, summary, [tabindex]):focus-visible { outline: 3px solid var(--blue); outline-offset: 2px; }
nav ul { padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }
.scroll { overflow-x: auto; } figure { margin: .7rem 0 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .4rem 0; }
code { font: .92em ui-monospace, monospace; }
svg { display: block; width: 100%; min-width: 36rem; max-width: 62rem; height: auto;
  font: 13px system-ui, sans-serif; }
svg text { fill: var(--ink); } svg .soft { fill: var(--soft); } svg .small { font-size: 11px; }
.line { stroke: var(--line); } .minor { opacity: .45; }
.curve { fill: none; stroke: currentColor; stroke-width: 2; } .mark { fill: currentColor; }
.leader { stroke: currentColor; opacity: .6; }
svg .label { fill: currentColor; font-weight: 600; paint-order: stroke; stroke: var(--page);
  stroke-width: 4px; stroke-linejoin: round; }
.blocking { color: var(--gray); } .busy { color: var(--pink); } .select { color: var(--orange); }
.poll { color: var(--purple); } .epoll { color: var(--teal); } .floor { color: var(--soft); }
"""

FRAME = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
$body
</body>
</html>
""")


# --- elements -------------------------------------------------------------------------------

class Markup(str):
    """What is written as it is."""


Content = Any                              # text, figures, Markup, and lists of these


def markup(*content: Content, between: str = "") -> Markup:
    return Markup(between.join(
        each if isinstance(each, Markup) else escape(str(each))
        if isinstance(each, (str, int, float)) else markup(*each) for each in content))


def element(tag: str, *content: Content, **attributes: Union[str, int, float]) -> Markup:
    """class_ is written as class, text_anchor as text-anchor; what is "" is left out."""
    given = ""
    for name, value in attributes.items():
        if value != "":
            shown = f"{value:.5g}" if isinstance(value, float) else escape(str(value))
            given += f' {name.rstrip("_").replace("_", "-")}="{shown}"'
    return Markup(f"<{tag}{given}>{markup(*content)}</{tag}>")


def document(title: str, style: str, *body: Content) -> str:
    return FRAME.substitute(title=escape(title), style=STYLE + style,
                            body=markup(*body, between="\n"))


def link(to: str, *content: Content) -> Markup:
    return element("a", *content, href=f"#{to}")


def scroll(title: str, *content: Content) -> Markup:
    return element("div", *content, class_="scroll", tabindex=0, role="group", aria_label=title)


def table(columns: Sequence[str], rows: Sequence[Sequence[Content]], *, title: str,
          caption: str = "", kind: str = "") -> Markup:
    """A cell that is Markup is a whole <td>; text is put into one. The first names its row."""
    def cell(at: int, text: Content) -> Markup:
        if isinstance(text, Markup):
            return text
        return element("td", text) if at else element("th", text, scope="row")

    head = [element("th", text, scope="col") if text else element("td") for text in columns]
    return scroll(title, element(
        "table", element("caption", caption) if caption else "",
        element("thead", element("tr", head)),
        element("tbody", *([element("tr", [cell(*each) for each in enumerate(row)]), "\n"]
                           for row in rows)), class_=kind))


# --- drawings -------------------------------------------------------------------------------

# Up and begin are a little higher than down and end: two in the same place are both seen.
SHAPES = {"circle": "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", "square": "m-3.6 -3.6h7.2v7.2h-7.2z",
          "diamond": "m0 -5l5 5l-5 5l-5 -5z", "up": "m0 -6.5l4.5 9h-9z",
          "down": "m0 6.5l4.5 -9h-9z", "begin": "m-1.5 -6.5h3v10h-3z", "end": "m-1.5 -3.5h3v10h-3z",
          "cross": "m-4 -5.5l4 4 4 -4 1.5 1.5 -4 4 4 4 -1.5 1.5 -4 -4 -4 4 -1.5 -1.5 4 -4 -4 -4z"}


def drawing(ident: str, title: str, words: str, size: tuple[float, float],
            *content: Content) -> Markup:
    """words: the picture, for those who do not see it."""
    return scroll(title, element(
        "svg", element("title", title, id=f"{ident}-t"), element("desc", words, id=f"{ident}-d"),
        *content, viewBox="0 0 {:.0f} {:.0f}".format(*size), role="img",
        aria_labelledby=f"{ident}-t {ident}-d"))


def mark(shape: str, x: float, y: float, hint: str, kind: str = "mark") -> Markup:
    return element("path", element("title", hint), class_=kind, d=f"M{x:g} {y:g}{SHAPES[shape]}")


def label(x: float, y: float, text: str, kind: str = "", anchor: str = "", **more: str) -> Markup:
    return element("text", text, class_=kind, x=float(x), y=float(y), text_anchor=anchor, **more)


def stroke(path: str, kind: str = "line", **more: str) -> Markup:
    return element("path", class_=kind, d=path, **more)


def spaced(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Sorted places, moved as little as need be so that no two are closer than gap."""
    # Without the gaps before it, no place may be above the next one; those that are share one.
    groups: list[list[float]] = []
    for i, place in enumerate(wanted):
        groups.append([place - i * gap])
        while len(groups) > 1 and fmean(groups[-2]) > fmean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    shared = [fmean(group) for group in groups for _ in group]
    last = high - (len(shared) - 1) * gap
    return [max(low, min(place, last)) + i * gap for i, place in enumerate(shared)]


# --- charts ---------------------------------------------------------------------------------

class Line(NamedTuple):
    label: str
    look: str                              # the class that gives its colour
    dash: str
    shape: str                             # of its points; "": they are not marked
    points: Sequence[tuple[float, float]]
    end: str = ""                          # stands behind the label


WIDTH, LEFT, TOP = 860, 72, 18             # of a chart, and where its axes begin


def ticks(low: float, high: float) -> list[tuple[float, bool]]:
    """1, 2, 5, 10 ... between two values, and whether that is a power of ten."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = [(step * 10.0 ** power, step == 1) for power in powers for step in (1, 2, 5)]
    return [(value, main) for value, main in steps if low * 0.999 <= value <= high * 1.001]


def chart(ident: str, title: str, across: str, up: str, lines: Sequence[Line],
          places: Sequence[float], point: str, floor: Optional[float] = None,
          height: int = 440) -> Markup:
    """places: where the ticks across are. point: how one is put into words, "{} µs at {}"."""
    values = [y for line in lines for _, y in line.points] + ([floor] if floor else [])
    low, high = min(values) * 0.8, max(values) * 1.25
    if high / low < 4:                     # so that a flat line looks flat
        middle = math.sqrt(low * high)
        low, high = middle / 2, middle * 2
    first, last = min(places) * 0.85, max(places) * 1.05
    bottom = height - 52
    right = WIDTH - 26 - 7.5 * max(len(line.label + line.end) for line in lines)

    def x(value: float) -> float:
        return round(LEFT + (right - LEFT) * math.log(value / first) / math.log(last / first), 1)

    def y(value: float) -> float:
        return round(bottom - (bottom - TOP) * math.log(value / low) / math.log(high / low), 1)

    words = [f"{line.label}: " + ", ".join(point.format(number(v), number(k))
                                           for k, v in line.points) for line in lines]
    if floor:
        words.append("the floor: " + point.partition(" at ")[0].format(number(floor)))
        lines = [Line("floor", "floor", "2 5", "", [(first, floor), (last, floor)]), *lines]
    parts = []
    for value, main in ticks(low, high):
        parts.append(stroke(f"M{LEFT} {y(value)}H{right}", "line" if main else "line minor"))
        if main or high / low < 3000:
            parts.append(label(LEFT - 8, y(value) + 4, number(value), "soft", "end"))
    for value in places:
        parts += [stroke(f"M{x(value)} {TOP}V{bottom}", "line minor"),
                  label(x(value), bottom + 18, number(value), "soft", "middle")]
    parts += [label((LEFT + right) / 2, height - 10, across, "soft", "middle"),
              label(0, 0, up, "soft", "middle",
                    transform=f"translate(16 {(TOP + bottom) / 2}) rotate(-90)")]
    for line in lines:
        path = "L".join(f"{x(k)} {y(v)}" for k, v in line.points)
        parts.append(element(
            "g", stroke(f"M{path}", "curve", stroke_dasharray=line.dash),
            [mark(line.shape, x(k), y(v), f"{line.label}: {point.format(number(v), number(k))}")
             for k, v in line.points if line.shape], class_=line.look))
    ends = [(x(line.points[-1][0]), y(line.points[-1][1]), line) for line in lines]
    return drawing(ident, title, ". ".join(words) + ".", (WIDTH, height), parts,
                   _names(ends, right, bottom))


def _names(ends: list[tuple[float, float, Line]], right: float, bottom: float) -> list[Markup]:
    """Each line's name at its end; those that end side by side are spread out."""
    groups: list[list[tuple[float, float, Line]]] = []
    for end in sorted(ends):
        if groups and end[0] - groups[-1][-1][0] < 40:
            groups[-1].append(end)
        else:
            groups.append([end])
    parts = []
    for group in groups:
        beside = max(end[0] for end in group) + 22
        below = 12 if beside < right else 0        # not across the lines that go on
        group.sort(key=lambda end: end[1])
        places = spaced([end[1] + below for end in group], 16, TOP + 4, bottom - 2)
        for (x, y, line), place in zip(group, places):
            parts.append(element(
                "g", stroke(f"M{x + 6:.1f} {y}L{beside - 4:.1f} {place:.1f}", "leader"),
                label(beside, place + 4, line.label + line.end, "label"), class_=line.look))
    return parts
