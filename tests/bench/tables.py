"""The tables, as the terminal, bench.html and Markdown show them."""

from __future__ import annotations

from typing import Any, Iterator, Optional, Sequence

from tests.bench.samples import Found, median
from tests.bench.settings import BY_EPOLL, FLOOR_OF, SERVERS, SLEEPING
from tests.output.figures import number


def micro(found: Found, floor: Optional[float] = None) -> str:
    """CPU time in microseconds, its spread, and as a multiple of the floor."""
    if not found:
        return "-"
    value = found["median"]
    half = (found["high"] - found["low"]) / 2 / value * 100 if value else 0
    text = f"{number(value / 1000)} ±{half:.0f}%"
    return text + (f" {number(value / floor)}x" if floor else "")


def scaled(value: Optional[float], scale: float) -> str:
    return "-" if value is None else number(value * scale)


def rate(found: dict[str, Any]) -> str:
    text = number(median(found.get("per_second")))
    return text + "*" if text != "-" and found["load_busy"]["median"] > 0.9 else text


def latency(found: dict[str, Any]) -> str:
    return ", ".join(number(found[key]["median"]) for key in ("p50", "p99") if key in found) or "-"


def table(title: str, note: str, columns: Sequence[str],
          rows: Sequence[tuple[str, Sequence[str]]]) -> dict[str, Any]:
    return {"title": title, "note": note, "columns": list(columns),
            "rows": [{"name": name, "cells": list(cells)} for name, cells in rows
                     if any(cell != "-" for cell in cells)]}


def tables(results: dict[str, Any], rivals: Sequence[str]) -> Iterator[dict[str, Any]]:
    figures, labels = results["figures"], results["labels"]
    busy, silent, chat, stalls = (figures[what] for what in ("busy", "silent", "chat", "stalls"))
    titles = {setting["id"]: setting["title"] for setting in results["settings"]}
    names = ["floor", *SERVERS, *rivals]
    floors = {i: median(busy[FLOOR_OF[i]].get("floor", {}).get("cpu")) for i in titles}

    yield table(
        "1. CPU time a message, µs",
        "x: times the floor, which has one connection and the same messages. With many "
        "connections a server need not fall asleep and be woken for each message, so that it can "
        "cost less than the floor. Stage 1 serves one connection at a time. Stage 2 never sleeps: "
        "its messages cost all that it used up meanwhile.",
        list(titles.values()),
        [(labels[name], [micro(busy[i].get(name, {}).get("cpu"), floors[i]) for i in titles])
         for name in names])
    yield table(
        "   Messages a second",
        "Does not repeat: conclude nothing from it. *: the load itself was busy, and the server "
        "could have done more.", list(titles.values()),
        [(labels[name], [rate(busy[i].get(name, {})) for i in titles]) for name in names])
    yield table(
        "   Latency, µs: p50, p99", "Does not repeat: conclude nothing from it.",
        list(titles.values()),
        [(labels[name], [latency(busy[i].get(name, {})) for i in titles]) for name in names])

    levels = [10, 100, 900, 1000, 10_000]
    rows = []
    for name, of in silent.items():
        at = {point["silent"]: point["cpu"] for point in of["points"]}
        rows.append((labels[name], [micro(at.get(level)) for level in levels]
                     + [number(median(of["growth"])) + "x", number(max(0.0, of["slope_ns"]))]))
    yield table(
        "2. CPU time a message, µs, beside silent connections",
        "One connection speaks. Growth: from the first to the last. The slope is what each silent "
        "connection adds to every message, in ns. select ends at 1,024 descriptors.",
        [*map(number, levels), "growth", "ns each"], rows)
    yield table(
        "3. Connections opened, used for one message, closed", "50 at a time.",
        ["a second", "CPU each, µs"],
        [(labels[name], [rate(of), micro(of.get("cpu"))])
         for name, of in figures["connect"].items()])
    yield table(
        "4. Memory, start-up, size",
        "Memory: the server's own (anonymous pages) for each silent connection, kernel buffers "
        "not counted. Start-up: until it listens. Size: code and data of the program.",
        ["bytes a silent connection", "start-up, ms", "size, KB"],
        [(labels[name], [number(figures["memory"].get(name, {}).get("bytes")),
                         scaled(median(figures["start"].get(name)), 1000),
                         scaled(figures["size"].get(name), 0.001)]) for name in SERVERS])
    yield table(
        "5. Chat: CPU time a delivered line, µs", "One member speaks, so many others listen.",
        [f"{members} members" for members in chat],
        [(labels[name], [micro(of.get(name, {}).get("cpu")) for of in chat.values()])
         for name in ["2", *SLEEPING]])
    kinds = ("all", "waits", "recv", "send", "watch", "scanned")
    for connections, of in figures["calls"].items():
        what = "1 connection" if connections == "1" else f"{connections} busy connections"
        yield table(
            f"6. System calls a message, {what}", "From the servers' counters. Watch: changes of "
            "what is watched. Scanned: entries walked to find who is ready.", kinds,
            [(labels[name], [number(of.get(name, {}).get(kind)) for kind in kinds])
             for name in SERVERS])
    yield table(
        "7. Large messages on one connection: p99, ms", "A stall from Nagle's algorithm reads 40.",
        list(stalls),
        [(labels[name], [scaled(median(of.get(name, {}).get("p99")), 0.001)
                         for of in stalls.values()]) for name in SERVERS])
    if figures["instructions"]:
        yield table("8. Instructions a message, in user space", "64 bytes, one connection, counted "
                    "by valgrind.", ["instructions"],
                    [(labels[name], [number(figures["instructions"].get(name))])
                     for name in SERVERS])
    if rivals:
        yield table(
            "9. Beside others: CPU time, times theirs", "Slice against slice. Below 1: ours takes "
            "less.", list(titles.values()),
            [(f"{labels[mine]} / {rival}",
              [number(median(figures["ratios"][i].get(f"{mine}/{rival}"))) for i in titles])
             for rival in rivals for mine in BY_EPOLL])
