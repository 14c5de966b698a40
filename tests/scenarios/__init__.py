"""The scenarios: each drives a server as clients would, and returns what it observed.

A scenario is a function with a question, and with what is expected of each stage:

    @scenario("Is a second client answered while the first one is silent?", expect={
        "all": {"answered": True},
        # It sleeps in recv() for the first.
        "1": {"answered": False}})
    def second_client(run):
        a = run.connect()
        b = run.connect()
        b.send(b"hello\\n")
        return {"answered": run.answered(b)}

What it does with `run` is in harness/__init__.py, in short. It only observes: so the same scenario
serves the tests, the comparison and the tour. What it returns is fit for JSON (numbers, strings,
booleans, None, lists and dicts of them).

It waits for what has to happen (there is a deadline on everything), never for a time to pass; only
to see that something does not happen, it looks for a short while.

expect: a row for "all", then what is otherwise in some stages, under words such as "1", "2-5" or
"3 6-select" (Variant.matches). A value is what is expected, or a condition: at_least(3),
at_most(0.5), anything (told, not judged). The flaw that a stage is there to show is expected of it
like everything else.
services: the listeners of the server that run.server and run.connect() start when needed.
not_for: {"1": "why"}: the stages to which the question cannot be put.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Optional, Sequence

from tests.harness import Run, Variant


@dataclass(frozen=True)
class Scenario:
    name: str
    question: str
    function: Callable[[Run], dict[str, Any]]
    expect: Mapping[str, dict[str, Any]]
    services: Sequence[str]
    not_for: Mapping[str, str]

    def why_not(self, variant: Variant) -> str:
        """Why the question cannot be put to that variant; "" if it can."""
        return next((why for which, why in self.not_for.items() if variant.matches(which)), "")


_known: dict[str, Scenario] = {}


def scenario(question: str, *, expect: Mapping[str, dict[str, Any]],
             services: Sequence[str] = ("echo",),
             not_for: Optional[Mapping[str, str]] = None) -> Callable:
    def register(function: Callable[[Run], dict[str, Any]]) -> Callable:
        name = function.__name__
        if name in _known:
            raise ValueError(f"two scenarios are called {name}")
        _known[name] = Scenario(name, question, function, expect, tuple(services), not_for or {})
        return function
    return register


def scenarios() -> dict[str, Scenario]:
    """All of them, by name, in the order of their files."""
    for module in sorted(found.name for found in pkgutil.iter_modules(__path__)):
        importlib.import_module(f"{__name__}.{module}")
    return dict(_known)
