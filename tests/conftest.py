"""pytest's options, and which variants there are to test.

    --stage=4 --server=./mine    or STAGE and SERVER in the environment: that stage's scenarios
                                 alone, against that program in place of ours
    --seed=N                     or SEED: what is random is random in the same way again
"""

import os
import random

import pytest

from tests import harness
from tests.scenarios import scenarios

# They climb the ladder some fifty times, or build all stages for gdb, which takes as long as all
# other tests: they are played where they are named, as .ci/run does.
collect_ignore = ["ladder/test_ladder.py", "ladder/test_tutorials.py", "blank/test_blank.py",
                  "debug/test_debug.py"]


def pytest_addoption(parser):
    parser.addoption("--stage", default=os.environ.get("STAGE", ""),
                     help="only these stages: 4, 6-poll, 2-5, '1 3'")
    parser.addoption("--server", default=os.environ.get("SERVER", ""),
                     help="a program to test in place of ours, as the stage that --stage names")
    parser.addoption("--seed", type=int, default=int(os.environ.get("SEED") or 0),
                     help="repeats what was random in the run that printed this seed")


def pytest_configure(config):
    server = config.getoption("--server")
    if server:
        if not config.getoption("--stage"):
            raise pytest.UsageError("--server needs --stage: which stage is it to be tested as?")
    try:
        config.variants = harness.variants(config.getoption("--stage"), server)
    except ValueError as wrong:
        raise pytest.UsageError(str(wrong)) from None
    if server and not harness.narrates(config.variants[0]):
        raise pytest.UsageError(
            f"SERVER={server} does not narrate as the stages do (tests/README.md says how); what "
            f'any program can climb is the ladder: make try SERVER="{server} {{port}}"')
    os.chdir(harness.ROOT)                 # from where `python3 -m tests...` finds us
    config.seed = config.getoption("--seed") or random.SystemRandom().randrange(1, 10 ** 9)
    harness.end_on_sigterm()


def pytest_report_header(config):
    chosen = " ".join(variant.id for variant in config.variants)
    missing = sorted({str(v.program) for v in config.variants if not v.program.exists()})
    lines = [f"servers: {chosen}{' (sanitized)' if harness.SANITIZED else ''}, "
             f"seed: {config.seed}"]
    return lines + [f"not built: {', '.join(missing)}"] * bool(missing)


def pytest_generate_tests(metafunc):
    """A test that takes `variant` runs once for each; one that takes `scenario`, too, for each of
    those that the scenario's question can be put to."""
    variants, names = metafunc.config.variants, metafunc.fixturenames
    only = metafunc.definition.get_closest_marker("only")
    if only:
        variants = [variant for variant in variants if variant.matches(only.args[0])]
    if "scenario" in names:
        pairs = [(scenario, variant) for scenario in scenarios().values() for variant in variants
                 if not scenario.why_not(variant)]
        metafunc.parametrize("scenario, variant", pairs,
                             ids=[f"{scenario.name}-{variant.id}" for scenario, variant in pairs])
    elif "variant" in names:
        metafunc.parametrize("variant", variants, ids=[variant.id for variant in variants])


def pytest_collection_modifyitems(config, items):
    """What is for none of the variants chosen need not be mentioned; and tests of our own sources
    say nothing about somebody else's server."""
    def counts(item):
        params = getattr(getattr(item, "callspec", None), "params", {})
        nobodys = not isinstance(params.get("variant", config.variants[0]), harness.Variant)
        foreign = config.getoption("--server") and item.get_closest_marker("sources")
        return not nobodys and not foreign

    kept = [item for item in items if counts(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


@pytest.fixture
def seed(request):
    return request.config.seed
