"""What came of it, as it goes to bench.json: figures, what was aimed at, and tables."""

from __future__ import annotations

import json
from typing import Any

from tests.bench.aims import aims
from tests.bench.machine import machine
from tests.bench.measure import Bench
from tests.bench.samples import Samples, median
from tests.bench.settings import (BUSY, BY_EPOLL, FLOOR_OF, LABELS, ON_ALL, SERVERS, SLEEPING,
                                  STALLS)
from tests.bench.tables import tables
from tests.harness.variants import added

PAIRS = [("6-epoll", "5"), ("6-poll", "4"), ("6-select", "3"), ("3", "5"), ("4", "5"),
         ("1", "floor"), ("5", "floor"), ("6-epoll", "floor")]


def results(bench: Bench, seconds: float) -> dict[str, Any]:
    samples, rivals, variants = bench.samples, list(bench.rivals), list(bench.variants)
    settings, looping = [setting.id for setting in BUSY], ["2", *SLEEPING]
    busy = samples.table("busy", settings, ["floor", *SERVERS, *variants, *rivals])
    for setting, of in busy.items():
        floor = median(busy[FLOOR_OF[setting]].get("floor", {}).get("cpu"))
        for found in of.values():
            if "cpu" in found and floor:
                found["times_floor"] = found["cpu"]["median"] / floor
    chat = samples.table("chat", ["10", "100", "1000"], looping)
    pairs = PAIRS + [(mine, rival) for rival in rivals for mine in BY_EPOLL]
    beside = {name: "6-epoll" if added(name).stage == 6 else "5" for name in variants}
    pairs += beside.items()
    found = {
        "machine": machine(), "quick": bench.quick, "seconds": round(seconds, 1),
        "rounds": bench.rounds,
        "labels": {**LABELS, **{name: name for name in variants + rivals}},
        "variants": beside,
        "settings": [setting._asdict() for setting in BUSY], "notes": bench.missing,
        "steps": bench.took,
        "figures": {
            **bench.figures,
            "busy": busy,
            "silent": {name: line for name in (*looping, *variants)
                       if (line := silent_line(samples, name))},
            "on_all": samples.table("on_all", ["50", "500"], ["5", *ON_ALL]),
            "connect": samples.table("connect", ["50"], SERVERS)["50"],
            "chat": {members: of for members, of in chat.items() if of},
            "start": {name: samples.of("start", "", name).get("seconds") for name in SERVERS},
            "stalls": samples.table("stalls", STALLS, SERVERS),
            "ratios": {setting: {f"{a}/{b}": samples.ratio("busy", (setting, a), (setting, b))
                                 for a, b in pairs} for setting in settings}}}
    found["aims"] = list(aims(found, rivals))
    found["tables"] = list(tables(found, rivals))
    # Fit for JSON: no NaN, and no more digits than mean something.
    return json.loads(json.dumps(found), parse_constant=lambda nan: None,
                      parse_float=lambda text: float(f"{float(text):.6g}"))


def silent_line(samples: Samples, name: str) -> dict[str, Any]:
    """What one server's messages cost beside more and more silent connections."""
    levels = sorted(int(setting) for table, setting, who in samples.values
                    if table == "silent" and who == name)
    if len(levels) < 2:
        return {}
    points = [{"silent": level, **samples.of("silent", str(level), name)} for level in levels]
    first, last = points[0]["cpu"]["median"], points[-1]["cpu"]["median"]
    return {"points": points, "slope_ns": (last - first) / (levels[-1] - levels[0]),
            "growth": samples.ratio("silent", (str(levels[-1]), name), (str(levels[0]), name))}
