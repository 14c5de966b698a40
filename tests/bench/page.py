"""build/bench.html from what bench.py measured: one file, no script, nothing to fetch.

Lines are told apart by colour and dash and marker, and each is labelled where it ends. A chart's
text alternative says its figures; the table that it is drawn from stands on the same page.
"""

from __future__ import annotations

import math
from html import escape
from typing import Any, NamedTuple, Optional, Sequence

# What a line looks like: colour by mechanism, dashed for stage 6, a marker of its own.
LOOKS = {"floor": ("floor", "2 5", ""), "1": ("blocking", "", "circle"),
         "2": ("busy", "", "cross"), "3": ("select", "", "square"), "4": ("poll", "", "diamond"),
         "5": ("epoll", "", "circle"), "6-select": ("select", "7 4", "square"),
         "6-poll": ("poll", "7 4", "diamond"), "6-epoll": ("epoll", "7 4", "circle")}

STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1b1f24; --soft: #59636e;
  --line: #d5dae0; --panel: #f6f7f9; --good: #116329; --bad: #a40e26; --blocking: #57606a;
  --busy: #b3123f; --select: #a04a00; --poll: #6f3bb8; --epoll: #00695c; --floor: #59636e; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --ink: #e8eaed; --soft: #a0a8b2;
  --line: #363c44; --panel: #1c2025; --good: #56d373; --bad: #ff8089; --blocking: #b1bac4;
  --busy: #ff7b98; --select: #ffb059; --poll: #c3a1ff; --epoll: #4fd1bd; --floor: #a0a8b2; } }
