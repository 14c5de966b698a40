"""The scenarios: each drives a server as clients would, and returns what it observed.

A scenario is a function with a question to answer:

    @scenario("Is a second client answered while the first one is silent?", services=["echo"])
    def second_client(run):
        a = run.connect()
        b = run.connect()
        b.send(b"hello\\n")
        return {"answered": b.answered(0.3)}

It knows nothing of what is right or wrong for a stage: expected.py does, a table with a row
for each scenario. So the same scenario serves the tests, the comparison and the tour. What it
returns is fit for JSON (numbers, strings, booleans, None, lists and dicts of them).

It waits for what has to happen (harness.py has a deadline on everything), never for a time to
pass; only to see that something does not happen, it looks for a short while.

services: the listeners of the server that run.server and run.connect() start when needed.
not_for: {"1": "why"}: the stages to which the question cannot be put. Words as for
    Variant.matches: "1", "6-select", "2-4".
descriptors=False: do not check at the end that the server has closed every socket.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass, field
from typing import Any, Callable, Optional, Sequence

from harness import Run, Variant


@dataclass(frozen=True)
class Scenario:
    name: str
    question: str
    function: Callable[[Run], dict[str, Any]]
    services: tuple[str, ...]
    not_for: dict[str, str] = field(default_factory=dict)
    descriptors: bool = True
    module: str = ""

    def why_not(self, variant: Variant) -> str:
        """Why the question cannot be put to that variant; "" if it can."""
        return next((why for which, why in self.not_for.items() if variant.matches(which)), "")


_known: dict[str, Scenario] = {}


def scenario(question: str, *, services: Sequence[str] = ("echo",),
             not_for: Optional[dict[str, str]] = None, descriptors: bool = True) -> Callable:
    def register(function: Callable[[Run], dict[str, Any]]) -> Callable:
        name = function.__name__
        if name in _known:
            raise ValueError(f"two scenarios are called {name}")
        _known[name] = Scenario(name, question, function, tuple(services), not_for or {},
                                descriptors, function.__module__)
        return function
    return register


def scenarios() -> dict[str, Scenario]:
    """All of them, by name, in the order of their files."""
    for module in sorted(found.name for found in pkgutil.iter_modules(__path__)):
        importlib.import_module(f"{__name__}.{module}")
    return dict(_known)
