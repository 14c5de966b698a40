"""What every program that prints does about a stdout that is no terminal, is full, or is gone."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from tests.harness import BUILD, DEADLINE, ROOT
from tests.output.terminal import Screen

pytestmark = pytest.mark.sources

# By name: what to start, with `{out}` for a folder to write to. Each prints more than one line.
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
    "soak": ["tests.soak", "--seconds", "0.1", "--stage", "5"],
    "run-all": ["tests.tools.run_all", BUILD / "05_epoll", BUILD / "04_poll", "--", "-h"],
    "diff": ["tests.tools.diff", "02_nonblocking_busyloop", "03_select"],
    "truth": [BUILD / "truth", "full", "refused"],
    "calls": [BUILD / "calls", "-t", "0.001"],
    "calls -h": [BUILD / "calls", "-h"],
}
F_SETPIPE_SZ = 1031                            # fcntl has it from Python 3.10 on
ENV = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
ENV.pop("SAN", None)                   # the bench measures nothing that is sanitized


@pytest.fixture(params=PROGRAMS)
def program(request, tmp_path):
    """(its name, how to start it)."""
    first, *rest = PROGRAMS[request.param]
    words = [str(first)] if isinstance(first, Path) else [sys.executable, "-m", first]
    return words[-1].rpartition("/")[2].rpartition(".")[2].replace("_", "-"), [
        *words, *(str(word).format(out=tmp_path) for word in rest)]


def start(words, *, ignored=False, **how):
    return subprocess.Popen(words, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            restore_signals=not ignored, **{"env": ENV, **how})


def test_a_stdout_that_cannot_be_written_is_said(program):
    name, words = program
    with open("/dev/full", "wb") as full, start(words, stdout=full) as process:
        said = process.communicate(timeout=2 * DEADLINE)[1].decode().splitlines()
    assert said[-1] == f"{name}: stdout: No space left on device"
    assert process.returncode == 1
    assert [line for line in said[:-1] if not re.match(r"\[ ?\d+/|measured in ", line)] == []


def test_a_stdout_that_is_closed_is_said(program):
    name, words = program
    with start(["sh", "-c", 'exec "$@" >&-', "sh", *words]) as process:
        said = process.communicate(timeout=2 * DEADLINE)[1].decode().splitlines()
    assert (said, process.returncode) == ([f"{name}: stdout: Bad file descriptor"], 1)


@pytest.mark.parametrize("ignored", [False, True], ids=["", "SIGPIPE ignored"])
def test_a_reader_that_leaves_is_no_error(program, ignored):
    """The pipe has room for less than what is printed, and its reader leaves at once."""
    _, words = program
    ours, theirs = os.pipe()
    os.close(ours)
    with start(words, stdout=theirs, ignored=ignored) as process:
        os.close(theirs)
        said = process.communicate(timeout=2 * DEADLINE)[1].decode().splitlines()
    assert process.returncode == 0
    assert [line for line in said if not re.match(r"\[ ?\d+/|measured in ", line)] == []


@pytest.mark.parametrize("ascii_only", [
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}], ids=["encoding", "locale"])
def test_a_stdout_of_ascii_only(program, ascii_only):
    _, words = program
    with start(words, stdout=subprocess.PIPE, env={**ENV, **ascii_only}) as process:
        out, said = process.communicate(timeout=2 * DEADLINE)
    assert b"Traceback" not in said
    assert process.returncode == 0 and out and out.isascii()
    assert b"\\x" not in out                               # a letter has a stand-in, no escape


@pytest.mark.parametrize("encoding, shown", [
    ("ascii", rb"5 us ~1 \xfc \u20ac \xfc"), ("utf-8", "5 µs ±1 ü € \\xfc".encode())])
def test_letters_that_the_encoding_lacks(encoding, shown):
    script = "from tests import output; output.run(lambda: print('5 µs ±1 ü € \\udcfc'), 'x')"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True,
                          env={**ENV, "PYTHONIOENCODING": encoding}, timeout=DEADLINE)
    assert (done.stdout, done.stderr, done.returncode) == (shown + b"\n", b"", 0)


@pytest.mark.parametrize("plain", [{"TERM": "dumb", "NO_COLOR": ""},
                                   {"TERM": "xterm", "NO_COLOR": "1"}], ids=["dumb", "no color"])
def test_no_escape_sequence_where_none_is_wanted(program, plain):
    """On a terminal, stderr too, which shows how far a tool has come."""
    _, words = program
    with Screen(["/usr/bin/env", "-u", "SAN", *(f"{key}={value}" for key, value in plain.items()),
                 *words]) as screen:
        assert screen.end() == 0
    assert screen.shown and b"\033" not in screen.shown


@pytest.mark.parametrize("words", [
    [sys.executable, "-m", "tests.tools.run_all", "/usr/bin/seq", "--", "3000"],
    [sys.executable, "-m", "tests.bugs", "--list"], [str(BUILD / "truth")]])
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
    until, state, size = time.monotonic() + DEADLINE, "", bytearray(4)
    while state != "Z" and (state != "S" or int.from_bytes(size, sys.byteorder) < 3500):
        assert time.monotonic() < until
        time.sleep(0.001)
        fcntl.ioctl(pipe, termios.FIONREAD, size)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
