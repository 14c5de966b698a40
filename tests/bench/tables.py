"""The tables, as the terminal, bench.html and Markdown show them."""

from __future__ import annotations

from typing import Any, Callable, Iterable, Iterator, Mapping, Optional, Sequence

from tests.bench.samples import Found, median
from tests.bench.settings import BY_EPOLL, FLOOR_OF, ON_ALL, SERVERS, SLEEPING
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


def tables(results: dict[str, Any], rivals: Sequence[str]) -> Iterator[dict[str, Any]]:
    figures, labels = results["figures"], results["labels"]
    busy, silent, chat, stalls = (figures[what] for what in ("busy", "silent", "chat", "stalls"))

    def table(title: str, note: str, columns: Mapping[Any, str], names: Iterable[str],
              cell: Callable[[str, Any], str]) -> dict[str, Any]:
        """A row for each name, in it cell(name, key) for each of the columns: {key: heading}."""
        rows = [{"name": labels.get(name, name), "cells": [cell(name, key) for key in columns]}
                for name in names]
        return {"title": title, "note": note, "columns": list(columns.values()),
                "rows": [row for row in rows if set(row["cells"]) - {"-"}]}

    settings = {setting["id"]: setting["title"] for setting in results["settings"]}
    floors = {i: median(busy[FLOOR_OF[i]].get("floor", {}).get("cpu")) for i in settings}
    variants = results["variants"]
    everybody = ["floor", *SERVERS, *variants, *rivals]
    yield table(
        "1. CPU time a message, µs",
        "x: times the floor, which has one connection and the same messages. With many "
        "connections a server need not fall asleep and be woken for each message, so that it can "
        "cost less than the floor. Stage 1 serves one connection at a time. Stage 2 never sleeps: "
        "its messages cost all that it used up meanwhile.", settings, everybody,
        lambda name, i: micro(busy[i].get(name, {}).get("cpu"), floors[i]))
    yield table(
        "   Messages a second",
        "Does not repeat: conclude nothing from it. *: the load itself was busy, and the server "
        "could have done more.", settings, everybody, lambda name, i: rate(busy[i].get(name, {})))
    yield table(
        "   Latency, µs: p50, p99", "Does not repeat: conclude nothing from it.", settings,
        everybody, lambda name, i: latency(busy[i].get(name, {})))

    levels = {level: number(level) for level in (10, 100, 900, 1000, 10_000)}
    beside = {name: {"growth": number(median(of["growth"])) + "x",
                     "ns each": number(max(0.0, of["slope_ns"])),
                     **{point["silent"]: micro(point["cpu"]) for point in of["points"]}}
              for name, of in silent.items()}
    yield table(
        "2. CPU time a message, µs, beside silent connections",
        "One connection speaks. Growth: from the first to the last. The slope is what each silent "
        "connection adds to every message, in ns. select ends at 1,024 descriptors.",
        {**levels, "growth": "growth", "ns each": "ns each"}, beside,
        lambda name, key: beside[name].get(key, "-"))
    connect = {name: {"rate": rate(of), "cpu": micro(of.get("cpu"))}
               for name, of in figures["connect"].items()}
    yield table(
        "3. Connections opened, used for one message, closed", "50 at a time.",
        {"rate": "a second", "cpu": "CPU each, µs"}, connect, lambda name, key: connect[name][key])
    once = {name: {"memory": number(figures["memory"].get(name, {}).get("bytes")),
                   "start": scaled(median(figures["start"].get(name)), 1000),
                   "size": scaled(figures["size"].get(name), 0.001)}
            for name in (*SERVERS, *variants)}
    yield table(
        "4. Memory, start-up, size",
        "Memory: the server's own (anonymous pages) for each silent connection, kernel buffers "
        "not counted. Start-up: until it listens. Size: code and data of the program.",
        {"memory": "bytes a silent connection", "start": "start-up, ms", "size": "size, KB"},
        once, lambda name, key: once[name][key])
    yield table(
        "5. Chat: CPU time a delivered line, µs", "One member speaks, so many others listen.",
        {members: f"{members} members" for members in chat}, ["2", *SLEEPING],
        lambda name, members: micro(chat[members].get(name, {}).get("cpu")))
    for connections, of in figures["calls"].items():
        what = "1 connection" if connections == "1" else f"{connections} busy connections"
        yield table(
            f"6. System calls a message, {what}", "From the servers' counters. Watch: changes of "
            "what is watched. Scanned: entries walked to find who is ready.",
            {kind: kind for kind in ("all", "waits", "recv", "send", "watch", "scanned")}, of,
            lambda name, kind: number(of[name][kind]))
    yield table(
        "7. Large messages on one connection: p99, ms", "A stall from Nagle's algorithm reads 40.",
        {title: title for title in stalls}, SERVERS,
        lambda name, title: scaled(median(stalls[title].get(name, {}).get("p99")), 0.001))
    if figures["instructions"]:
        yield table("8. Instructions a message, in user space", "64 bytes, one connection, counted "
                    "by valgrind.", {"": "instructions"}, figures["instructions"],
                    lambda name, _: number(figures["instructions"][name]))
    if rivals:
        pairs = {f"{labels[mine]} / {rival}": f"{mine}/{rival}"
                 for rival in rivals for mine in BY_EPOLL}
        yield table(
            "9. Beside others: CPU time, times theirs", "Slice against slice. Below 1: ours takes "
            "less.", settings, pairs,
            lambda pair, i: number(median(figures["ratios"][i].get(pairs[pair]))))
    if variants:
        yield table(
            "10. Variants: CPU time a message, times their stage's", "Slice against slice; "
            "coroutines beside 6 epoll, all others beside 5 epoll.", settings, variants,
            lambda name, i: number(median(figures["ratios"][i].get(f"{name}/{variants[name]}"))))
        yield table(
            "11. Messages a second, on all CPUs", "Each alone, with the load beside it, which "
            "takes its part of the CPUs. *: the load itself was busy.",
            {connections: f"{connections} connections" for connections in figures["on_all"]},
            ["5", *ON_ALL], lambda name, i: rate(figures["on_all"][i].get(name, {})))
