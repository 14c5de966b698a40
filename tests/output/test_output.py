"""What every program that prints does about a stdout that is no terminal, is full, or is gone."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.harness import BUILD, DEADLINE, ROOT, Process
from tests.output.terminal import Screen
from tests.tools.running import from_a_shell, run, wait_until

pytestmark = pytest.mark.sources

# By name: what to start, with `{out}` for a folder to write to. Each prints more than one line. The
# soak's seed is one whose clients are quick.
PROGRAMS = {
    "demo": ["tests.tools.demo", "--stages", "3", "--step", "0.01"],
    "demo -h": ["tests.tools.demo", "-h"],
    "compare": ["tests.compare", "--stages", "5", "--scenario", "half_close_queued idle",
                "--step", "0.01", "--out", "{out}"],
    "compare, columns": ["tests.compare", "--stages", "5", "--scenario", "second_client",
                         "--step", "0.01"],
    "bugs": ["tests.bugs", "--list"],
    "bench": ["tests.bench", "--quick", "--only", "size", "--out", "{out}"],
    "bench -h": ["tests.bench", "-h"],
    "soak": ["tests.soak", "--seconds", "0.1", "--stage", "5", "--seed", "4"],
    "run-all": ["tests.tools.run_all", BUILD / "05_epoll", BUILD / "04_poll", "--", "-h"],
    "diff": ["tests.tools.diff", "02_nonblocking_busyloop", "03_select"],
    "truth": [BUILD / "truth", "unread", "refused"],
    "calls": [BUILD / "calls", "-t", "0.001"],
    "calls -h": [BUILD / "calls", "-h"],
}
F_SETPIPE_SZ = 1031                            # fcntl has it from Python 3.10 on
# The rows that need no full socket, which takes a while.
QUICK_ROWS = ("fresh unread read-partly read-partly-more urgent urgent-passed half-closed-tail "
              "half-closed own-shutdown both-shut-down closed-then-sent reset reset-unread "
              "unconnected connecting established refused listener waiting").split()


@pytest.fixture(params=PROGRAMS)
def program(request, tmp_path):
    """(its name, how to start it)."""
    first, *rest = PROGRAMS[request.param]
    words = [str(first)] if isinstance(first, Path) else [sys.executable, "-m", first]
    return words[-1].rpartition("/")[2].rpartition(".")[2].replace("_", "-"), [
        *words, *(str(word).format(out=tmp_path) for word in rest)]


def start(words, *, ignored=False, env={}, **how):
    # The bench measures nothing that is sanitized.
    words = from_a_shell(*words, without=["SAN"], PYTHONDONTWRITEBYTECODE="1", **env)
    return subprocess.Popen(words, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            restore_signals=not ignored, **how)


def told(process):
    """The lines on stderr, until it has ended."""
    return process.communicate(timeout=2 * DEADLINE)[1].decode().splitlines()


def faults(lines):
    """Those that do not tell how far it has come."""
    return [line for line in lines if not re.match(r"\[ ?\d+/|measured in ", line)]


def test_a_stdout_that_cannot_be_written_is_said(program):
    name, words = program
    with open("/dev/full", "wb") as full, start(words, stdout=full) as process:
        said = told(process)
    assert said[-1:] == faults(said) == [f"{name}: stdout: No space left on device"]
    assert process.returncode == 1


def test_a_stdout_that_is_closed_is_said(program):
    """At once, before anything else is done."""
    name, words = program
    with start(["sh", "-c", 'exec "$@" >&-', "sh", *words]) as process:
        said = told(process)
    assert (said, process.returncode) == ([f"{name}: stdout: Bad file descriptor"], 1)


@pytest.mark.parametrize("ignored", [False, True], ids=["", "SIGPIPE ignored"])
def test_a_reader_that_leaves_is_no_error(program, ignored):
    """The pipe has room for less than what is printed, and its reader leaves at once."""
    _, words = program
    ours, theirs = os.pipe()
    os.close(ours)
    with start(words, stdout=theirs, ignored=ignored) as process:
        os.close(theirs)
        said = told(process)
    assert process.returncode == 0
    assert faults(said) == []


@pytest.mark.parametrize("ascii_only", [
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}], ids=["encoding", "locale"])
def test_a_stdout_of_ascii_only(program, ascii_only):
    _, words = program
    with start(words, stdout=subprocess.PIPE, env=ascii_only) as process:
        out, said = process.communicate(timeout=2 * DEADLINE)
    assert b"Traceback" not in said
    assert process.returncode == 0 and out and out.isascii()
    assert b"\\x" not in out                               # a letter has a stand-in, no escape


@pytest.mark.parametrize("encoding, shown", [
    ("ascii", rb"5 us ~1 \xfc \u20ac \xfc"), ("utf-8", "5 µs ±1 ü € \\xfc".encode())])
def test_letters_that_the_encoding_lacks(encoding, shown):
    script = "from tests import output; output.run(lambda: print('5 µs ±1 ü € \\udcfc'), 'x')"
    done = run([sys.executable, "-c", script], PYTHONIOENCODING=encoding)
    assert (done.stdout, done.stderr, done.returncode) == (shown + b"\n", b"", 0)


@pytest.mark.parametrize("plain", [{"TERM": "dumb", "NO_COLOR": ""},
                                   {"TERM": "xterm", "NO_COLOR": "1"}], ids=["dumb", "no color"])
def test_no_escape_sequence_where_none_is_wanted(program, plain):
    """On a terminal, stderr too, which shows how far a tool has come."""
    _, words = program
    with Screen(from_a_shell(*words, without=["SAN"], **plain)) as screen:
        assert screen.end() == 0
    assert screen.shown and b"\033" not in screen.shown


@pytest.mark.parametrize("words", [
    [sys.executable, "-m", "tests.tools.run_all", "/usr/bin/seq", "--", "3000"],
    [sys.executable, "-m", "tests.bugs", "--list"], [str(BUILD / "truth"), *QUICK_ROWS]])
def test_a_stdout_left_non_blocking_loses_nothing(words):
    with start(words, stdout=subprocess.PIPE) as process:
        wanted = process.communicate(timeout=DEADLINE)[0]
    ours, theirs = os.pipe()
    fcntl.fcntl(theirs, F_SETPIPE_SZ, 4096)
    os.set_blocking(theirs, False)
    with start(words, stdout=theirs) as process:
        os.close(theirs)
        _until_it_is_stuck(process.pid, ours)
        with open(ours, "rb") as pipe:
            found = pipe.read()
        assert process.communicate(timeout=DEADLINE)[1] == b""
    assert len(wanted) > 4096 and found == wanted and process.returncode == 0


def _until_it_is_stuck(pid, pipe):
    """It sleeps, and the pipe has no room for its next line; or it has ended."""
    def stuck():
        size = bytearray(4)
        fcntl.ioctl(pipe, termios.FIONREAD, size)
        state = Process(pid).state()
        return state == "Z" or state == "S" and int.from_bytes(size, sys.byteorder) >= 3500

    wait_until(stuck)
