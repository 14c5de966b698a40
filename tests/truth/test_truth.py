"""The truth table, cell by cell: what this kernel says of a descriptor is what we teach."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import shutil
import subprocess
from typing import Any

import pytest

from tests.harness import BUILD, DEADLINE, ROOT

pytestmark = pytest.mark.sources

TRUTH = BUILD / "truth"
SOURCE = ROOT / "tests" / "truth" / "truth.cpp"

# Two spaces or more part the cells; C-RESET is short for ECONNRESET. Where kernels differ, all
# that is documented is allowed: `truth pipe-more` tells since when.
COLUMNS = ("select", "poll", "level", "edge", "edge_again", "recv", "send", "so_error", "question")
CELLS = """
fresh             w        w      w       w       -       EAGAIN         1          0             1
unread            rw       rw     rw      rw      -       10, EAGAIN     1          0             2
read-partly       rw       rw     rw      -       -       6, EAGAIN      1          0             3
read-partly-more  rw       rw     rw      rw      -       7, EAGAIN      1          0             3
urgent            wx       wx     wx      wx      -       oob 1, EAGAIN  1          0             0
urgent-passed     w        w      w       -       -       EAGAIN         1          0             0

half-closed-tail  rw       rwd    rwd     rwd     -       10, 0          1          0             4
half-closed       rw       rwd    rwd     rwd     -       0              1          0             5
own-shutdown      w        w      w       w       -       EAGAIN         EPIPE      0             0
both-shut-down    rw       rwdh   rwdh    rwdh    -       0              EPIPE      0             0
closed-then-sent  rw       rwdeh  rwdeh   rwdeh   -       0              EPIPE      EPIPE, 0      6
reset             rw       rwdeh  rwdeh   rwdeh   -       C-RESET, 0     C-RESET    C-RESET, 0    0
reset-unread      rw       rwdeh  rwdeh   rwdeh   -       10, C-RESET    C-RESET    C-RESET, 0    4

full              -        -      -       -       -       EAGAIN         EAGAIN     0             7
drained-quarter   -        -      -       -       -       EAGAIN         1          0             7
drained-half      w        w      w       w       -       EAGAIN         1          0             7
drained           w        w      w       w       -       EAGAIN         1          0             7

unconnected       rw       wh     wh      wh      -       ENOTCONN       EPIPE      0             8
connecting        -        -      -       -       -       EAGAIN         EAGAIN     0             8
established       w        w      w       w       -       EAGAIN         1          0             8
refused           rw       rwdeh  rwdeh   rwdeh   -       C-REFUSED, 0   C-REFUSED  C-REFUSED, 0  8

listener          -        -      -       -       -       EAGAIN         EPIPE      0             0
waiting           r        r      r       r       -       ok: EAGAIN     EPIPE      0             0
waiting-reset     r        r      r       r       -       ok: C-RESET    EPIPE      0             0
waiting-taken     -        -      -       -       -       EAGAIN         EPIPE      0             9
waiting-no-room   r        r      r       -       -       EMFILE         EPIPE      0             10

no-events         -        -      -       -       -       10, 0          1          0             11
no-events-reset   -        eh     eh      eh      -       C-RESET, 0     C-RESET    C-RESET, 0    11
twice             w        w w    EEXIST  EEXIST  EEXIST  EAGAIN         1          0             0
closed            EBADF    n      -       -       -       EBADF          EBADF      EBADF         12
closed-dup        EBADF    n      rw      rw      -       EBADF          EBADF      EBADF         12
reused            rw       rw     -       -       -       10, EAGAIN     1          0             13
number-1024       no room  w      w       w       -       EAGAIN         1          0             14

