"""The bug gallery's patches: complete, and still fitting. Whether they are caught: `make bugs`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.bugs import patches
from tests.harness import DEADLINE, FOLDERS, ROOT, variants
from tests.harness.variants import NOT_HERE
from tests.scenarios import scenarios

pytestmark = pytest.mark.sources

PATCHES = patches.paths()


def _id(path):
    return path.stem


@pytest.mark.parametrize("path", PATCHES, ids=_id)
def test_header(path):
    """All fields are there, and name scenarios that can be put to the stage."""
    bug = patches.read_bug(path)
    assert bug.folder in FOLDERS
    assert all(bug.fields.values())
    assert f"make {'variant' if bug.variant else 'bug'}-{bug.name}" in bug.fields["Try"]
    assert bug.title.endswith(".")
    assert bug.variant or bug.caught_by
    for name in bug.caught_by:
        assert name in scenarios(), f"there is no scenario {name}"
        scenario = scenarios()[name]
        assert not all(map(scenario.why_not, variants(str(bug.stage)))), \
            f"{name} is not for stage {bug.stage}"
    for line in path.read_text(encoding="utf-8").partition("\n--- a/")[0].splitlines():
        assert len(line) <= 100 and line == line.rstrip()


@pytest.mark.parametrize("path", PATCHES, ids=_id)
def test_applies(path, tmp_path):
    """It still fits its stage, and leaves the rest of it alone."""
    if not shutil.which("git"):
        pytest.skip("patches are applied with git apply")
    bug = patches.read_bug(path)
    patches.patched(bug, tmp_path)
    changed = {file.name for file in (ROOT / bug.folder).iterdir()
               if file.read_bytes() != (tmp_path / bug.folder / file.name).read_bytes()}
    assert changed == {name for _, name in patches.SOURCE.findall(bug.diff)} | (
        {"server.cpp"} if path.suffix == ".cpp" or "Variant" in bug.fields else set())


def test_names_are_unique():
    names = [path.stem for path in PATCHES]
    assert len(names) == len(set(names))
    assert len(patches.paths("bugs")) >= 20


@pytest.mark.parametrize("text, reason", [
    ("Mistake: a\n\n--- a/03_select/server.cpp\n", "its fields are"),
    ("Mistake: a\nMistake: b\n\n--- a/03_select/server.cpp\n", "stands there twice"),
    ("nonsense\n\n--- a/03_select/server.cpp\n", "neither a field nor a diff"),
    ("{}\n", "to nothing"),
    ("{}\n--- a/03_select/server.cpp\n--- a/04_poll/server.cpp\n", "to 03_select and 04_poll"),
])
def test_what_is_wrong_with_a_patch_is_said(tmp_path, text, reason):
    path = tmp_path / "bug.patch"
    path.write_text(text.format("Mistake: a\nFound in: a\nYou see: a\nTry: a\nCaught by: a\n"
                                "Rung: none\n"))
    with pytest.raises(patches.Wrong, match=reason):
        patches.read_bug(path)


def test_a_patch_that_no_longer_fits_is_said(tmp_path):
    bug = patches.read_bug(PATCHES[0])
    bug.diff = bug.diff.replace("\n-", "\n-no longer there ", 1).replace("\n+++ ", "\n+++ ", 1)
    with pytest.raises(patches.Wrong, match=f"no longer applies to {bug.folder}"):
        patches.patched(bug, tmp_path)


def test_a_program_that_this_system_cannot_run_is_skipped(tmp_path):
    """Not failed, and not passed: it says why, in a line."""
    program = tmp_path / "server"
    program.write_text(f"#!/bin/sh\necho none of that here >&2; exit {NOT_HERE}\n")
    program.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "tests.bugs.play", "edge_triggered", str(program), "idle"],
        text=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE)
    assert done.stdout == '{"skipped": "none of that here"}\n', done.stderr


def test_a_variant_with_a_sanitizer_is_a_program_of_its_own():
    variant = patches.read_bug(patches.path_of("read_until_empty"))
    programs = {patches.built(variant, sanitizer=kind) for kind in ("", "1", "thread")}
    assert len(programs) == 3
    with pytest.raises(patches.Wrong, match="SAN=x: 1 or thread is wanted"):
        patches.built(variant, sanitizer="x")
    for program in programs:
        assert (b"__tsan_init" in program.read_bytes()) == ("thread" in program.parent.name)


def _gallery(*words, **env):
    return subprocess.run([sys.executable, "-m", "tests.bugs", *words], text=True,
                          env={**os.environ, **env}, stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=6 * DEADLINE)


def test_a_name_that_does_not_exist_gets_one_line():
    for words in ["no_such_bug"], ["--run", "no_such_bug"]:
        done = _gallery(*words)
        assert done.returncode == 2 and done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
        assert "no_such_bug" in done.stderr and "short_send" in done.stderr


def test_what_a_compiler_says_may_have_any_letter(tmp_path):
    if not shutil.which("git"):
        pytest.skip("patches are applied with git apply")
    compiler = tmp_path / "c++ ü"
    compiler.write_text("#!/bin/sh\necho error: größer, or not '\\377' && exit 1\n", "utf-8")
    compiler.chmod(0o755)
    done = _gallery("--run", "short_send", BUILD=str(tmp_path), CXX=f"'{compiler}'", LC_ALL="C",
                    PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"bugs: does not compile: error: gr.*er, or not .*\n", done.stderr)


@pytest.mark.parametrize("kind", ["bugs", "variants"])
def test_list(kind):
    done = _gallery("--list", *["--variants"] * (kind == "variants"))
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        path.stem for path in patches.paths(kind)]


def test_a_bug_is_caught_and_the_tree_left_alone():
    """One that is caught in no time; all of them: make bugs."""
    before = {file: file.read_bytes() for file in (ROOT / "03_select").iterdir()}
    done = _gallery("--quick", "recv_is_message")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "caught by lines_split" in done.stdout
    assert before == {file: file.read_bytes() for file in (ROOT / "03_select").iterdir()}


def test_run_prints_the_header_and_becomes_the_server():
    done = _gallery("--run", "recv_is_message", "--", "-h")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("Mistake:") and "Caught by:" in done.stdout
    assert "usage: 03_select" in done.stdout
