"""The Makefile, tried on stages that compile in no time."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.harness import DEADLINE, FOLDERS, ROOT
from tests.tools.running import from_a_shell

pytestmark = pytest.mark.sources

# A few of the headers: one that every stage has, and one that only later ones have.
HEADERS = {"service.hpp": FOLDERS, "calls.hpp": FOLDERS, "waits.hpp": FOLDERS[2:]}
STAND_IN = r"""
#include "service.hpp"
#include "calls.hpp"
#include <cstdio>
int main(int argc, char* argv[]) {
    for (int i = 1; i < argc; ++i) std::puts(argv[i]);
}
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return plant(tmp_path)


def plant(where: Path) -> Path:
    shutil.copy(ROOT / "Makefile", where)
    shutil.copytree(ROOT / "tests", where / "tests")
    for folder in FOLDERS:
        (where / folder).mkdir()
        (where / folder / "server.cpp").write_text(f"// {folder}\n{STAND_IN}")
        for name, folders in HEADERS.items():
            if folder in folders:
                (where / folder / name).write_text(f"// {name}\n#pragma once\n")
    return where


# As from a shell where nobody has chosen anything.
MAKE = from_a_shell("make", without=("SAN", "STAGE", "SERVER", "SERVICE", "ARGS", "CXX", "CXXFLAGS",
                                     "BUILD"))


def make(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MAKE, *arguments], cwd=tree, text=True, timeout=2 * DEADLINE,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)


