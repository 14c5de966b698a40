"""All kinds of clients at once, at random, for as long as you like: make soak

    make soak                        ten minutes over all eight servers
    make soak SECONDS=60 STAGE=5     one minute for stage 5
    make soak SEED=4711              the same random numbers as in the run that printed this seed

A server is started, and several clients at a time do to it whatever clients do: talk, send
megabytes, come in crowds, read late or not at all, reset, half-close, say nothing, say it byte
by byte, send urgent data or rubbish; signals rain, it is stopped while some leave and others
come, and continued, its descriptors run out; some servers' calls fail now and then, and some
servers' narration is read by somebody who falls asleep. (clients.py: what they do; soak.py: the
run.)
"""

from __future__ import annotations

import argparse
import random
import sys

from tests import output
from tests.harness import SANITIZED, end_on_sigterm, variants
from tests.soak.soak import soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--stage", default="")
    parser.add_argument("--server", default="")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        chosen = variants(options.stage, options.server)
    except ValueError as wrong:
        print(f"soak: {wrong}", file=sys.stderr)
        return 2
    missing = [variant for variant in chosen if not variant.program.exists()]
    if missing:
        print(f"soak: {missing[0].program} is not there: run make first", file=sys.stderr)
        return 2
    seed = options.seed or random.SystemRandom().randrange(1, 10 ** 9)
    print(f"seed: {seed}, {options.seconds:g} seconds, {len(chosen)} servers"
          + (", sanitized" if SANITIZED else ""), flush=True)
    end_on_sigterm()
    bad = 0
    for variant in chosen:
        bad += bool(soak(variant, options.seconds / len(chosen), seed,
                         say=lambda text: print(text, flush=True)))
    return 1 if bad else 0


if __name__ == "__main__":
    output.run(main, "soak")
