"""The comparison: that what it shows is what was recorded, and that what was recorded is so."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.compare.lessons import REPLAYED, ROWS, calls, keeps_list, lesson
from tests.compare.page import growth, page as page_of
from tests.compare.record import WEIGHTS
from tests.compare.story import story
from tests.compare.terminal import columns
from tests.compare.timeline import KINDS, timeline
from tests.harness import DEADLINE, SANITIZED, judge, variants
from tests.harness.narration import COUNTERS
from tests.output import Style
from tests.output.reading import Page, cut_off
from tests.replay.stories import STORIES
from tests.scenarios import Scenario, scenarios

pytestmark = pytest.mark.sources
QUICK = ("--step", "0.05")
EMPTY = {"seconds": 1.0, "cpu": 0.0, "counters": {}, "asleep": {}, "lanes": [], "spans": [],
         "marks": [], "said": []}


def run(*words, program="tests.compare", columns=200):
    return subprocess.run([sys.executable, "-m", program, *words],
                          env={**os.environ, "COLUMNS": str(columns)}, text=True,
                          capture_output=True, stdin=subprocess.DEVNULL, timeout=4 * DEADLINE)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A small run: (what the terminal shows, the record, the page)."""
    out = tmp_path_factory.mktemp("compare")
    done = run("--stages", "1 2 5", "--scenario", "idle second_client", "--out", str(out), *QUICK)
    assert done.returncode == 0, done.stderr
    return done, json.loads((out / "compare.json").read_text()), Page(
        (out / "compare.html").read_text())


# --- the page -------------------------------------------------------------------------------

def test_the_page_holds_together(compared):
    page = compared[2]                     # the page beside it is another command's
    assert page.links() and {each for each in page.wrong()
                             if "eplay.html#" not in each} == set()


def test_pictures_have_alternatives(compared):
    pictures = [each for each in compared[2].all("svg") if each.get("aria-hidden") != "true"]
    assert len(pictures) >= 2 * 3 + 4                       # behind the cells, and before them
    for picture in pictures:
        assert picture["role"] == "img" and len(picture["aria-labelledby"].split()) == 2
    words = {each["id"]: each["text"] for each in compared[2].all("desc")}
    assert "Client B waits up to" in words["second_client-1-picture-d"]
    assert "sleeps in recv" in words["second_client-1-picture-d"]
    assert "never sleeps" in words["idle-2-picture-d"]
    assert "sleeps in epoll_wait" in words["idle-5-picture-d"]


def test_the_page_says_what_the_record_says(compared):
    _, record, page = compared
    for row in record["rows"]:
        for stage, cell in row["cells"].items():
            found, = page.all("td", data_row=row["id"], data_stage=stage)
            assert found["text"].replace("\u25b2 ", "").replace(" \u25b7", "") == cell["text"]
            assert (found.get("class") == "worst") == cell["worst"]
            link = f"#{row['scenario']}-{stage}"
            assert page.all("a", href=link) and page.all("details", id=link[1:])
    stepped = {each["href"] for each in page.all("a") if each["href"].startswith("replay.html#")}
    assert stepped == {f"replay.html#{REPLAYED[name]}" for name in record["scenarios"]
                       if name in REPLAYED}
    assert set(REPLAYED.values()) <= set(STORIES) and set(REPLAYED) <= set(scenarios())
    for name, scenario in record["scenarios"].items():
        for stage, ran in scenario["runs"].items():
            shown = page.all("details", id=f"{name}-{stage}")[0]["text"]
            assert scenario["lessons"][stage] in shown
            for entry in ran["picture"]["narration"]:
                text = f"... {entry:,} lines more" if isinstance(entry, int) else entry[1]
                assert text in shown
    vain = record["scenarios"]["idle"]["runs"]["2"]["picture"]["counters"]["would_block"]
    assert f"spins: {vain:,} calls for nothing" in page.text


def test_the_figures_are_those_of_the_narration(compared):
    record = compared[1]
    for scenario in record["scenarios"].values():
        for run_ in scenario["runs"].values():
            shown = run_["picture"]
            last = shown["narration"][-1][1]
            assert last[9:].split()[1:] == [f"{key}={shown['counters'][key]}" for key in COUNTERS]
            assert all(0 <= span[0] <= span[1] <= shown["seconds"] + 0.001
                       for span in shown["spans"])
    for stage, run_ in record["scenarios"]["second_client"]["runs"].items():
        waited = max([0.0] + [end - begin for begin, end, _ in
                              run_["picture"]["lanes"][1]["waits"]])
        assert stage != "1" or waited > 0.2
        # Seen from outside, it takes a little longer.
        assert waited * 1000 <= run_["observed"]["milliseconds"] + 1


