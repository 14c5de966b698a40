"""`make calls`: every row is there, and what a row says of its call held while it was timed."""

import json
import os
import resource
import subprocess
from collections import Counter

import pytest

from tests.harness import BUILD, DEADLINE

pytestmark = pytest.mark.sources

CALLS = BUILD / "calls"
ROWS = {"getppid": 1, "recv": 3, "send": 2, "accept": 2, "epoll_ctl": 3, "select": 2, "poll": 2,
        "epoll_wait": 2}


def _run(*words, **how):
    return subprocess.run([CALLS, *words], text=True, capture_output=True, timeout=3 * DEADLINE,
                          stdin=subprocess.DEVNULL, **how)


def test_every_call_is_timed():
    done = _run("-t", "0.005", "-j")
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads(done.stdout)
    assert Counter(row["call"] for row in rows) == ROWS
    assert [row for row in rows if not 0 < row["low"] <= row["ns"] <= row["high"]] == []


def test_the_sum_is_that_of_its_rows():
    done = _run("-t", "0.005")
    assert (done.returncode, done.stderr) == (0, "")
    taken = {}
    for line in done.stdout.splitlines()[:sum(ROWS.values())]:
        what, _, figure = line.partition(" ns")[0].rpartition(" ")
        taken[" ".join(what.split())] = int(figure)
    parts = ["recv 64 bytes have come", "send 64 bytes, and there is room",
             "epoll_wait one is ready, of 1"]
    told = int(done.stdout.partition("64 bytes: ")[2].partition(" ns")[0])
    assert abs(told - sum(taken[part] for part in parts)) <= 2                       # rounded


def test_what_cannot_be_measured_is_said():
    # A sanitizer that looks for leaks at the end needs descriptors of its own for that.
    done = _run(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)),
                env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr in ("calls: accept: Too many open files\n",
                           "calls: socket: Too many open files\n")


@pytest.mark.parametrize("words", ["-t", "-t 0", "-t x", "-t 61", "-x", "word"])
def test_bad_word(words):
    done = _run(*words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "calls: usage: calls [-j] [-t SECONDS]\n"
