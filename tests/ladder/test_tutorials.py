"""The tutorials' own programs: each fails the rungs at which its mistakes are seen, and no others.

The table, and why: tests/ladder/tutorials/__init__.py.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness import DEADLINE, ROOT
from tests.ladder.rungs import RUNGS
from tests.ladder.tutorials import AT_ONCE, HERE, PROGRAMS, Played, play, row

pytestmark = pytest.mark.sources

EACH = pytest.mark.parametrize("program", PROGRAMS)


@pytest.fixture(scope="module")
def played(request):
    """Those that will be asked for are started together, as most of it is waiting."""
    asked = [item.callspec.params["program"] for item in request.session.items
             if item.module.__name__ == __name__ and "played" in item.fixturenames]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {program: pool.submit(play, program) for program in asked}


@EACH
def test_which_rungs_fail(played, program):
    wrong = list(played[program].result().wrong())
    assert not wrong, "\n".join(wrong)


def test_all_programs_are_in_the_table():
    assert {path.stem for path in HERE.glob("*.py")} == {*PROGRAMS, "__init__", "__main__"}


@EACH
def test_a_row_names_rungs_that_there_are(program):
    names = [name for cause in PROGRAMS[program].causes for name in cause.rungs.split()]
    assert len(names) == len(set(names))
    assert set(names) <= {rung.name for rung in RUNGS if PROGRAMS[program].service in rung.services}


@EACH
def test_the_same_row_is_in_the_notes(program):
    lines = (ROOT / "NOTES.md").read_text(encoding="utf-8").splitlines()
    in_notes = [line for line in lines if line.startswith(f"| `{program}` |")]
    assert in_notes == [row(PROGRAMS[program], PROGRAMS[program].may_fail())]


@EACH
def test_bad_words_get_the_usage_line(program):
    for words in [], ["0"], ["65536"], ["port"], ["-h"], ["7000", "7001"]:
        done = subprocess.run([sys.executable, HERE / f"{program}.py", *words], text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"usage: {program}.py PORT\n"


def test_what_is_not_as_in_the_table_is_told():
    program = PROGRAMS["callbacks_echo"]
    as_it_is = {rung: "it said: BlockingIOError" for rung in ("slow", "mute", "whole")}
    assert not list(Played(program, as_it_is).wrong())
    assert [told.split()[0] for told in Played(
        program, {"slow": "it was faster", "two": "no"}, {"mute", "fifty"}).wrong()
    ] == ["mute", "slow", "two"]
    assert "`two`: not expected" in row(program, ["slow", "two"])
