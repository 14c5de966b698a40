"""The one judge of the suite: plays a scenario against a variant, and says what was wrong."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Optional

from tests.harness.expect import differences, for_variant
from tests.harness.run import Run, timeline_of
from tests.harness.variants import Unavailable, Variant

if TYPE_CHECKING:
    from tests.scenarios import Scenario


@dataclass
class Verdict:
    """What came of it. Nothing wrong and not skipped: the server has passed."""
    seed: int = 0
    skipped: str = ""                      # why it was not played: not for this stage, or machine
    observed: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)       # a line (or more) for each thing
    error: Optional[Exception] = None      # what broke the scenario off; then `wrong` names it
    seconds: float = 0.0
    timeline: dict[str, Any] = field(default_factory=dict)


def judge(scenario: Scenario, variant: Variant, *, seed: Optional[int] = None,
          watch: Optional[Callable[[str, Any], None]] = None, timeline: bool = False) -> Verdict:
    """Plays it, and ends everything that it started, come what may.

    Judged is what was observed, and what must hold after every scenario: see Run.finish().
    watch: see Run. timeline: keeps who did what when.
    """
    skipped = scenario.why_not(variant)
    if skipped:
        return Verdict(skipped=skipped)
    run = Run(variant, scenario.services, seed, watch)
    verdict = Verdict(run.seed)
    try:
        verdict.observed = scenario.function(run)
        complaints = run.finish()
        verdict.wrong = differences(verdict.observed, for_variant(scenario.expect, variant))
        verdict.wrong += complaints
    except Unavailable as why:
        verdict.skipped = str(why)
    except Exception as error:             # a broken server may break a scenario in any way
        verdict.error = error
        verdict.wrong = [f"{type(error).__name__}: {error}"]
    finally:
        run.close()
        verdict.seconds = time.monotonic() - run.began
        if timeline:
            verdict.timeline = dict(timeline_of(run))
    return verdict
