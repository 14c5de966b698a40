"""Every scenario against every server, held against the table in expected.py.

A test is called after its scenario, with the server's short name behind it:

    make test ARGS="-k 'second_client and 6-poll'"
"""

import pytest

from expected import EXPECTED, differences, expected_for
from harness import Unavailable, play
from scenarios import scenarios


def _test_of(scenario):
    def test(variant, seed):
        try:
            record = play(scenario, variant, seed=seed)
        except Unavailable as why:
            pytest.skip(str(why))
        wrong = differences(record.observed, expected_for(scenario.name, variant))
        wrong += record.complaints
        assert not wrong, f"{scenario.question}\n" + "\n".join(wrong)
    test.__doc__ = scenario.question
    return pytest.mark.scenario(scenario)(test)


for _scenario in scenarios().values():
    globals()[f"test_{_scenario.name}"] = _test_of(_scenario)


@pytest.mark.sources
def test_the_table_knows_every_scenario_and_no_other():
    assert sorted(EXPECTED) == sorted(scenarios())