def compiled(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The stages that were compiled."""
    assert done.returncode == 0, done.stdout
    return sorted({folder for folder in FOLDERS for line in done.stdout.splitlines()
                   if line.endswith(f" {folder}/server.cpp")})


@pytest.fixture(scope="module")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = plant(tmp_path_factory.mktemp("built"))
    assert compiled(make(tree, "-j4")) == list(FOLDERS)
    return tree


@pytest.fixture
def built(built_once: Path, tmp_path: Path) -> Path:
    """A tree where everything is up to date: a copy keeps the times of its files."""
    return Path(shutil.copytree(built_once, tmp_path / "tree"))


def touch(path: Path) -> None:
    later = time.time() + 5  # whatever the file system's clock can tell apart
    os.utime(path, (later, later))


def test_builds_what_has_changed_and_nothing_else(built):
    assert compiled(make(built)) == []
    assert compiled(make(built, "-n")) == []
    touch(built / "04_poll" / "calls.hpp")
    assert compiled(make(built)) == ["04_poll"]


def test_other_compilers_and_flags_build_anew(built):
    assert compiled(make(built, "-j4", "CXXFLAGS=-DWORD='a b'")) == list(FOLDERS)
    assert compiled(make(built, "-j4", "CXXFLAGS=-DWORD='a b'")) == []
    same = shutil.which("g++") or shutil.which("c++")
    assert compiled(make(built, "-j4", f"CXX={same}")) == list(FOLDERS)


def test_sanitized_programs_are_kept_apart(built):
    assert compiled(make(built, "-j4", "SAN=1")) == list(FOLDERS)
    for words in [], ["SAN=1"], ["SAN=0"]:
        assert compiled(make(built, *words)) == []
    for folder in FOLDERS:
        assert os.access(built / "build" / folder, os.X_OK)
        assert os.access(built / "build" / "san" / folder, os.X_OK)


def test_run_builds_that_stage_and_passes_words_on(tree):
    done = make(tree, "run-3", "ARGS=-e 7000 -t 0.5")
    assert compiled(done) == ["03_select"]
    assert done.stdout.splitlines()[-4:] == ["-e", "7000", "-t", "0.5"]


def test_sync_copies_each_header_from_the_first_stage_that_has_it(tree):
    (tree / "01_blocking" / "calls.hpp").write_text("// new\n")
    (tree / "05_epoll" / "service.hpp").write_text("// drifted\n")
    (tree / "03_select" / "waits.hpp").write_text("// new, too\n")
    (tree / "06_selector_callbacks" / "waits.hpp").unlink()
    assert make(tree, "sync").returncode == 0
    for name, folders in HEADERS.items():
        for folder in FOLDERS:
            assert (tree / folder / name).exists() == (folder in folders)
        assert len({(tree / folder / name).read_bytes() for folder in folders}) == 1
    assert (tree / "06_selector_callbacks" / "waits.hpp").read_text() == "// new, too\n"
    assert make(tree, "sync").stdout == ""


def test_diff_shows_the_server_and_names_the_rest(tree):
    for folder, step in ("02_nonblocking_busyloop", "try"), ("03_select", "ask"):
        (tree / folder / "server.cpp").write_text(
            f"// {folder}\n//\n// All of it.\n\nint one;\nint two;\nint {step};\n")
    (tree / "02_nonblocking_busyloop" / "probe.hpp").write_text("// a\n")
    (tree / "03_select" / "service.hpp").write_text("// drifted\n")
    done = make(tree, "diff-3")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "--- 02_nonblocking_busyloop/server.cpp", "+++ 03_select/server.cpp",
        "@@ the opening comment @@",
        "-// 02_nonblocking_busyloop", "-//", "-// All of it.",
        "+// 03_select", "+//", "+// All of it.",
        "@@ -4,4 +4,4 @@", " ", " int one;", " int two;", "-int try;", "+int ask;",
        "", "changed lines: 2 of code, 6 of opening comment",
        "new in 03_select: waits.hpp (2 lines)", "no longer in 03_select: probe.hpp",
        "differs: service.hpp", "the same in both: calls.hpp"]


def test_a_diff_that_cannot_be_written_says_so(tree):
    with open("/dev/full", "w") as full:
        done = subprocess.run([*MAKE, "diff-3"], cwd=tree, text=True, stdout=full,
                              stderr=subprocess.PIPE, timeout=DEADLINE)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "diff: stdout: No space left on device"


@pytest.mark.parametrize("ignored", [False, True])
def test_a_diff_whose_reader_leaves_is_no_error(tree, ignored):
    """`make diff-3 | head`, also from where SIGPIPE is ignored."""
    (tree / "03_select" / "server.cpp").write_text("// long\n" * 100_000)
    with subprocess.Popen([*MAKE, "diff-3"], cwd=tree, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, restore_signals=not ignored) as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(DEADLINE) == 0


def test_a_tree_that_cannot_be_written_to(tree):
    (tree / "build").write_text("not a folder, so nothing can be put into it")
    done = make(tree)
    assert done.returncode == 2 and len(done.stdout.splitlines()) == 1
    assert "cannot write to build" in done.stdout and "BUILD=" in done.stdout
    assert compiled(make(tree, "-j4", f"BUILD={tree}/elsewhere")) == list(FOLDERS)


def test_a_folder_of_any_name(tmp_path):
    """So is the compiler's: as in a shell, its quotes are up to whoever names it."""
    where = tmp_path / "a b'ü $(c) #d"
    where.mkdir()
    compiler = where / "my c++"
    compiler.write_text('#!/bin/sh\nexec c++ "$@"\n')
    compiler.chmod(0o755)
    tree, mine = plant(where), f"CXX={shlex.quote(str(compiler)).replace('$', '$$')}"
    assert compiled(make(tree, "-j4", mine)) == list(FOLDERS)
    assert compiled(make(tree, "-j4", "-n", mine)) == []
    done = make(tree, "run-3", "ARGS=-e 7000", mine)
    assert (done.returncode, done.stdout.splitlines()) == (0, ["-e", "7000"])
    for words in ["help"], ["sync"], ["diff-3"], ["bugs", "LIST=1"], ["client-2", "ARGS=-h"]:
        done = make(tree, *words)
        assert done.returncode == 0, done.stdout
    assert make(tree, "clean").returncode == 0 and not (tree / "build").exists()


def test_a_server_of_any_name(tree):
    (tree / "tests" / "pytest.sh").write_text('[ "$1" = --find ] || echo "$SERVER"\n')
    (tree / "tests" / "soak" / "__main__.py").write_text("import sys\nprint(sys.argv[-1])\n")
    for target in "test", "soak":
        done = make(tree, target, "SERVER=a b'ü", "STAGE=4")
        assert (done.returncode, done.stdout) == (0, "a b'ü\n")


def test_a_pytest_is_looked_for_before_anything_is_compiled(tree):
    (tree / "tests" / "pytest.sh").write_text("echo pytest.sh $*\nexit 3\n")
    done = make(tree, "test")
    assert done.returncode == 2
    assert done.stdout.splitlines()[0] == "pytest.sh --find" and "server.cpp" not in done.stdout


def test_clean_leaves_what_git_has(tree):
    before = sorted(tree.rglob("*"))
    make(tree, "-j4")
    make(tree, "diff-2")
    make(tree, "client-2", "ARGS=-h")
    assert make(tree, "clean").returncode == 0
    assert sorted(tree.rglob("*")) == before


def test_help_names_the_targets(tree):
    done = make(tree, "help")
    for target in ("make", "make run-3", "make run-all", "make client-3", "make diff-3",
                   "make test", "make sync", "make clean"):
        assert f"\n{target} " in "\n" + done.stdout
    assert not (tree / "build").exists()


def test_help_is_ranked(tree):
    """What a beginner needs comes first. Every target is there, but those that others stand for."""
    groups = [text.splitlines() for text in make(tree, "help").stdout.split("\n\n")]
    assert [title for title, *_ in groups] == [
        "Start here", "Read", "Build your own", "Compare and measure",
        "For those who change this suite"]
    named = [[line.split("  ")[0] for line in lines if line.startswith("make")]
             for _, *lines in groups]
    assert named[0] == ["make demo", "make run-3", "make client-3", "make run-all"]
    assert named[1][0] == "make diff-3" and named[2][0] == "make blank-4"
    assert named[3] == ["make compare", "make replay", "make bench", "make calls"]
    assert {"make", "make test", "make sync", "make clean"} < set(named[4])
    assert max(len(line) for lines in groups for line in lines) <= 100
    makefile = (tree / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)", makefile, re.M)[1].replace("\\\n", " ").split()
    missing = set(phony) - {"all", "servers", "help", "programs", "FORCE"} \
        - {name[5:] for group in named for name in group}
    assert not missing


@pytest.mark.parametrize("words, reason", [
    (["run-7"], "stages are 1 to 6"), (["client-0"], "stages are 1 to 6"),
    (["diff-1"], "diff-2 to diff-6"), (["diff-9"], "diff-2 to diff-6"),
    (["BUILD=/tmp/a b"], "without spaces"), (["BUILD=/tmp/a'b"], "without spaces and quotes"),
    (["client-2", "SERVICE=mail"], "echo, greet or chat"), (["nonsense"], "make help"),
])
def test_bad_words_get_one_line(tree, words, reason):
    done = make(tree, *words)
    assert done.returncode == 2
    assert reason in done.stdout and len(done.stdout.splitlines()) == 1
