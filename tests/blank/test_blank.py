"""Every blank compiles, and comes as far as its holes say; its words fit the ladder."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Iterator

import pytest

from tests.blank.__main__ import write
from tests.blank.cut import LEVELS, blank, body, end, holes, note, steps
from tests.checks.test_make import make, tree  # noqa: F401: a fixture
from tests.harness import DEADLINE, FOLDERS, ROOT
from tests.ladder.rungs import RUNGS
from tests.scenarios import scenarios

pytestmark = pytest.mark.sources

WARNINGS = "-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror".split()
ALL = [(stage, level) for stage in range(1, 7) for level in LEVELS]
IDS = [f"{stage}-level{level}" for stage, level in ALL]


def _source(stage: int) -> str:
    return (ROOT / FOLDERS[stage - 1] / "server.cpp").read_text()


def _put_back(stage: int, level: int) -> str:
    """A blank, and in each hole what stood there."""
    text, source = blank(stage, level).replace(note(stage, level), "", 1), _source(stage)
    for name in steps(source, stage, level):
        mine, theirs = body(text, name).end(), body(source, name).end()
        text = text[:mine] + source[theirs:end(source, theirs)] + text[end(text, mine):]
    return text


def _compiled(folder: Path) -> Path:
    """By all compilers there are, without a word from any; without optimizing, for speed."""
    for compiler, how in ("clang++", ["-fsyntax-only"]), ("g++", ["-O0", "-o", folder / "server"]):
        if shutil.which(compiler):
            done = subprocess.run([compiler, "-std=c++20", *WARNINGS, *how, folder / "server.cpp"],
                                  capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return folder / "server"


def _climbed(program: Path, stage: int) -> str:
    """What the ladder says, up to the first rung that fails."""
    if not program.exists():
        pytest.skip("there is no g++ here")
    return subprocess.run(
        [sys.executable, "-m", "tests.ladder", "--server", f"{shlex.quote(str(program))} -q -e "
         "{port}", "--stage", str(stage)], stdout=subprocess.PIPE, cwd=ROOT, text=True,
        timeout=6 * DEADLINE).stdout


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[int, int], Future]]:
    """All that will be asked for, compiled and climbed a few at a time: most of it is waiting."""
    where = tmp_path_factory.mktemp("my")

    def play(stage: int, level: int) -> str:
        folder = where / str(level) / FOLDERS[stage - 1]
        write(stage, level or 2, folder)
        if not level:                      # the whole of it
            (folder / "server.cpp").write_text(_put_back(stage, 2))
        return _climbed(_compiled(folder), stage)

    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        yield {one: pool.submit(play, *one) for one in [(4, 0), *ALL]}


@pytest.mark.parametrize("stage, level", ALL, ids=IDS)
def test_a_blank_comes_as_far_as_its_first_hole(played, stage, level):
    first = "main" if level == 3 else steps(_source(stage), stage, level)[0]
    said = played[stage, level].result()
    results = re.findall(r"^ *\d+  (\w+) +(ok|FAILED)", said, re.M)
    before = [rung.name for rung in RUNGS if "echo" in rung.services]
    wanted = holes(stage)[first].rungs[0]
    assert results == [*[(name, "ok") for name in before[:before.index(wanted)]],
                       (wanted, "FAILED")]


def test_a_blank_with_its_holes_filled_climbs_the_ladder(played):
    said = played[4, 0].result()
    assert "FAILED" not in said and "ctrl_c" in said, said


@pytest.mark.parametrize("stage, level", [one for one in ALL if one[1] < 3])
def test_with_its_holes_filled_it_is_the_stage(stage, level):
    assert _put_back(stage, level) == _source(stage)


@pytest.mark.parametrize("stage", range(1, 7))
def test_there_are_words_for_each_step(stage):
    private = _source(stage).partition("\nprivate:\n")[2]
    names = re.findall(r"^    [\w:&<> ]+ (\w+)\(.*\) \{$", private, re.M)
    assert names == steps(_source(stage), stage, 2)
    for hole in holes(stage).values():
        if hole.name not in [*names, "main"]:
            continue
        assert hole.steps and hole.read and bool(hole.rung) != bool(hole.scenario), hole
        service = hole.rung.partition(" for ")[2] or "echo"
        there = {one.name for one in RUNGS if service in one.services and stage not in one.not_for}
        assert there >= set(hole.rungs) and {hole.scenario} <= {"", *scenarios()}, hole
    for level in LEVELS:
        assert [line for line in blank(stage, level).splitlines() if len(line) > 100] == []


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tests.blank", *words], cwd=ROOT, text=True,
                          capture_output=True, timeout=DEADLINE)


def test_what_a_student_has_written_stays(tmp_path):
    words, mine = ("4", "--into", str(tmp_path)), tmp_path / "04_poll"
    assert _run(*words).returncode == 0
    (mine / "server.cpp").write_text("mine")
    done = _run(*words)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "AGAIN=1" in done.stderr and f"rm -r {mine}" in done.stderr
    assert (mine / "server.cpp").read_text() == "mine"
    assert _run(*words, "--again").returncode == 0
    assert (tmp_path / "04_poll.1" / "server.cpp").read_text() == "mine"
    assert "YOURS" in (mine / "server.cpp").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["04_poll", "04_poll.1"]


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "my").write_text("not a folder")
    done = _run("4", "--into", str(tmp_path / "my"))
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


def test_make_builds_it_and_tries_it(tree):  # noqa: F811
    assert "make blank-4 writes it" in make(tree, "try", "BLANK=4").stdout
    assert make(tree, "blank-4").returncode == 0
    (tree / "my" / "04_poll" / "server.cpp").write_text(
        '#include <cstdio>\nint main(int, char* words[]) { std::puts(words[2]); }\n')
    done = make(tree, "try", "BLANK=4", "SERVICE=chat")
    assert done.returncode == 2 and re.search(r"it said: -c$", done.stdout, re.M), done.stdout


@pytest.mark.parametrize("words, reason", [
    (["blank-7"], "stages are 1 to 6"), (["blank-4", "LEVEL=4"], "LEVEL is 1, 2 or 3"),
    (["try", "BLANK=7"], "stages are 1 to 6")])
def test_bad_words_get_one_line(tree, words, reason):  # noqa: F811
    done = make(tree, *words)
    assert done.returncode == 2
    assert reason in done.stdout and len(done.stdout.splitlines()) == 1
