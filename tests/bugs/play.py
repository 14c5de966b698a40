"""Plays a broken server, in a process of its own.

    python3 -m tests.bugs.play NAME PROGRAM [SCENARIO...]

Prints a line of JSON for each scenario, and keeps within limits: a broken server is not worth all
of the memory and the disk.
"""

from __future__ import annotations

import json
import resource
import shlex
import sys
from dataclasses import replace

from tests import harness
from tests.bugs.patches import path_of, read_bug
from tests.harness import server
from tests.ladder.climb import first_failure
from tests.scenarios import scenarios

MOST_MEMORY = 1 << 30
MOST_NARRATION = 8 << 20


def play(name: str, program: str, wanted: list[str]) -> None:
    harness.end_on_sigterm()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    known = scenarios()
    bug = read_bug(path_of(name))
    if not bug.variant:                    # it is right, and may take as much as a stage
        server.most_narration = MOST_NARRATION
        if not harness.SANITIZED:          # an address sanitizer reserves terabytes
            resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    played, skipped = 0, []
    first = [known[each] for each in bug.caught_by]
    rest = [scenario for scenario in known.values() if scenario not in first]
    if bug.variant and harness.SANITIZED:  # a scenario that fails waits long for what does not come
        first = []
    for scenario in [known[each] for each in wanted] or first + rest:
        for variant in harness.variants(str(bug.stage), program):
            variant = replace(variant, name=bug.name, arguments=variant.arguments + bug.arguments)
            verdict = harness.judge(scenario, variant, seed=1)
            if verdict.skipped:
                skipped.append(verdict.skipped)
                continue
            played += 1
            why = verdict.wrong[0].strip().splitlines()[0] if verdict.wrong else ""
            print(json.dumps({"scenario": scenario.name, "variant": variant.id, "why": why}),
                  flush=True)
            if why and not bug.variant:
                break                      # caught: its other selectors need not be asked
    if bug.variant and not played and skipped:
        print(json.dumps({"skipped": skipped[-1]}), flush=True)
    services = [bug.service] if bug.service else [] if wanted else ["echo", "greet", "chat"]
    if not bug.variant and bug.fields["Rung"] != "by chance":
        variant, *_ = harness.variants(str(bug.stage), program)
        for service in services:
            words = [program, *variant.arguments, "-q", f"-{service[0]}"]
            found = first_failure(shlex.join(words) + " {port}", service, bug.stage)
            print(json.dumps({"service": service, "rung": found}), flush=True)


if __name__ == "__main__":
    play(sys.argv[1], sys.argv[2], sys.argv[3:])
