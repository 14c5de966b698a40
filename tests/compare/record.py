"""Plays the scenarios that the tests play, and records what came of them, fit for JSON."""

from __future__ import annotations

import os
import platform
import time
from typing import Any, Callable

from tests.compare.lessons import ROWS, TITLES, lesson
from tests.compare.picture import picture
from tests.harness import Variant, judge
from tests.scenarios import Scenario

STEP = 0.3             # seconds from one sentence of a story to the next, so that it can be seen
# Roughly the seconds that a scenario takes, to tell how much time is left.
WEIGHTS = {"second_client": 5, "second_listener": 5, "fifty_clients": 1, "idle": 5,
           "silent_clients": 14, "past_fd_setsize": 5, "sixteen_descriptors": 2, "mute_reader": 11,
           "resets": 1, "half_close_queued": 1, "urgent_data": 1, "stop_with_clients": 1}

Record = dict[str, Any]


class Pace:
    """Lets each sentence of a story begin a step after the one before, in every stage alike."""

    def __init__(self, step: float) -> None:
        self.step, self.next = step, 0.0

    def __call__(self, kind: str, _: Any) -> None:
        if kind == "say":
            now = time.monotonic()
            time.sleep(max(0.0, self.next - now))
            self.next = max(self.next, now) + self.step


def compare(chosen: list[Scenario], stages: list[Variant],
            tell: Callable[[str], None], step: float = STEP) -> Record:
    began = time.monotonic()
    weights = [WEIGHTS.get(scenario.name, 2) for scenario in chosen]
    played: dict[str, Record] = {}

    def tell_time(at: int, stage: str, done: float, end: str = "") -> None:
        """done: the weight of what has been played."""
        spent = time.monotonic() - began
        left = (spent / done if done else len(stages) / 8) * (sum(weights) - done)
        tell(f"[{at + 1:2}/{len(chosen)}] {chosen[at].name:20} {stage:14} {spent:3.0f} s, "
             f"about {left:.0f} s left{end}")

    for at, scenario in enumerate(chosen):
        runs = {}
        for i, variant in enumerate(stages):
            tell_time(at, f"stage {variant.id}",
                      sum(weights[:at]) + weights[at] * i / len(stages))
            runs[variant.id] = _run(scenario, variant, step)
        tell_time(at, f"{len(stages)} stages", sum(weights[:at + 1]), "\n")
        played[scenario.name] = {
            "question": scenario.question, "runs": runs,
            "lessons": {variant.id: lesson(scenario.name, variant) for variant in stages}}
    rows = [{"id": row.id, "question": row.question, "scenario": row.scenario,
             "cells": {stage: _cell(row, run)
                       for stage, run in played[row.scenario]["runs"].items()}}
            for row in ROWS if row.scenario in played]
    return {"made": time.strftime("%Y-%m-%d %H:%M"), "machine": _machine(),
            "stages": [{"id": variant.id, "name": variant.name,
                        "title": TITLES.get(variant.id, variant.title)} for variant in stages],
            "rows": rows, "scenarios": played, "seconds": round(time.monotonic() - began, 1)}


def _run(scenario: Scenario, variant: Variant, step: float) -> Record:
    verdict = judge(scenario, variant, watch=Pace(step), timeline=True)
    if verdict.skipped:
        return {"not_played": verdict.skipped}
    if verdict.error and scenario.name in variant.otherwise:
        return {"not_played": f"it is otherwise here: {variant.title}"}
    if verdict.error:
        return {"failed": verdict.wrong[0].splitlines()[0]}
    return {"observed": verdict.observed, "seconds": round(verdict.seconds, 3),
            "seed": verdict.seed, "picture": picture(verdict.timeline, variant.stage),
            "unexpected": [] if scenario.name in variant.otherwise else verdict.wrong}


def _cell(row: Any, run: Record) -> Record:
    if "observed" not in run:
        return {"text": "failed" if "failed" in run else "not played", "worst": "failed" in run}
    return {"text": row.cell(run["observed"]), "worst": bool(row.worst(run["observed"]))}


def _machine() -> str:
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:
        cpus = os.cpu_count() or 1
    return (f"{platform.system()} {platform.release()}, {cpus} CPU{'s' * (cpus != 1)}, "
            f"Python {platform.python_version()}")
