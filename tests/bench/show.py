"""How it is shown in a terminal: progress, tables, aims; and as Markdown, with a chart in text."""

from __future__ import annotations

import math
import sys
from typing import Any

from tests import output
from tests.output.figures import number


def progress(text: str, end: str = "") -> None:
    """One line that is written over on a terminal; a line of its own in a pipe."""
    if output.styled(sys.stderr):
        print(f"\r\x1b[K{text[:100]}", end=end, file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


def show(results: dict[str, Any]) -> None:
    styled = output.styled(sys.stdout)
    bold, red, green, plain = ("\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[0m") if styled else [""] * 4
    for table in results["tables"]:
        if not table["rows"]:
            continue
        lines = [["", *table["columns"]]] + [[row["name"], *row["cells"]] for row in table["rows"]]
        first, *widths = [max(map(len, column)) for column in zip(*lines)]
        print(f"\n{bold}{table['title']}{plain}")
        for name, *cells in lines:
            print(f"{name:{first}}" + "".join(
                f"  {cell:>{width}}" for cell, width in zip(cells, widths)))
    known = [aim["met"] for aim in results["aims"] if aim["met"] is not None]
    print(f"\n{bold}Aims{plain}: {sum(known)} of {len(known)} met")
    words = {None: "-     ", True: f"{green}met   {plain}", False: f"{red}MISSED{plain}"}
    for aim in results["aims"]:
        print(f"  {words[aim['met']]} {aim['aim']}: {aim['shown']} ({aim['wanted']})")
    for note in results["notes"]:
        print(f"note: {note}")


def markdown(results: dict[str, Any]) -> str:
    """The tables, for a page such as NOTES.md."""
    machine, chart = results["machine"], text_chart(results)
    lines = [f"`make bench{' QUICK=1' if results['quick'] else ''}`, {machine['when']}, on "
             f"{machine['cpu']}, {machine['cpus']} CPUs, {machine['system']}.", ""]
    if chart:
        lines += ["CPU time a message, one connection speaks:", "", "```", chart, "```", ""]
    for table in results["tables"]:
        lines += [f"**{table['title'].strip()}** {table['note']}", "",
                  "| | " + " | ".join(table["columns"]) + " |",
                  "|---" + "|---:" * len(table["columns"]) + "|"]
        lines += [f"| {row['name']} | " + " | ".join(row["cells"]) + " |" for row in table["rows"]]
        lines.append("")
    return "\n".join(lines)


class Axis:
    """A logarithmic one, of so many characters."""

    def __init__(self, low: float, high: float, size: int) -> None:
        self.low, self.high, self.size = low, high, size

    def at(self, value: float) -> int:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return round(share * (self.size - 1))


def text_chart(results: dict[str, Any], width: int = 64, height: int = 18) -> str:
    """The chart of the silent connections in characters."""
    lines = {name: [(point["silent"], point["cpu"]["median"] / 1000) for point in of["points"]]
             for name, of in results["figures"]["silent"].items() if not name.startswith("6")}
    if not lines:
        return ""
    places = sorted({place for points in lines.values() for place, _ in points})
    if 1000 in places and 900 in places:
        places.remove(900)                # there is no room for both
    values = [value for points in lines.values() for _, value in points]
    across = Axis(places[0], places[-1], width - 2)
    up = Axis(min(values) * 0.7, max(values) * 1.3, height)
    grid = [[" "] * width for _ in range(height)]     # from the lowest line to the highest

    for points in lines.values():
        for (place, value), (next_place, next_value) in zip(points, points[1:]):
            first, last = across.at(place), across.at(next_place)
            for at in range(first, last + 1):
                share = (at - first) / (last - first)
                grid[up.at(value * (next_value / value) ** share)][at + 1] = "."
    for name, points in lines.items():
        for place, value in points:
            cells, at = grid[up.at(value)], across.at(place) + 1
            cells[at if cells[at] in " ." or at + 1 == width else at + 1] = name

    powers = [10.0 ** power for power in range(-1, 8)]
    scale = {up.at(power): f"{number(power)} µs" for power in powers if up.low <= power <= up.high}
    text = [f"{scale.get(i, ''):>10} |" + "".join(cells).rstrip() for i, cells in enumerate(grid)]
    ruler = [" "] * (width + 8)
    for place in places:
        label = number(place)
        at = max(0, across.at(place) + 1 - len(label) // 2)
        ruler[at:at + len(label)] = label
    return "\n".join([*reversed(text), " " * 11 + "+" + "-" * width,
                      " " * 12 + "".join(ruler).rstrip(),
                      " " * 12 + "silent connections; the digits are the stages"])