@media print { :root { color-scheme: light; --page: #fff; --ink: #000; --soft: #444; --line: #bbb;
  --panel: #fff; --good: #116329; --bad: #a40e26; --blocking: #57606a; --busy: #b3123f;
  --select: #a04a00; --poll: #6f3bb8; --epoll: #00695c; --floor: #59636e; }
  figure, .table { break-inside: avoid; } .scroll { overflow: visible !important; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 62rem; background: var(--page);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .4rem; line-height: 1.3; }
p { max-width: 46rem; margin: .5rem 0; }
.soft { color: var(--soft); } small, .small { font-size: .86rem; }
a { color: inherit; } a:focus-visible, [tabindex]:focus-visible { outline: 2px solid var(--epoll); }
nav ul { padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }
.scroll { overflow-x: auto; }
figure { margin: .8rem 0 0; } figcaption { max-width: 46rem; }
svg { display: block; width: 100%; min-width: 40rem; height: auto;
  font: 13px system-ui, sans-serif; }
svg text { fill: var(--ink); } svg .label { fill: currentColor; font-weight: 600;
  paint-order: stroke; stroke: var(--page); stroke-width: 4px; stroke-linejoin: round; }
svg .soft { fill: var(--soft); }
svg .grid { stroke: var(--line); } svg .minor { stroke: var(--line); opacity: .45; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .4rem 0; }
th, td { padding: .28rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { color: var(--soft);
  font-weight: 600; vertical-align: bottom; } tbody tr:hover { background: var(--panel); }
.aims td, .aims th { text-align: left; white-space: normal; }
.met { color: var(--good); } .missed { color: var(--bad); font-weight: 700; }
code { font: .92em ui-monospace, monospace; background: var(--panel); padding: .1em .3em; }
""" + "".join(f".{name} {{ color: var(--{name}); }}\n" for name in
              ("blocking", "busy", "select", "poll", "epoll", "floor"))


class Series(NamedTuple):
    name: str                              # as LOOKS has it
    label: str
    points: list[tuple[float, float]]


# --- charts ---------------------------------------------------------------------------------

WIDTH, HEIGHT = 860, 440
LEFT, RIGHT, TOP, BOTTOM = 72, 120, 18, 52


def number(value: float) -> str:
    """1000 -> 1,000; 0.25 -> 0.25; 3.14159 -> 3.14"""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def ticks(low: float, high: float) -> list[tuple[float, bool]]:
    """1, 2, 5, 10 ... between two values, and whether that is a power of ten."""
    found = []
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        found += [(step * 10.0 ** power, step == 1) for step in (1, 2, 5)]
    return [(value, main) for value, main in found if low * 0.999 <= value <= high * 1.001]


def marker(kind: str, x: float, y: float) -> str:
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="currentColor"/>'
    if kind == "square":
        return (f'<rect x="{x - 3.6:.1f}" y="{y - 3.6:.1f}" width="7.2" height="7.2" '
                'fill="currentColor"/>')
    if kind == "diamond":
        return (f'<path d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z" fill="currentColor"/>')
    if kind == "cross":
        return (f'<path d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8" stroke="currentColor" '
                'stroke-width="2"/>')
    return ""


def spaced(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Sorted places, moved as little as need be so that no two are closer than gap."""
    placed = list(wanted)
    for _ in range(200):
        moved = False
        for i in range(len(placed) - 1):
            lack = gap - (placed[i + 1] - placed[i])
            if lack > 0.01:
                placed[i] -= lack / 2
                placed[i + 1] += lack / 2
                moved = True
        for i, place in enumerate(placed):
            placed[i] = min(max(place, low + i * gap), high - (len(placed) - 1 - i) * gap)
        if not moved:
            break
    return placed


def chart(name: str, title: str, across: str, up: str, series: Sequence[Series],
          places: Sequence[float], floor: Optional[float] = None) -> str:
    """Both axes logarithmic. places: where the ticks across are."""
    values = [y for line in series for _, y in line.points] + ([floor] if floor else [])
    low, high = min(values) * 0.8, max(values) * 1.25
    if high / low < 4:                     # so that a flat line looks flat
        middle = math.sqrt(low * high)
        low, high = middle / 2, middle * 2
    first, last = min(places) * 0.85, max(places) * 1.05

    def x(value: float) -> float:
        share = math.log(value / first) / math.log(last / first)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        share = math.log(value / low) / math.log(high / low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    says = [f"{line.label}: " + ", ".join(f"{number(v)} µs at {number(k)}" for k, v in line.points)
            for line in series]
    if floor:
        says.append(f"the floor: {number(floor)} µs")
    svg = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}-t {name}-d">',
           f'<title id="{name}-t">{escape(title)}</title>',
           f'<desc id="{name}-d">{escape(". ".join(says))}.</desc>']
    for value, main in ticks(low, high):
        at = y(value)
        svg.append(f'<line class="{"grid" if main else "minor"}" x1="{LEFT}" x2="{WIDTH - RIGHT}" '
                   f'y1="{at:.1f}" y2="{at:.1f}"/>')
        if main or high / low < 3000:
            svg.append(f'<text class="soft" x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">'
                       f'{number(value)}</text>')
    for value in places:
        at = x(value)
        svg.append(f'<line class="minor" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" '
                   f'y2="{HEIGHT - BOTTOM}"/><text class="soft" x="{at:.1f}" '
                   f'y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{number(value)}</text>')
    svg.append(f'<text class="soft" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" '
               f'text-anchor="middle">{escape(across)}</text>')
    svg.append(f'<text class="soft" text-anchor="middle" '
               f'transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)">'
               f'{escape(up)}</text>')
    if floor:
        at = y(floor)
        svg.append(f'<g class="floor"><line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" '
                   f'y2="{at:.1f}" stroke="currentColor" stroke-width="1.5" '
                   f'stroke-dasharray="{LOOKS["floor"][1]}"/></g>')
    ends = []
    for line in series:
        look, dash, mark = LOOKS[line.name]
        path = "L".join(f"{x(k):.1f} {y(v):.1f}" for k, v in line.points)
        svg.append(f'<g class="{look}"><path d="M{path}" fill="none" stroke="currentColor" '
                   f'stroke-width="2" stroke-dasharray="{dash}"/>'
                   + "".join(marker(mark, x(k), y(v)) for k, v in line.points) + "</g>")
        ends.append((x(line.points[-1][0]), y(line.points[-1][1]), look, line.label))
    if floor:
        ends.append((WIDTH - RIGHT, y(floor), "floor", "floor"))
    svg += labels(ends)
    return "".join(svg) + "</svg>"


def labels(ends: list[tuple[float, float, str, str]]) -> list[str]:
    """Each line's name at its end; those that end side by side are spread out."""
    groups: list[list[tuple[float, float, str, str]]] = []
    for end in sorted(ends):
        if groups and end[0] - groups[-1][-1][0] < 40:
            groups[-1].append(end)
        else:
            groups.append([end])
    svg = []
    for group in groups:
        group.sort(key=lambda end: end[1])
        beside = max(end[0] for end in group) + 22
        wanted = [end[1] + (12 if beside < WIDTH - RIGHT else 0) for end in group]
        places = spaced(wanted, 16, TOP + 4, HEIGHT - BOTTOM - 2)
        for (at, end, look, label), place in zip(group, places):
            svg.append(f'<g class="{look}"><path d="M{at + 6:.1f} {end:.1f}L{beside - 4:.1f} '
                       f'{place:.1f}" stroke="currentColor" opacity=".6"/>'
                       f'<text x="{beside:.1f}" y="{place + 4:.1f}" class="label">'
                       f'{escape(label)}</text></g>')
    return svg


# --- the page -------------------------------------------------------------------------------

def median(found: Any) -> Optional[float]:
    return found["median"] if found else None


def silent_chart(results: dict[str, Any]) -> str:
    figures, label = results["figures"], results["labels"]
    series = [Series(name, label[name], [(point["silent"], median(point["cpu"]) / 1000)
                                         for point in of["points"]])
              for name, of in figures["silent"].items()]
    if not series:
        return ""
    floor = median(figures["busy"].get("1", {}).get("floor", {}).get("cpu"))
    places = sorted({10, 100, 1000} | {int(line.points[-1][0]) for line in series
                                       if line.points[-1][0] > 1000})
    grows = figures["silent"]

    told = []
    for what, name in (("select", "3"), ("poll", "4"), ("epoll", "5")):
        if name in grows and grows[name]["growth"]:
            times = median(grows[name]["growth"])
            told.append(f"{what} takes {times:.2f} times" if times < 2 else
                        f"{what} takes {number(round(times))} times")
            told[-1] += f" as much beside {number(grows[name]['points'][-1]['silent'])}"
    return figure(
        "silent", "One speaks, the others are silent",
        chart("silent", "CPU time a message beside silent connections",
              "silent connections beside the one that speaks", "CPU time a message, µs", series,
              places, floor / 1000 if floor else None),
        "For one message, compared with beside ten silent connections: " + "; ".join(told) + ". "
        "select and poll are handed the whole list at every call, walk it in the kernel, and "
        "leave it to the program to walk it again; a busy loop asks everybody itself. epoll "
        "keeps the list, and returns who is ready: the others cost nothing.", "t2")


def busy_chart(results: dict[str, Any]) -> str:
    figures, label = results["figures"], results["labels"]
    series = []
    for name in LOOKS:
        points = [(count, median(figures["busy"][key].get(name, {}).get("cpu")))
                  for key, count in (("1", 1), ("50", 50), ("500", 500)) if key in figures["busy"]]
        known = [(count, value / 1000) for count, value in points if value]
        if name != "floor" and known:
            series.append(Series(name, label[name], known))
    if not series:
        return ""
    floor = median(figures["busy"].get("1", {}).get("floor", {}).get("cpu"))
    return figure(
        "busy", "Everybody speaks",
        chart("busy", "CPU time a message when all connections are busy", "busy connections",
              "CPU time a message, µs", series, [1, 50, 500], floor / 1000 if floor else None),
        "When all are ready, a wait finds many at once and its cost is shared: which of the waits "
        "it is hardly matters. A message then costs less than on one connection, where the server "
        "falls asleep after each. (The busy loop's share includes the time it spends asking in "
        "vain.)", "t1")


def chat_chart(results: dict[str, Any]) -> str:
    figures, label = results["figures"], results["labels"]
    places = [int(members) for members in figures["chat"]]
    series = []
    for name in LOOKS:
        points = [(int(members), median(of.get(name, {}).get("cpu")))
                  for members, of in figures["chat"].items()]
        known = [(members, value / 1000) for members, value in points if value]
        if known:
            series.append(Series(name, label[name], known))
    if not series or len(places) < 2:
        return ""
    return figure(
        "chat", "One speaks to many",
        chart("chat", "CPU time a delivered line of chat", "members who listen",
              "CPU time a delivered line, µs", series, places),
        "One line in, one line out to each member. The wait is paid once for all of them: what "
        "remains is one send() each, and that is the same in every stage.", "t5")


def figure(name: str, heading: str, svg: str, lesson: str, table: str) -> str:
    return (f'<section id="{name}"><h2>{escape(heading)}</h2><p>{escape(lesson)}</p>'
            f'<figure><div class="scroll" tabindex="0" role="group" '
            f'aria-label="{escape(heading)}: chart">{svg}</div>'
            f'<figcaption class="soft small">Both axes are logarithmic. Dashed: stage 6. The same '
            f'in figures: <a href="#{table}">the table</a>.</figcaption></figure></section>')


def table(found: dict[str, Any], name: str) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in found["columns"])
    rows = "".join(f'<tr><th scope="row">{escape(row["name"])}</th>'
                   + "".join(f"<td>{escape(cell)}</td>" for cell in row["cells"]) + "</tr>"
                   for row in found["rows"])
    return (f'<div class="table" id="{name}"><div class="scroll" tabindex="0" role="group" '
            f'aria-label="{escape(found["title"].strip())}"><table>'
            f'<caption>{escape(found["title"].strip())}</caption>'
            f'<thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
            f'<p class="soft small">{escape(found["note"])}</p></div>')


def aims(results: dict[str, Any]) -> str:
    words = {True: '<td class="met">met</td>', False: '<td class="missed">missed</td>',
             None: '<td class="soft">not measured</td>'}
    rows = "".join(f'<tr>{words[aim["met"]]}<td>{escape(aim["aim"])}</td>'
                   f'<td>{escape(aim["shown"])}</td><td>{escape(aim["wanted"])}</td></tr>'
                   for aim in results["aims"])
    return ('<section id="aims"><h2>What was aimed at</h2><div class="scroll" tabindex="0" '
            'role="group" aria-label="Aims"><table class="aims"><thead><tr><th scope="col">Result'
            '</th><th scope="col">Aim</th><th scope="col">Measured</th><th scope="col">Wanted</th>'
            f'</tr></thead><tbody>{rows}</tbody></table></div></section>')


def page(results: dict[str, Any]) -> str:
    machine = results["machine"]
    charts = [part or f'<div id="{name}"></div>' for name, part in (
        ("silent", silent_chart(results)), ("busy", busy_chart(results)),
        ("chat", chat_chart(results)))]
    tables, seen = [], set()
    for found in results["tables"]:
        if not found["rows"]:
            continue
        first = found["title"].strip()[0]
        name = f"t{first}" if first.isdigit() and first not in seen else f"t{len(tables)}x"
        seen.add(first)
        tables.append(table(found, name))
    notes = "".join(f"<p class=\"soft\">{escape(note)}</p>" for note in results["notes"])
    command = "make bench QUICK=1" if results["quick"] else "make bench"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What it costs: six ways to wait</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>What it costs</h1>
<p>Six programs serve the same clients the same services. They differ in how they learn which
socket to touch next, and this is what that costs. Stage 6 appears three times, once for each of
its selectors. The floor is a program that does nothing but receive and send.</p>
<p class="soft small">{escape(machine["cpu"])}, {escape(machine["cpus"])} CPUs,
{escape(machine["system"])}. {escape(machine["when"])}, {results["seconds"]:.0f} seconds.
<code>{command}</code></p>
{notes}
<nav aria-label="On this page"><ul><li><a href="#silent">Silent connections</a></li>
<li><a href="#busy">Busy connections</a></li><li><a href="#chat">Chat</a></li>
<li><a href="#tables">All figures</a></li><li><a href="#aims">Aims</a></li>
<li><a href="#how">How it was measured</a></li></ul></nav>
</header>
<main>
{"".join(charts)}
<section id="tables"><h2>All figures</h2>
{"".join(tables)}</section>
{aims(results)}
<section id="how"><h2>How it was measured</h2>
<p>CPU time a message: load and servers share one CPU and take turns in slices of 50 ms; the
server's own CPU time over a slice, divided by the messages that it answered. The median of the
slices, and half the distance between the quartiles in per cent. What changes the machine's speed
hits all alike, so that ratios repeat within a few per cent. Messages a second and latencies are
from load and servers running side by side; they do not repeat.</p>
<p>Stage 2 never sleeps. It was measured alone, and what it used up while the messages were under
way is what they cost. Every byte that came back was checked.</p>
<p class="soft small">Built with: <code>{escape(machine["built"])}</code></p></section>
</main>
</body>
</html>
"""
