"""What was hoped for, and whether it came true."""

from __future__ import annotations

import math
from typing import Any, Iterator, Mapping, Optional, Sequence

from tests.bench.samples import median
from tests.bench.settings import BY_EPOLL, LABELS, RIVAL_AIMS, SLEEPING, VARIANT_AIMS


def aim(text: str, wanted: str, figure: float, met: bool, shown: str) -> dict[str, Any]:
    known = not math.isnan(figure)
    return {"aim": text, "wanted": wanted, "figure": figure if known else None,
            "shown": shown if known else "not measured", "met": met if known else None}


def at_most(text: str, limit: float, figure: Optional[float], unit: str = "",
            digits: int = 2) -> dict[str, Any]:
    value = math.nan if figure is None else figure
    while value > limit >= round(value, digits):  # 1.102, where 1.10 would do
        digits += 1
    return aim(text, f"at most {limit:g}{unit}", value, value <= limit, f"{value:.{digits}f}{unit}")


def worst(text: str, limit: float, of: Mapping[str, Optional[float]], unit: str = "",
          digits: int = 2) -> dict[str, Any]:
    """One line for several: the one that costs most, and which that is."""
    known = {name: value for name, value in of.items()
             if value is not None and not math.isnan(value)}
    name = max(known, key=lambda each: known[each], default="")
    found = at_most(text, limit, known.get(name), unit, digits)
    if len(known) > 1:
        found["shown"] += f", {name} (least {min(known.values()):.{digits}f}{unit})"
    return found


def aims(results: dict[str, Any], rivals: Sequence[str]) -> Iterator[dict[str, Any]]:
    figures = results["figures"]
    titles = {"1": "1 connection", "50": "50 connections", "500": "500 connections",
              "50x16": "50 with 16 messages each", "16k": "50 with 16 KiB"}

    def ratio(setting: str, a: str, b: str) -> Optional[float]:
        return median(figures["ratios"][setting].get(f"{a}/{b}"))

    one, fifty = figures["calls"].get("1", {}), figures["calls"].get("50", {})
    for who, wanted, names in (("1 blocking", 2, ["1"]), ("stages 3 to 6", 3, SLEEPING)):
        far = max((one[name]["all"] for name in names if name in one),
                  key=lambda value: abs(value - wanted), default=math.nan)
        yield aim(f"system calls a message, 1 connection, {who}", f"exactly {wanted}", far,
                  abs(far - wanted) < 0.0005, f"{far:.3f}")
    yield worst("system calls a message, 50 connections, stages 3 to 6", 2.5,
                {LABELS[name]: fifty[name]["all"] for name in SLEEPING if name in fifty})
    for setting, title in titles.items():
        yield at_most(f"CPU, 6 epoll to 5 epoll, {title}", 1.10, ratio(setting, "6-epoll", "5"))
    for setting in ("50", "500", "50x16", "16k"):
        yield worst(f"CPU, stages 3 and 4 to 5 epoll, all of {titles[setting]} busy", 1.10,
                    {LABELS[name]: ratio(setting, name, "5") for name in ("3", "4")})
    yield at_most("CPU, 5 epoll to the floor, 1 connection", 1.10, ratio("1", "5", "floor"))
    for name in BY_EPOLL:
        of = figures["silent"].get(name)
        if of:
            yield at_most(f"CPU, {LABELS[name]} beside {of['points'][-1]['silent']:,} silent "
                          "connections to beside 10", 1.15, median(of["growth"]))
    yield worst("memory for a silent connection, stages 3 to 6", 512, {
        LABELS[name]: of["bytes"] for name, of in figures["memory"].items() if name in LABELS},
        " bytes", 0)
    for title, of in figures["stalls"].items():
        yield worst(f"p99 of {title} messages on one connection", 20, {
            LABELS[name]: found["p99"]["median"] / 1000 for name, found in of.items()}, " ms")
    for name, limit in zip(BY_EPOLL, (390, 520)):
        yield at_most(f"instructions a message, {LABELS[name]}", limit,
                      figures["instructions"].get(name), "", 0)
    for name, stage in results["variants"].items():
        for setting, limit in VARIANT_AIMS.get(name, {}).items():
            yield at_most(f"CPU, {name} to {LABELS[stage]}, {titles[setting]}", limit,
                          ratio(setting, name, stage))
    for rival in rivals:
        for setting, limit in RIVAL_AIMS.get(rival, {}).items():
            for name in BY_EPOLL:
                yield at_most(f"CPU, {LABELS[name]} to {rival}, {titles[setting]}", limit,
                              ratio(setting, name, rival))
