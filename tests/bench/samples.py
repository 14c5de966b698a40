"""Samples, round after round, and what they come to."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any, Iterable, Optional, Sequence

Found = Optional[dict[str, float]]         # median, low, high; None if nothing was measured


def spread(values: Sequence[float]) -> Found:
    """Median and quartiles."""
    if not values:
        return None
    # A single value is its own quartiles.
    low, median, high = statistics.quantiles([*values, *values[:len(values) == 1]], n=4,
                                             method="inclusive")
    return {"median": median, "low": low, "high": high}


def median(found: Found) -> Optional[float]:
    return found["median"] if found else None


class Samples:
    """[table, setting, server][what] -> values."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str, str], dict[str, list[float]]] = defaultdict(
            lambda: defaultdict(list))

    def add_cpu(self, table: str, setting: str, found: dict[str, dict[str, Any]]) -> None:
        for name, target in found.items():
            cost = target["cpu_ns_per_message"]
            self.values[table, setting, name]["cpu"] += cost["slices"] if cost else []

    def add_speed(self, table: str, setting: str, found: dict[str, dict[str, Any]]) -> None:
        for name, target in found.items():
            latencies = {key: target["latency_us"][key] for key in ("p50", "p99", "p99.9", "max")}
            for what, value in {"per_second": target["messages_per_second"],
                                "load_busy": target["load_busy"], **latencies}.items():
                self.values[table, setting, name][what].append(value)

    def of(self, table: str, setting: str, name: str) -> dict[str, Any]:
        found = self.values.get((table, setting, name), {})
        return {what: spread(values) for what, values in found.items() if values}

    def table(self, table: str, settings: Iterable[str], names: Sequence[str]) -> dict[str, Any]:
        """{setting: {name: what was measured}}, without those of which nothing was."""
        return {setting: {name: found for name in names
                          if (found := self.of(table, setting, name))} for setting in settings}

    def ratio(self, table: str, a: tuple[str, str], b: tuple[str, str]) -> Found:
        """CPU time of a over b, (setting, server) each: slice against slice where they took
        turns in the same run, so that what hit both cancels out."""
        over, under = (self.values.get((table, *each), {}).get("cpu", []) for each in (a, b))
        if not over or not under:
            return None
        if len(over) != len(under):
            return spread([statistics.median(over) / statistics.median(under)])
        return spread([x / y for x, y in zip(over, under)])