file              rw       rw     EPERM   EPERM   EPERM   0              1          ENOTSOCK      15
pipe-no-writer    r        h      h       h       -       0              EBADF      ENOTSOCK      4
pipe-end-unread   r        rh     rh      rh      -       10, 0          EBADF      ENOTSOCK      4
pipe-no-reader    rw       we     we      we      -       EBADF          EPIPE      ENOTSOCK      6
pipe-more         r        r      r       r or -  -       20, EAGAIN     EBADF      ENOTSOCK      3
""".replace("C-", "ECONN")
EXPECTED = {state: dict(zip(COLUMNS, cells))
            for state, *cells in (re.split("  +", line) for line in CELLS.splitlines() if line)}


def start(*words: str, **options: Any) -> subprocess.Popen[str]:
    if not TRUTH.exists():
        pytest.fail(f"{TRUTH} is not built: make truth")
    return subprocess.Popen([TRUTH, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, **options)


def end(run: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    try:
        told = run.communicate(timeout=6 * DEADLINE)
    finally:
        run.kill()
    return subprocess.CompletedProcess(run.args, run.returncode, *told)


def truth(*words: str) -> subprocess.CompletedProcess[str]:
    return end(start(*words))


def rows(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    assert (done.returncode, done.stderr) == (0, "")
    return {row["state"]: row for row in json.loads(done.stdout)["states"]}


@pytest.fixture(scope="module")
def told() -> dict[str, subprocess.CompletedProcess[str]]:
    """The whole table in three ways, at the same time: it waits more than it works."""
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))

    runs = {"table": start("--json"), "page": start(), "few": start("--json", preexec_fn=few)}
    return {name: end(run) for name, run in runs.items()}


@pytest.fixture(scope="module")
def table(told) -> dict[str, dict[str, str]]:
    return rows(told["table"])


@pytest.fixture(scope="module")
def page(told) -> list[str]:
    assert (told["page"].returncode, told["page"].stderr) == (0, "")
    return told["page"].stdout.splitlines()


def differences(row: dict[str, str]) -> dict[str, str]:
    """The cells that are not as expected, and what was."""
    return {column: f"{row[column]}, not {expected}"
            for column, expected in EXPECTED[row["state"]].items()
            if row[column] not in expected.split(" or ")}


@pytest.mark.parametrize("state", EXPECTED)
def test_cells(table, state):
    if state == "number-1024" and resource.getrlimit(resource.RLIMIT_NOFILE)[1] <= 1024:
        pytest.skip("this system has no descriptor number 1024")
    assert differences(table[state]) == {}


def test_every_state_is_expected_once(table):
    assert list(table) == list(EXPECTED)
    assert all(len(cells) == len(COLUMNS) for cells in EXPECTED.values())


def test_the_machine_is_named():
    assert json.loads(truth("--json", "fresh").stdout)["kernel"] == platform.release()


def test_every_question_is_answered_by_a_row(table):
    questions = json.loads(truth("--json", "fresh").stdout)["questions"]
    assert all(row["question"].endswith("?") and row["answer"] for row in questions)
    asked = {int(row["question"]) for row in table.values()} - {0}
    assert asked == set(range(1, len(questions) + 1))


def test_every_reason_has_a_source_that_exists(table):
    pages = set()
    for row in table.values():
        assert row["why"]
        for source in row["source"].split(", "):
            assert re.fullmatch(r"[a-z_]+\(\d\)( NOTES| BUGS)?|BUGS|RFC \d+( \d+(\.\d+)*)?"
                                r"|POSIX poll\(\)|\w+\(\) in Linux", source), source
        pages |= set(re.findall(r"([a-z_]+)\((\d)\)", row["source"]))
    if not shutil.which("man"):
        pytest.skip("no manual here to look the pages up in")
    if subprocess.run(["man", "-w", "2", "poll"], capture_output=True, check=False).returncode:
        pytest.skip("the manual here has no pages for programmers")
    for name, section in sorted(pages):
        found = subprocess.run(["man", "-w", section, name], capture_output=True, check=False)
        assert found.returncode == 0, f"{name}({section})"


def test_the_page_shows_the_same_cells_in_columns(table, page):
    header = next(line for line in page if " SO_ERROR " in line)
    starts = [header.index(word) for word in
              ("select", "poll", "level", "first", "again", "recv", "send", "SO_ERROR", " Q")]
    for state, row in table.items():
        line = next(line for line in page if line.split()[:1] == [state])
        cells = [line[a:b] for a, b in zip(starts, starts[1:] + [None])]
        assert all(cell.endswith(" ") for cell in [line[:starts[0]], *cells[:-1]]), line
        shown = dict(zip(COLUMNS, map(str.strip, cells)))
        shown["question"] = shown["question"].replace("-", "0")
        assert shown.items() >= {c: row[c] for c in COLUMNS if c != "edge"}.items(), line
        assert row["title"] in line and f"  {state:19}{row['why']} [{row['source']}]" in page


def test_the_page_fits_a_wide_terminal(page):
    assert [line for line in page if len(line) > 150 or not line.isascii()] == []


def test_some_rows():
    done = truth("refused", "full")
    assert done.returncode == 0
    shown = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")
             and line.split()[0] in EXPECTED]
    assert shown == ["refused", "full"] * 2  # in the table, and among the reasons
    assert re.findall(r"^ +(\d+)  \w", done.stdout, re.M) == ["7", "8"]
    assert list(rows(truth("full", "--json"))) == ["full"]


@pytest.mark.parametrize("words", [["fresch"], ["full", "--jsn"], [""], ["a\nb"]])
def test_a_bad_word_gets_one_line(words):
    done = truth(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert all(f" {state}" in done.stderr for state in EXPECTED)


def test_the_same_on_a_busy_machine():
    busy = [subprocess.Popen(["sh", "-c", "while :; do :; done"])
            for _ in range(2 * (os.cpu_count() or 1))]
    try:
        runs = [start("--json") for _ in range(3)]
        told = [end(run).stdout for run in runs]
    finally:
        for child in busy:
            child.kill()
            child.wait()
    assert told[0] and told[0] == told[1] == told[2]


def test_where_descriptors_are_few(told):
    table = rows(told["few"])
    assert {table["number-1024"][column] for column in COLUMNS[:-1]} == {"n/a"}
    assert {state: wrong for state, row in table.items() if state != "number-1024"
            for wrong in [differences(row)] if wrong} == {}


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_compiles_without_a_warning(compiler):
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler} here")
    done = subprocess.run([compiler, "-std=c++20", "-fsyntax-only", "-Werror", "-Wall", "-Wextra",
                           "-Wpedantic", "-Wshadow", "-Wconversion", SOURCE],
                          capture_output=True, text=True, timeout=6 * DEADLINE, check=False)
    assert done.returncode == 0, done.stderr