def test_no_label_is_cut_off(compared):
    assert "<text" in compared[2].text and cut_off(compared[2].text) == []


def test_every_mark_is_counted(compared):
    for scenario in compared[1]["scenarios"].values():
        for run_ in scenario["runs"].values():
            shown = run_["picture"]
            marks = [*shown["marks"], *(mark for lane in shown["lanes"] for mark in lane["marks"])]
            told = [re.search(r": (?:(\d+) x )?", path["text"])[1] or 1 for path in Page(
                timeline(shown, "x", "a title")).all("path") if path.get("class") in KINDS]
            assert sum(map(int, told)) == sum(mark[2] for mark in marks) > 0


def test_the_page_stays_small(compared):
    """That of all scenarios has a hundred pictures, and is below 1 MiB."""
    pictures = re.findall(r'<svg [^>]*role="img".*?</svg>', compared[2].text, re.S)
    assert sum(map(len, pictures)) < 5300 * len(pictures)


def test_many_marks_take_few_bytes():
    marks = [[at / 240, "recv", 2, "x" * 120] for at in range(240)]
    picture = timeline({**EMPTY, "marks": marks}, "x", "a title")
    assert len(picture) < 3000 and "0 ms to 996 ms: 480 x recv, the first: xxx" in picture


@pytest.mark.parametrize("looked_at", [
    (1001, 2006, 2006, 2), (2010, 2006, 2006, 2), (3160, 2006, 2006, 2), (99_999, 2006, 2006, 2),
    (1, 1, 1, 1), (100, 100, 100, 100), (31_622, 31_622, 31_622, 31_622)])
def test_no_label_of_the_growth_is_cut_off(looked_at):
    runs = {stage: {"observed": {"10": {"scanned": most / 100}, "1000": {"scanned": most}}}
            for stage, most in zip("2345", looked_at)}
    picture = growth({"scenarios": {"silent_clients": {"runs": runs}}})
    assert cut_off(picture) == []
    heights = sorted(float(y) for y in re.findall(r'"label" x="[\d.]+" y="([^"]+)"', picture))
    assert len(heights) == 4 and all(b - a > 12 for a, b in zip(heights, heights[1:]))


