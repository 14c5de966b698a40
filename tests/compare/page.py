"""build/compare.html from what compare.py recorded: one file, nothing to fetch.

page(record) needs nothing but the record. The matrix comes first, and behind each of its cells
the scenario's timeline, drawn as SVG, with the narration under it. Before it stand the three
pictures that matter most. The only script opens the fold that a link leads into.
"""

from __future__ import annotations

import math
from html import escape
from typing import Any, Iterable, Iterator

from tests.bench.page import spaced

Record = dict[str, Any]

STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1b1f24; --soft: #59636e;
  --line: #d5dae0; --panel: #f6f7f9; --bad: #a40e26; --badback: #fdecee; --asleep: #c9d6e6;
  --hot: #d13438; --wait: #f0b429; --accept: #116329; --recv: #0a58ca;
  --send: #6f3bb8; --close: #57606a; --other: #a04a00; --busy: #b3123f; --select: #a04a00;
  --epoll: #00695c; }
@media screen and (prefers-color-scheme: dark) { :root {
  --page: #14171a; --ink: #e8eaed; --soft: #a0a8b2; --line: #363c44;
  --panel: #1c2025; --bad: #ff8089; --badback: #3a1a1f; --asleep: #33475e;
  --hot: #d13438; --wait: #8a6508; --accept: #56d373; --recv: #79b8ff;
  --send: #c3a1ff; --close: #b1bac4; --other: #ffb059; --busy: #ff7b98; --select: #ffb059;
  --epoll: #4fd1bd; } }
@media print { :root { color-scheme: light; --panel: #fff; --badback: #fff; }
  figure, tr { break-inside: avoid; } .scroll { overflow: visible !important; }
  html { font-size: 10px !important; } body { max-width: none !important; }
  svg, .matrix th, .matrix td { min-width: 0 !important; }
  .matrix th { position: static !important; }
  .key i { print-color-adjust: exact; } }
* { box-sizing: border-box; }
html { font-size: clamp(16px, .45vw + 11px, 22px); scroll-padding-top: 1rem; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 72rem; background: var(--page);
  color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.35rem; margin: 2.6rem 0 .4rem; line-height: 1.3; }
h3 { font-size: 1.1rem; margin: 2.2rem 0 .3rem; line-height: 1.35; }
p { max-width: 46rem; margin: .5rem 0; } .soft, small { color: var(--soft); }
a { color: inherit; text-underline-offset: .15em; }
:is(a, summary, [tabindex]):focus-visible { outline: 3px solid var(--recv); outline-offset: 2px; }
.scroll { overflow-x: auto; } figure { margin: .6rem 0 0; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .3rem 0; color: var(--soft); }
th, td { padding: .35rem .55rem; border: 1px solid var(--line); text-align: left;
  vertical-align: top; } thead th { background: var(--panel); }
.matrix th:first-child { min-width: 9.5rem; max-width: 16rem; background: var(--panel);
  font-weight: 600; position: sticky; left: 0; }
.matrix td { min-width: 5.6rem; padding: 0; } .matrix td a { display: block; height: 100%;
  padding: .35rem .55rem; text-decoration: none; }
.matrix td a:hover { text-decoration: underline; }
.worst { background: var(--badback); color: var(--bad); font-weight: 600; }
.figures td { text-align: right; } .figures .most { color: var(--bad); font-weight: 600; }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .4rem 0;
  padding: 0 .7rem; } details[open] { padding-bottom: .7rem; }
summary { cursor: pointer; padding: .45rem 0; } details details { border: 0; padding: 0; }
:target { scroll-margin-top: 1rem; } details:target { border-color: var(--recv); }
pre { font: .78rem/1.5 ui-monospace, monospace; overflow-x: auto; background: var(--panel);
  padding: .6rem; margin: .3rem 0; } pre mark { background: var(--wait); color: var(--ink); }
code { font: .9em ui-monospace, monospace; }
svg { display: block; width: 100%; min-width: 34rem; max-width: 62rem; height: auto;
  font: 13px system-ui, sans-serif; }
svg text { fill: var(--ink); } svg .soft { fill: var(--soft); } svg .small { font-size: 11px; }
.axis, .step { stroke: var(--line); } .step { stroke-dasharray: 3 3; stroke: var(--soft); }
.lane { stroke: var(--line); stroke-width: 1.5; } .life { stroke: var(--soft); stroke-width: 2; }
.asleep { fill: var(--asleep); } .hot { fill: var(--hot); }
svg .onhot { fill: #fff; font-weight: 600; }
.notch { stroke: var(--page); stroke-width: 2; } .awake { fill: var(--panel); stroke: var(--line); }
.waits { fill: var(--wait); }
.accept, .connect { fill: var(--accept); } .recv, .eof { fill: var(--recv); }
.send { fill: var(--send); } .close, .half_close, .reset { fill: var(--close); }
.urgent, .pause, .resume, .stop { fill: var(--other); }
.curve { fill: none; stroke-width: 2.5; } .busy { stroke: var(--busy); color: var(--busy); }
.select { stroke: var(--select); color: var(--select); }
.epoll { stroke: var(--epoll); color: var(--epoll); }
svg .curvename { fill: currentColor; stroke: none; font-weight: 600; }
.key { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .4rem 0;
  padding: 0; }
.key i { display: inline-block; width: 1.1em; height: .8em; margin-right: .35em; }
.i-asleep { background: var(--asleep); } .i-hot { background: var(--hot); }
.i-waits { background: var(--wait); }
"""

# A link into a fold opens it, also in browsers that do not do so by themselves.
SCRIPT = """
function unfold() {
  for (let fold = document.getElementById(location.hash.slice(1)); fold; fold = fold.parentElement)
    if (fold.tagName === "DETAILS") fold.open = true;
  document.getElementById(location.hash.slice(1))?.scrollIntoView();
}
addEventListener("hashchange", unfold);
if (location.hash) unfold();
"""

WIDTH, LEFT, RIGHT = 780, 104, 24                  # of a picture, in its own units
LETTER = 7.2                                       # how wide one is, at the most: fonts differ


# --- the page -------------------------------------------------------------------------------

def page(record: Record) -> str:
    parts = ['<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
             '<meta name="viewport" content="width=device-width, initial-scale=1">',
             "<title>One server, six ways to wait</title>", f"<style>{STYLE}</style>\n</head>",
             "<body>", *_introduction(record), *_how_to_read(),
             *_pictures_that_matter(record), *_matrix(record), *_sections(record),
             f"<script>{SCRIPT}</script>\n</body>\n</html>\n"]
    return "\n".join(parts)


def _introduction(record: Record) -> Iterator[str]:
    yield "<h1>One server, six ways to wait</h1>"
    yield ("<p>A server has many sockets and one thread. Six programs serve the same clients the "
           "same services, and differ in one thing: how they learn which socket to touch next.</p>")
    yield ('<p class="soft">All that follows was observed in one run: '
           f"{escape(record['made'])}, {escape(record['machine'])}, "
           f"{record['seconds']:.0f} seconds. The clients, the figures and the scenarios are those "
           "of the tests.</p>")
    yield ('<ol><li>Blocking: one client at a time, and every call sleeps.</li>'
           "<li>A busy loop: no call sleeps; every socket is tried in turn, for ever.</li>"
           "<li>select: the kernel is asked once about all of them, and sleeps meanwhile.</li>"
           "<li>poll: the same, with a list that may be of any length.</li>"
           "<li>epoll: the kernel keeps the list, and returns who is ready.</li>"
           "<li>A selector with callbacks, on top of any of these three.</li></ol>")
    yield ('<nav aria-label="On this page"><a href="#three">Three pictures</a> &middot; '
           '<a href="#matrix">The matrix</a> &middot; '
           '<a href="#behind">Behind the cells</a></nav>')


def _pictures_that_matter(record: Record) -> Iterator[str]:
    """The three that tell the whole story; those that the run has played."""
    wanted = [
        ("why-waiting", "Why stage 1 makes people wait", "second_client", ("1", "5"),
         "A connects and says nothing. B connects and asks. In stage 1 the server has gone to "
         "sleep in a call that only A can end; in stage 5 it sleeps in one that anybody ends."),
        ("why-hot", "Why stage 2 is hot", "idle", ("2", "5"),
         "Fifty clients have each been answered once, and now nobody says anything. Both servers "
         "serve all fifty. One of them asks all fifty, all the time, whether they have said "
         "something; the other has asked the kernel to wake it.")]
    yield '<h2 id="three">Three pictures</h2>'
    for ident, title, name, stages, text in wanted:
        scenario = record["scenarios"].get(name)
        shown = [stage for stage in stages if scenario and "picture" in
                 scenario["runs"].get(stage, {})]
        if not shown:
            continue
        yield f'<h3 id="{ident}">{title}</h3>\n<p>{escape(text)}</p>'
        longest = max(scenario["runs"][stage]["picture"]["seconds"] for stage in shown)
        for stage in shown:
            sentence = escape(scenario["lessons"][stage])
            yield (f"<figure><figcaption><b>{_name(record, stage)}.</b> {sentence} "
                   f'<a href="#{name}-{stage}">What it said.</a></figcaption>')
            yield timeline(scenario["runs"][stage]["picture"], f"{ident}-{stage}",
                           f"{title}: {_name(record, stage)}", longest) + "</figure>"
    growth = list(_growth(record))
    if growth:
        yield '<h3 id="why-flat">Why stage 5 stays flat</h3>'
        yield ("<p>One client asks, beside 10, 100 and 1,000 that say nothing. How many entries "
               "are looked at for one message, by kernel and program together? select and poll "
               "get the whole list with each call, and walk it; the busy loop asks everybody in "
               "vain. epoll has been told once, and looks only at who is ready.</p>")
        yield from growth


def _matrix(record: Record) -> Iterator[str]:
    yield '<h2 id="matrix">The matrix</h2>'
    yield ('<p>Each cell is what was observed; <span class="worst">&nbsp;&#9650; worst&nbsp;'
           "</span> marks what you would not want. Each leads to its picture. System calls are "
           "those that serve clients, as the servers count them; what it takes to narrate is not "
           "among them.</p>")
    yield ('<div class="scroll" tabindex="0" role="region" aria-label="The matrix">'
           '<table class="matrix"><thead><tr><th scope="col">Question</th>')
    for stage in record["stages"]:
        yield '<th scope="col">' + stage["id"] + "<br>" + escape(stage["title"]) + "</th>"
    yield "</tr></thead><tbody>"
    for row in record["rows"]:
        name, scenario, question = row["id"], row["scenario"], escape(row["question"])
        yield f'<tr id="row-{name}"><th scope="row">{question}</th>'
        for stage, cell in row["cells"].items():
            kind, mark = (' class="worst"', "&#9650; ") if cell["worst"] else ("", "")
            text = mark + escape(cell["text"])
            yield (f'<td{kind} data-row="{name}" data-stage="{stage}">'
                   f'<a href="#{scenario}-{stage}">{text}</a></td>')
        yield "</tr>"
    yield "</tbody></table></div>"


def _how_to_read() -> Iterator[str]:
    yield '<h2 id="read">How to read a picture</h2>'
    yield ("<p>Time runs to the right. Each client has a lane, from its connection to its end; "
           "the server has one below them, with a row for each kind of call. A mark that points "
           "up sends, one that points down receives. On a narrow screen pictures scroll "
           "sideways.</p>")
    yield ('<ul class="key"><li><i class="i-asleep"></i>the server is asleep, in the call '
           'named</li><li><i class="i-hot"></i>the server spins: it calls, in vain</li>'
           '<li><i class="i-waits"></i>a client waits for its answer</li></ul>')


def _sections(record: Record) -> Iterator[str]:
    yield '<h2 id="behind">Behind the cells</h2>'
    titles = {stage["id"]: _name(record, stage["id"]) for stage in record["stages"]}
    for name, scenario in record["scenarios"].items():
        yield f'<section id="{name}"><h3>' + escape(scenario["question"]) + "</h3>"
        yield f'<p class="soft"><code>make compare SCENARIO={name}</code></p>'
        if name == "silent_clients":
            yield from _figures(record, scenario)
        for stage, title in titles.items():
            yield from _run(record, name, scenario, stage, title)
        yield "</section>"


def _run(record: Record, name: str, scenario: Record, stage: str, title: str) -> Iterator[str]:
    run = scenario["runs"][stage]
    said = "; ".join(row["cells"][stage]["text"] for row in record["rows"]
                     if row["scenario"] == name)
    yield (f'<details id="{name}-{stage}"><summary><b>{title}</b>'
           f"{': ' * bool(said)}{escape(said)}</summary>")
    if "picture" not in run:
        yield f"<p>{escape(run.get('not_played') or run['failed'])}</p></details>"
        return
    shown = run["picture"]
    yield f"<p>{escape(scenario['lessons'][stage])}</p>"
    for line in run["unexpected"]:
        yield f'<p class="worst">Not as expected: {escape(line)}</p>'
    yield "<figure>" + timeline(shown, f"{name}-{stage}-picture",
                                f"{scenario['question']} {title}") + "</figure>"
    lines = [entry if isinstance(entry, int) else 1 for entry in shown["narration"]]
    yield (f'<details id="{name}-{stage}-said"><summary>What the server said '
           f"({sum(lines):,} lines)</summary>{_narration(shown['narration'])}</details></details>")


def _narration(entries: list[Any]) -> str:
    lines = []
    for entry in entries:
        if isinstance(entry, int):
            lines.append(f'<span class="soft">     ... {entry:,} lines more</span>')
        else:
            _, line, matters, who = entry
            text = escape(line)
            lines.append((f"<mark>{text}</mark>" if matters else text)
                         + f'<span class="soft">  {escape(who)}</span>' * bool(who))
    return '<pre tabindex="0">' + "\n".join(lines) + "</pre>"


def _figures(record: Record, scenario: Record) -> Iterator[str]:
    """All counters for one message, in full."""
    keys = (("waits", "waits"), ("recv", "receives"), ("send", "sends"), ("accept", "accepts"),
            ("watch", "changes of the watched set"), ("would_block", "calls in vain"),
            ("scanned", "entries looked at"))
    yield ('<details id="silent_clients-figures"><summary>All figures for one message'
           '</summary><div class="scroll"><table class="figures"><thead><tr>'
           '<th scope="col">Stage</th><th scope="col">Silent clients</th>')
    yield "".join(f'<th scope="col">{text}</th>' for _, text in keys) + "</tr></thead><tbody>"
    for stage in (each["id"] for each in record["stages"]):
        for count, cost in scenario["runs"][stage].get("observed", {}).items():
            cells = "".join(f"<td{' class=most' * (cost[key] >= 100)}>{cost[key]:,.1f}</td>"
                            for key, _ in keys)
            yield (f'<tr><th scope="row">{_name(record, stage)}</th>'
                   f"<td>{int(count):,}</td>{cells}</tr>")
    yield "</tbody></table></div></details>"


def _name(record: Record, stage: str) -> str:
    title = next(each["title"] for each in record["stages"] if each["id"] == stage)
    number, _, how = stage.partition("-")
    return f"Stage {number}, {escape(title)}"


# --- a timeline -----------------------------------------------------------------------------

def timeline(shown: Record, ident: str, title: str, longest: float = 0.0) -> str:
    """A lane for each client, one for the server below; `longest`: what the axis has room for."""
    return Timeline(shown, longest or shown["seconds"]).draw(ident, title)


class Timeline:
    def __init__(self, shown: Record, seconds: float) -> None:
        self.shown, self.seconds = shown, seconds
        self.parts: list[str] = []
        self.y = 8.0

    def x(self, at: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * min(1.0, at / self.seconds), 1)

    def draw(self, ident: str, title: str) -> str:
        self.story()
        top = self.y
        for lane in self.shown["lanes"]:
            self.lane(lane)
        self.server()
        steps = "".join(f'<path class="step" d="M{self.x(at)} {top - 6}V{self.y}"/>'
                        for at, _ in self.shown["said"])
        self.axis()
        return (f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(title)}">'
                f'<svg viewBox="0 0 {WIDTH} {self.y:.0f}" role="img" '
                f'aria-labelledby="{ident}-t {ident}-d"><title id="{ident}-t">{escape(title)}'
                f'</title><desc id="{ident}-d">{escape(in_words(self.shown))}</desc>'
                + steps + "".join(self.parts) + "</svg></div>")

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "") -> None:
        self.parts.append(f'<text x="{x:g}" y="{y:g}"' + f' class="{kind}"' * bool(kind)
                          + f' text-anchor="{anchor}"' * bool(anchor) + f">{escape(text)}</text>")

    def box(self, begin: float, end: float, y: float, height: float, kind: str,
            hint: str = "") -> float:
        """How wide it became."""
        x, width = self.x(begin), max(1.0, self.x(end) - self.x(begin))
        inside = f"><title>{escape(hint)}</title></rect>" if hint else "/>"
        self.parts.append(f'<rect class="{kind}" x="{x}" y="{y:g}" width="{width:.1f}" '
                          f'height="{height:g}"{inside}')
        return width

    def mark(self, at: float, y: float, what: str, hint: str, like: str = "") -> None:
        """Up: something is sent; down: something is received; a bar: begin and end."""
        x = self.x(at)
        up, down, bar = (f"M{x} {y - 5}l4.5 9h-9z", f"M{x} {y + 5}l4.5 -9h-9z",
                         f"M{x - 1.5} {y - 6}h3v12h-3z")
        cross = (f"M{x - 4} {y - 5}l4 4 4 -4 1.5 1.5 -4 4 4 4 -1.5 1.5 -4 -4 -4 4 -1.5 -1.5 "
                 "4 -4 -4 -4z")
        shape = {"send": up, "urgent": up, "recv": down, "eof": down, "reset": cross}.get(
            like or what, bar)
        self.parts.append(f'<path class="{what}" d="{shape}">'
                          f"<title>{escape(hint)}</title></path>")

    def story(self) -> None:
        """The sentences, each at its time; in as many rows as they need not to overlap."""
        ends: list[float] = []
        for at, text in self.shown["said"]:
            wide, begin = LETTER * len(text), self.x(at) + 4
            left = begin + wide > WIDTH and wide + 4 <= self.x(at)
            if left:
                begin = self.x(at) - 4 - wide
            elif begin + wide > WIDTH:             # no room to the left, either
                begin = max(4.0, WIDTH - wide)
            row = next((i for i, end in enumerate(ends) if end < begin), len(ends))
            ends[row:row + 1] = [begin + wide]
            self.text(round(self.x(at) - 4 if left else begin, 1), self.y + 8 + 15 * row, text,
                      anchor="end" if left else "")
        self.y += 15 * len(ends) + 4 * bool(ends)

    def lane(self, lane: Record) -> None:
        many = lane["count"] > 1
        height = 44 if many else 28
        middle = self.y + height / 2
        self.text(6, middle + (0 if many else 4), lane["name"])
        if many:
            self.text(6, middle + 14, f"{lane['count']:,} more", "soft small")
        self.parts.append(f'<path class="lane" d="M{LEFT} {middle:g}H{WIDTH - RIGHT}"/>')
        if lane["marks"] and not many:
            first, last = lane["marks"][0][0], lane["marks"][-1][0]
            self.parts.append(f'<path class="life" d="M{self.x(first)} {middle:g}'
                              f'H{self.x(last)}"/>')
        for begin, end, answered in lane.get("waits", ()):
            text = f"waits {_duration(end - begin)}" + ("" if answered else ", and gets nothing")
            alone = not any(begin < mark[0] < end for mark in lane["marks"])
            if self.box(begin, end, middle - 8, 16, "waits", text) > 8 * len(text) and alone:
                self.text((self.x(begin) + self.x(end)) / 2, middle + 4, text, "small", "middle")
        if many:
            self.waiting(lane, middle + height / 2 - 4)
        for at, what, count, text in lane["marks"]:
            times = f"{count} x " * (count > 1)
            self.mark(at, middle if not many else self.y + 9, what,
                      f"{_duration(at)}: {times}{what} {text}")
        self.y += height

    def waiting(self, lane: Record, floor: float) -> None:
        """How many of them wait for an answer, as an area; full height is all of them."""
        scale = 30 / lane["count"]
        path, most = f"M{LEFT} {floor}", 0
        for at, count in lane["waiting"]:
            path += f"H{self.x(at)}V{floor - count * scale:.1f}"
            most = max(most, count)
        if most:
            self.parts.append(f'<path class="waits" d="{path}V{floor}z"><title>up to {most} '
                              "of them wait for an answer</title></path>")

    def server(self) -> None:
        self.y += 8
        self.text(6, self.y + 8, "server")
        self.text(6, self.y + 22, f"CPU: {_duration(self.shown['cpu'])}", "soft small")
        self.box(0, self.shown["seconds"], self.y, 22, "awake")
        for begin, end, kind, call in self.shown["spans"]:
            if kind == "hot":
                sums = self.shown["counters"]
                text = f"spins: {sums.get('would_block', 0):,} calls in vain"
            else:
                text = f"asleep in {call}()"
            width = self.box(begin, end, self.y, 22, kind, f"{text}, {_duration(end - begin)}")
            if kind == "asleep":                   # a notch: here it woke
                self.parts.append(f'<path class="notch" d="M{self.x(end)} {self.y}v22"/>')
            fits = next((t for t in (f"{text}, {_duration(end - begin)}", text, call)
                         if width > 7 * len(t)), "")
            if fits:
                self.text((self.x(begin) + self.x(end)) / 2, self.y + 15, fits,
                          "small onhot" if kind == "hot" else "small", "middle")
        self.y += 26
        rows = [verb for verb in ("accept", "recv", "send", "close", "urgent", "pause", "resume",
                                  "stop") if any(mark[1] == verb for mark in self.shown["marks"])]
        for verb in rows:
            self.text(LEFT - 8, self.y + 10, verb, "soft small", "end")
            self.parts.append(f'<path class="lane" d="M{LEFT} {self.y + 7:g}'
                              f'H{WIDTH - RIGHT}"/>')
            for at, what, count, text in self.shown["marks"]:
                if what == verb:
                    self.mark(at, self.y + 7, what, f"{_duration(at)}: " + (
                        f"{count} x {what}, the first: " if count > 1 else "") + text,
                        like="recv" if what == "urgent" else "")
            self.y += 15

    def axis(self) -> None:
        self.parts.append(f'<path class="axis" d="M{LEFT} {self.y + 4:g}H{WIDTH - RIGHT}"/>')
        step = _nice(self.seconds / 6)
        for i in range(int(self.seconds / step) + 1):
            x = self.x(i * step)
            self.parts.append(f'<path class="axis" d="M{x} {self.y + 4:g}v5"/>')
            self.text(x, self.y + 22, _duration(i * step, step), "soft small", "middle")
        self.y += 30


def _nice(value: float) -> float:
    """1, 2 or 5 times a power of ten, at least value."""
    power = 10 ** math.floor(math.log10(value))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= value * 0.999)


def _duration(seconds: float, step: float = 0.0) -> str:
    if max(seconds, step) >= 1 or step >= 0.5:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.1f} s"
    return f"{seconds * 1000:.0f} ms" if not seconds or seconds >= 0.001 else "under 1 ms"


def in_words(shown: Record) -> str:
    """The picture, for those who do not see it."""
    sentences = [text for _, text in shown["said"]]
    for lane in shown["lanes"]:
        if lane["count"] > 1:
            most = max(count for _, count in lane["waiting"])
            sentences.append(f"Of {lane['count']} more clients, up to {most} wait for an answer.")
            continue
        longest = max(lane["waits"], key=lambda wait: wait[1] - wait[0], default=None)
        if longest:
            how = "" if longest[2] else ", and gets none"
            sentences.append(f"Client {lane['name']} waits up to "
                             f"{_duration(longest[1] - longest[0])} for an answer{how}.")
    hot = [span for span in shown["spans"] if span[2] == "hot"]
    if hot:
        vain = shown["counters"].get("would_block", 0)
        sentences.append(f"The server never sleeps: it spins for {_duration(shown['seconds'])}, "
                         f"and {vain:,} calls come back empty.")
    for call, seconds in shown["asleep"].items():
        if seconds >= 0.001:
            sentences.append(f"The server sleeps in {call} for {_duration(seconds)} of "
                             f"{_duration(shown['seconds'])}.")
    sentences.append(f"CPU used: {_duration(shown['cpu'])}.")
    return " ".join(sentences)


# --- the growth -----------------------------------------------------------------------------

def _growth(record: Record) -> Iterable[str]:
    """Entries looked at for one message, by the number of silent clients; both logarithmic."""
    runs = record["scenarios"].get("silent_clients", {}).get("runs", {})
    curves = []
    for stage, name, kind in (("2", "busy loop", "busy"), ("3", "select", "select"),
                              ("4", "poll", "select"), ("5", "epoll", "epoll")):
        seen = runs.get(stage, {}).get("observed")
        if seen:
            curves.append((stage, name, kind, [(int(count), max(1.0, cost["scanned"]))
                                               for count, cost in seen.items() if int(count)]))
    if not curves:
        return
    height, bottom, right = 300, 262, 180
    top = max(math.log10(value) for curve in curves for _, value in curve[3])
    top = max(2.0, math.ceil(top * 2) / 2)

    def x(count: float) -> float:
        return round(70 + (WIDTH - 70 - right) * (math.log10(count) - 1) / 2, 1)

    def y(value: float) -> float:
        return round(bottom - (bottom - 20) * math.log10(value) / top, 1)

    words = " ".join(f"Stage {stage}, {name}: " + ", ".join(
        f"{value:,.0f} beside {count:,}" for count, value in points) + "."
        for stage, name, _, points in curves)
    yield ('<figure><div class="scroll" tabindex="0" role="group" aria-label="Entries '
           f'looked at for one message"><svg viewBox="0 0 {WIDTH} {height}" role="img" '
           'aria-labelledby="growth-t growth-d"><title id="growth-t">Entries looked at for '
           "one message, by the number of silent clients</title>"
           f'<desc id="growth-d">{escape(words)}</desc>')
    for power in range(int(top) + 1):
        yield (f'<path class="axis" d="M70 {y(10 ** power)}H{WIDTH - right}"/><text class="soft '
               f'small" x="62" y="{y(10 ** power) + 4}" text-anchor="end">'
               f"{10 ** power:,}</text>")
    for count in (10, 100, 1000):
        yield (f'<path class="axis" d="M{x(count)} {bottom}v5"/><text class="soft small" '
               f'x="{x(count)}" y="{bottom + 19}" text-anchor="middle">{count:,}</text>')
    yield (f'<text class="soft small" x="{x(100)}" y="{bottom + 35}" text-anchor="middle">'
           "silent clients</text>")
    curves.sort(key=lambda curve: -curve[3][-1][1])     # the topmost first
    labels = spaced([y(curve[3][-1][1]) + 4 for curve in curves], 15, 15, bottom)
    for (stage, name, kind, points), label in zip(curves, labels):
        path = "L".join(f"{x(count)} {y(value)}" for count, value in points)
        dash = ' stroke-dasharray="7 5"' if name == "poll" else ""
        dots = "".join(f'<circle cx="{x(count)}" cy="{y(value)}" r="3.5" fill="currentColor">'
                       f"<title>{name}: {value:,.0f} beside {count:,}</title></circle>"
                       for count, value in points)
        yield (f'<g class="{kind}"><path class="curve" d="M{path}"{dash}/>{dots}'
               f'<text class="curvename" x="{WIDTH - right + 10}" y="{label:g}">{stage} '
               f"{name}: {points[-1][1]:,.0f}</text></g>")
    yield ('</svg></div><figcaption class="soft">Both axes are logarithmic. '
           '<a href="#silent_clients-figures">All figures.</a></figcaption></figure>')
