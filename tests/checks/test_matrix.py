"""Every scenario against every server, held against what is expected of that stage.

A test is called after its scenario, with the server's short name behind it:

    make test ARGS="-k 'second_client and 6-poll'"
"""

import pytest

from tests.harness import judge


def test_scenario(scenario, variant, seed):
    verdict = judge(scenario, variant, seed=seed)
    if verdict.skipped:
        pytest.skip(verdict.skipped)
    if verdict.wrong:
        raise AssertionError("\n".join([scenario.question, *verdict.wrong])) from verdict.error