@pytest.mark.parametrize("at", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_no_sentence_is_cut_off(at):
    shown = {**EMPTY, "said": [[at, "word " * 19 + "word"]]}
    assert cut_off(timeline(shown, "x", "a title")) == []


# --- the terminal ---------------------------------------------------------------------------

def test_the_terminal_says_what_the_record_says(compared):
    done, record, _ = compared
    assert "\033" not in done.stdout + done.stderr
    squeezed = re.sub(r"\s", "", done.stdout)
    for row in record["rows"]:
        for cell in row["cells"].values():
            for word in cell["text"].split():
                assert word in squeezed
    assert done.stdout.splitlines()[-1].endswith("compare.html")
    assert len(re.findall(r"^\[ [12]/2\] .* left$", done.stderr, re.M)) == 2


@pytest.mark.parametrize("no_color, shown", [("", "\033[1;31mworst\033[0m"), ("1", "worst")])
def test_color_is_for_terminals(monkeypatch, no_color, shown):
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    assert Style(SimpleNamespace(isatty=lambda: True)).worst("worst") == shown


@pytest.mark.parametrize("stages, width", [("1 3", 100), ("", 200)])
def test_one_scenario_in_columns(stages, width):
    done = run("--stages", stages, "--scenario", "second_client", "--step", "0.1", columns=width)
    assert done.returncode == 0, done.stderr
    text, lines = done.stdout, done.stdout.splitlines()
    assert [line for line in lines if len(line) > width] == []
    assert "asleep in recv()" in text      # how long stage 3 sleeps depends on the machine
    order = [text.index(word) for word in ("A connects and says", "B connects and asks",
                                           "B sends hello", "A closes")]
    assert order == sorted(order)
    rows = [line for line in lines if "|" in line]
    head = next(row for row in rows if "clients" in row)
    bars = [at for at, letter in enumerate(head) if letter == "|"]
    assert len(bars) == (2 if stages else 6)
    asleep = [row for row in rows if "A closes" in row][0]
    assert asleep[bars[0] + 2] == ":"                       # stage 1 sleeps until A has left


def test_a_narrow_terminal():
    done = run("--stages", "1 3", "--scenario", "second_client", *QUICK, columns=30)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "recv" in done.stdout


def test_the_sleep_shown_is_the_one_that_is_told_next():
    """A closes at 600.6 ms, which wakes the server; its own 600.7 ms is rounded to 600.5."""
    shown = {
        "seconds": 0.6045, "cpu": 0.0, "counters": {}, "asleep": {"recv": 0.577},
        "said": [[0.0, "A connects."], [0.6, "A leaves."]],
        "lanes": [{"name": "A", "marks": [[0.02, "connect", 1, ""], [0.6006, "close", 1, ""]]},
                  {"name": "B", "marks": [[0.3, "connect", 1, ""], [0.6031, "close", 1, ""]]}],
        "spans": [[0.0235, 0.6005, "asleep", "recv"], [0.6005, 0.6025, "asleep", "send"],
                  [0.6025, 0.6045, "asleep", "accept"]],
        "narration": [
            [0.0235, "   0.003 accept  fd=6 service=echo peer=127.0.0.1:1 clients=1", False, "A"],
            [0.6005, "   0.580 recv    fd=6 bytes=0 slept=0.577", True, "A"],
            [0.6005, "   0.580 close   fd=6 reason=eof clients=0", False, "A"],
            [0.6025, "   0.582 send    fd=6 bytes=6 slept=0.002", False, "B"],
            [0.6035, "   0.583 recv    fd=6 bytes=0 slept=0.000", False, "B"],
            [0.6045, "   0.584 accept  fd=5 error=EINTR slept=0.001", False, ""]]}
    scenario = {"question": "", "runs": {"1": {"picture": shown}}, "lessons": {"1": ""}}
    lines = list(columns("x", scenario, [{"id": "1", "title": ""}], 80, Style(StringIO())))
    cells = {text.strip(): cell for text, _, cell in (line[8:].partition("|") for line in lines)}
    assert cells["B connects"] == " : asleep in recv()" and cells["A closes"] == " :"
    assert cells["B closes"] == "" and not any("asleep in send" in line for line in lines)


def test_a_wait_that_was_ended_is_told_before_what_came_later():
    """A millisecond after A closes, B does; rounding puts the wait's end in between."""
    shown = {
        "seconds": 0.61, "said": [],
        "lanes": [{"name": "A", "marks": [[0.6000, "close", 1, ""]]},
                  {"name": "B", "marks": [[0.6012, "close", 1, ""]]}],
        "narration": [
            [0.6005, "   0.580 wait    call=poll watching=3 ready=1 on=5:r slept=0.300", True, ""],
            [0.6005, "   0.580 recv    fd=5 bytes=0", False, "A"],
            [0.6015, "   0.581 wait    call=poll watching=2 ready=1 on=6:r slept=0.000", False, ""],
            [0.6015, "   0.581 recv    fd=6 bytes=0", False, "B"]]}
    assert [item.text for item in story(shown)] == [
        "A closes", "slept 0.300 s in poll()", "recv   A end of input", "B closes",
        "recv   B end of input"]


@pytest.mark.parametrize("program, words, named", [
    ("tests.compare", ["--scenario", "no_such"], "second_client"),
    ("tests.compare", ["--stages", "7"], "6-epoll"),
    ("tests.compare", ["--stages", "1 x"], "6-epoll"),
    ("tests.compare", ["--stages", "1 thread"], "edge_triggered"),
    ("tests.compare", ["--format", "pdf"], "text, json, html"),
    ("tests.tools.demo", ["--stages", "9"], "6-epoll")])
def test_bad_words(program, words, named):
    done = run(*words, program=program)
    assert done.returncode == 2 and done.stdout == ""
    assert named in done.stderr and done.stderr.count("\n") == 1


def test_a_variant_stands_beside_the_stages(tmp_path):
    done = run("--stages", "5 threads", "--scenario", "second_client message_cost", "--out",
               str(tmp_path), *QUICK)
    record = json.loads((tmp_path / "compare.json").read_text())
    assert done.returncode == 0 and [each["id"] for each in record["stages"]] == ["5", "threads"]
    assert record["scenarios"]["second_client"]["runs"]["threads"]["unexpected"] == []
    # What its header says is otherwise is no surprise.
    assert "not as expected" not in done.stdout
    page = Page((tmp_path / "compare.html").read_text())
    assert any("threads: a thread for each client" in each["text"] for each in page.all("b"))


def test_other_formats():
    done = run("--stages", "5", "--scenario", "second_listener", "--format", "json", *QUICK)
    record = json.loads(done.stdout)
    assert record["rows"][0]["cells"]["5"] == {"text": "answered", "worst": False}
    assert "second_listener-5" in Page(page_of(record)).ids


def test_interrupting_leaves_no_server_behind(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.compare", "--scenario", "second_client idle",
         "--out", str(tmp_path)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + DEADLINE
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not (servers := children.read_text().split()):
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=DEADLINE)[1]
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in error
    while any(Path(f"/proc/{pid}").exists() for pid in servers):
        assert time.monotonic() < until, f"left behind: {servers}"
        time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []


# --- the tour -------------------------------------------------------------------------------

def test_the_tour_runs_through_in_a_pipe():
    done = run("--stages", "1 2 5", "--step", "0.1", program="tests.tools.demo")
    assert done.returncode == 0, done.stderr
    assert "\033" not in done.stdout
    told = done.stdout.split("\nStage ")[1:]
    for text, server, late in zip(told, ("asleep in recv()", "asks every socket for nothing",
                                         "asleep in epoll_wait()"), (True, False, False)):
        assert server in text and ("no answer yet" in text) == late
        assert text.index("B connects and asks") < text.index("answers B") \
            < text.index("B       has its answer")
    assert len(told) == 3
    for named in ("make compare", "make run-", "NOTES.md"):
        assert named in told[-1]


# --- what it rests on -----------------------------------------------------------------------

def test_rows_and_lessons_are_complete():
    known = scenarios()
    for row in ROWS:
        assert row.scenario in known and row.scenario in WEIGHTS
        for variant in variants():
            assert lesson(row.scenario, variant), f"{row.scenario}, {variant.id}"
    assert len({row.id for row in ROWS}) == len(ROWS)


def test_a_change_of_our_own_list_is_no_system_call():
    stats = {"waits": 3, "accept": 2, "recv": 2, "send": 1, "watch": 6, "scanned": 40}
    assert {variant.id: calls(stats, variant.id) for variant in variants()} == {
        **dict.fromkeys(["1", "2", "3", "4", "6-select", "6-poll"], 8), "5": 14, "6-epoll": 14}


CALLS = {"accept": "accept", "accept4": "accept", "recvfrom": "recv", "sendto": "send",
         "epoll_ctl": "watch", "select": "waits", "pselect6": "waits", "_newselect": "waits",
         "poll": "waits", "ppoll": "waits", "epoll_wait": "waits", "epoll_pwait": "waits"}


@pytest.mark.skipif(not shutil.which("strace") or SANITIZED, reason="no strace, or sanitized")
def test_counters_agree_with_strace(variant, tmp_path):
    def talk(run_):
        client = run_.connect()
        for _ in range(10):
            client.exchange(b"hello\n")
        client.close()
        run_.server.closed(client)
        return {}

    trace = tmp_path / "trace"
    traced = replace(variant, program=Path(shutil.which("strace")), arguments=(
        "-D", "-o", str(trace), "-e", "trace=" + ",".join(
            f"?{name}" for name in CALLS), str(variant.program), *variant.arguments))
    record = judge(Scenario("talk", "", talk, {"all": {}}, ("echo",), {}), traced, timeline=True)
    if not trace.exists() or not trace.read_text():
        pytest.skip("strace may not trace here")
    counted = record.timeline["servers"][0]["events"][-1]["fields"]
    seen = Counter(dict.fromkeys(set(CALLS.values()), 0))
    for line in trace.read_text().splitlines():
        name = line.partition("(")[0]
        if name in CALLS and not line.startswith("poll([{fd=1,"):    # may the narration go out?
            seen[CALLS[name]] += 1
    if not keeps_list(variant.id):
        del seen["watch"]
    assert {key: counted[key] for key in seen} == seen
    if variant.stage != 2:
        assert counted["recv"] == 10 + 1 and counted["send"] == 10
