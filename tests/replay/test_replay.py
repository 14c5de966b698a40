"""What is recorded is true, and the page and the terminal show just that."""

from __future__ import annotations

import copy
import json
import re
import shutil
import sys
from html.parser import HTMLParser

import pytest

from tests.harness import SANITIZED, Unavailable
from tests.replay import programs as building
from tests.replay import record as recording
from tests.replay.__main__ import chosen, load, record_all, sealed
from tests.replay.check import complaints
from tests.replay.model import merged, model
from tests.replay.page import page
from tests.replay.programs import Program, programs
from tests.replay.record import record
from tests.replay.stories import STORIES
from tests.replay.terminal import lines
from tests.tools.running import run

pytestmark = [
    pytest.mark.sources,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="recorded on Linux only"),
    pytest.mark.skipif(SANITIZED, reason="what is recorded is built plain")]


@pytest.fixture(scope="module")
def recorded():
    """Every story, with all whom it is told of: (story, column) -> what was recorded."""
    try:
        return {(raw["story"], raw["column"]): raw for raw in record_all(chosen("", "", ""))}
    except Unavailable as why:
        pytest.skip(str(why))


@pytest.fixture(scope="module")
def known():
    return {each.id: each for each in programs(" ".join(
        dict.fromkeys(" ".join(story.stages for story in STORIES.values()).split())))}


@pytest.fixture(scope="module")
def models(recorded, known):
    found = {}
    for name, story in STORIES.items():
        ids = story.stages.split()
        found[name] = model(story, [recorded[name, each] for each in ids],
                            [known[each] for each in ids])
    return found


# --- what is recorded is true ---------------------------------------------------------------

@pytest.mark.parametrize("name", STORIES)
def test_a_recording_is_true(name, recorded, known):
    for column in STORIES[name].stages.split():
        raw = recorded[name, column]
        assert complaints(STORIES[name], raw, known[column]) == []
        assert sum("call" in call for call in raw["calls"]) > 2


@pytest.mark.parametrize("name", STORIES)
def test_a_story_may_be_told_of_any_stage(name):
    for program in programs("1 2 3 4 5 6 6-poll 6-select"):
        if program.id not in STORIES[name].stages.split():
            assert complaints(STORIES[name], record(STORIES[name], program), program) == []


def _call(raw, name, **wanted):
    return next(call for call in raw["calls"] if call.get("call") == name and all(
        call[key] == value for key, value in wanted.items()))


def _reports_nobody(raw):
    _call(raw, "epoll_wait", result=1)["found"] = []


def _reports_another(raw):
    _call(raw, "epoll_wait", result=1)["found"][0][1] |= 4


def _was_not_ready(raw):
    for row in _call(raw, "epoll_wait", result=1)["after"]:
        row[4] = 0


def _read_less(raw):
    _call(raw, "recv", result=6)["result"] = 5


def _sent_more(raw):
    raw["steps"][3]["rest"]["clients"]["B"]["sent"] += 1


def _has_more_to_read(raw):
    raw["steps"][3]["rest"]["sockets"][-1][2] += 1


def _waits_elsewhere(raw):
    raw["steps"][3]["rest"]["asleep"]["call"] = "poll"


def _watches_more(raw):
    raw["steps"][3]["rest"]["epoll"][-1][1] |= 4


def _another_line(raw):
    for frame in _call(raw, "recv", result=6)["stack"]:
        frame[2] += 1


def _said_otherwise(raw):
    raw["narration"][-2][0] = "recv 99 1"


def _said_less(raw):
    del raw["narration"][4]


def _read_another_word(raw):
    _call(raw, "recv", result=6)["data"] = b"HELLO\n".hex()


def _sent_another_word(raw):
    _call(raw, "send", result=6)["data"] = b"HELLO\n".hex()


def _another_came(raw):
    _call(raw, "accept")["peer"] ^= 1


def _something_else_is_queued(raw):
    next(row for row in raw["steps"][3]["rest"]["sockets"] if row[1] == "c")[5] = "21"


def _more_is_to_be_sent(raw):
    next(row for row in raw["steps"][3]["rest"]["sockets"] if row[1] == "c")[3] += 1


def _never_called(raw):
    raw["calls"].remove(_call(raw, "send", result=6))


def _in_another_order(raw):
    raw["calls"][3], raw["calls"][4] = raw["calls"][4], raw["calls"][3]


def _someone_waits(raw):
    next(row for row in raw["steps"][3]["rest"]["tcp"] if not row[1])[4] += 1


@pytest.mark.parametrize("tamper", [
    _reports_nobody, _reports_another, _was_not_ready, _read_less, _sent_more, _has_more_to_read,
    _waits_elsewhere, _watches_more, _another_line, _said_otherwise, _said_less, _never_called,
    _in_another_order, _someone_waits, _read_another_word, _sent_another_word, _another_came,
    _something_else_is_queued, _more_is_to_be_sent])
def test_what_cannot_be_is_refused(tamper, recorded, known):
    raw = copy.deepcopy(recorded["second_client", "5"])
    assert complaints(STORIES["second_client"], raw, known["5"]) == []
    tamper(raw)
    assert complaints(STORIES["second_client"], raw, known["5"])


def test_a_watched_set_that_the_server_did_not_make_is_refused(recorded, known):
    raw = copy.deepcopy(recorded["slow_reader", "4"])
    for call in raw["calls"]:
        for entry in call.get("watched", ()):
            entry[1] &= ~2                 # nothing is watched for urgent data
    assert complaints(STORIES["slow_reader"], raw, known["4"])


def test_a_changed_file_is_refused(recorded, tmp_path):
    raw = recorded["second_client", "3"]
    file = tmp_path / "replay.json"
    file.write_text(sealed([raw]))
    assert load(file) == [raw]
    file.write_text(file.read_text().replace("A leaves.", "B leaves."))
    done = run([sys.executable, "-m", "tests.replay", "--from", str(file)])
    assert done.returncode == 1 and b"is not as it was recorded" in done.stderr


def test_what_happens_while_we_look_is_no_rest(monkeypatch, known):
    """With no descriptor left, a server tries to accept again every second: here, while we look,
    and before the recording has been put together."""
    servers = []

    def another_try():
        for server in servers:
            if server.all("accept", error="EMFILE") and not server.ended():
                server.wait_for("accept", after=server.mark())

    looked = []

    def syscall_of(server):
        servers[:] = [server]
        if server.all("accept", error="EMFILE") and len(looked) < 2:
            looked.append(server)
            another_try()
        return ""

    resolved = Program.resolved
    monkeypatch.setattr(recording, "syscall_of", syscall_of)
    monkeypatch.setattr(Program, "resolved", lambda self, calls: (
        another_try(), resolved(self, calls))[1])
    story = STORIES["sixteen_descriptors"]
    assert complaints(story, record(story, known["5"]), known["5"]) == []
    assert looked


def test_what_is_on_its_way_is_waited_for():
    def look(state, into, **seen):
        return {"tcp": [[1, 0, 10, 0, 0, 5], [1, 7, state, 0, into, 6]],
                "clients": {"A": {"unsent": 0, "ended": "", **seen}}}

    established = recording.ESTABLISHED
    for late in (look(recording.SYN_RECV, 0), look(established, 0, unsent=6),
                 look(established, 0, ended="closed")):
        assert recording.on_the_way(late, {"A": 7}) == ["A"]
    for there in (look(established, 0), look(established, 6, unsent=9),
                  look(recording.CLOSE_WAIT, 1, ended="closed")):
        assert recording.on_the_way(there, {"A": 7}) == []


# --- it is the same without a recorder ------------------------------------------------------

@pytest.mark.parametrize("column", ["1", "2", "3", "4", "5", "6"])
@pytest.mark.parametrize("name", ["second_client", "idle", "sixteen_descriptors"])
def test_the_recorder_changes_nothing(name, column, recorded, known):
    with_it, without = recorded[name, column], record(STORIES[name], known[column], recorded=False)
    rounds = ("accept", "recv", "would_block", "scanned") if column == "2" else ()
    # A sleep that has a limit (until a listener is tried again) ends as often as there is time.
    rounds += ("waits", "scanned", "ready", "accept", "watch") * bool(STORIES[name].nofile)
    for key in set(without["stats"]) - set(rounds):
        assert with_it["stats"][key] == without["stats"][key], key
    for one, other in zip(with_it["steps"], without["steps"]):
        for client, seen in one["rest"]["clients"].items():
            same = other["rest"]["clients"][client]
            assert [seen[key] for key in ("sent", "received", "unread", "ended")] == [
                same[key] for key in ("sent", "received", "unread", "ended")], one["text"]
            assert [mark[1:] for mark in seen["marks"]] == [mark[1:] for mark in same["marks"]]


# --- what is shown --------------------------------------------------------------------------

BESIDE = [("half_close", "5", "half_close"), *(
    (story.name, *story.stages.split()[:1], story.stages.split()[-1])
    for story in STORIES.values() if story.differs and story.stages.split()[-1] not in "123456")]


@pytest.mark.parametrize("name, right, bug", BESIDE)
def test_a_bug_looks_different_at_the_step_that_the_story_names(name, right, bug, recorded):
    story = STORIES[name]
    both = programs(f"{right} {bug}")
    made = [recorded.get((name, each.id)) or record(story, each) for each in both]
    for raw, program in zip(made, both):
        assert complaints(story, raw, program) == []
    shown = model(story, made, both)
    named = [at for at, step in enumerate(shown["steps"]) if story.differs in step["text"]]
    one, other = (column["pictures"][named[-1]] for column in shown["columns"])
    assert one["say"] != other["say"] or one["sockets"] != other["sockets"]
    lost = re.compile(r"close\(\) on \w; [\d,]+ bytes that were to be sent are lost")
    assert [any(lost.match(picture["say"]) for picture in column["pictures"])
            for column in shown["columns"]] == [False, bug == "half_close"]
    for at in range(named[0]):
        assert shown["columns"][0]["pictures"][at]["state"] == \
            shown["columns"][1]["pictures"][at]["state"]


def test_the_sentences_that_the_stories_are_for(models):
    def said(name, column):
        shown = next(each for each in models[name]["columns"] if each["id"] == column)
        return " ".join(picture["say"] for picture in shown["pictures"])

    assert ("It sleeps in recv() on A; B's 6 bytes wait in the kernel, on a connection that nobody "
            "has accepted.") in said("second_client", "1")
    for stage, call in (("3", "select"), ("4", "poll"), ("5", "epoll_wait"), ("6", "epoll_wait")):
        assert f"It sleeps in {call}()." in said("idle", stage)
        assert "accept() fails with EMFILE" in said("sixteen_descriptors", stage)
        assert all(f"{name} is ready for reading" in said("one_round", stage) for name in "ABC")
        assert re.search(r"takes [\d,]+ bytes of [\d,]+; [\d,]+ wait in the outbox",
                         said("slow_reader", stage))
    assert re.search(r"It spins: accept\(\), recv\(\) on A, recv\(\) on B: nobody is ready; and "
                     r"[\d,]+ more", said("idle", "2"))
    assert ("4,000 bytes of A wait in the kernel, and wake nobody (epoll has reported them, "
            "once)"
            in said("edge_without_draining", "edge_without_draining"))
    assert "wake nobody" not in said("edge_without_draining", "edge_triggered")
    assert ("recv() on C fails with EAGAIN. (The wait reported 8 when that was B. Now it is C, "
            in said("stale_event", "stale_event"))
    assert "and a part of them is in the send queue already" in said("slow_reader", "1")
    assert "wait in the outbox" not in said("slow_reader", "1")
    assert "fails with EMFILE: nobody waits, but" in said("sixteen_descriptors", "2")
    assert "nobody waits" not in said("sixteen_descriptors", "5")
    assert "when that was" not in said("stale_event", "5")
    assert "recv() on B returns 0: B's connection was reset" in said("stale_event", "5")
    assert "B, C and D wait in the kernel, on connections that nobody has accepted" in said(
        "sixteen_descriptors", "1")
    assert "It spins: poll(): A is ready for writing, and nothing is done" in said(
        "always_writable", "always_writable")


def test_what_failed_to_be_sent_waits_no_more(models):
    """The connection was reset: the server drops the rest."""
    seen = [socket[7] for column in models["stale_event"]["columns"]
            for picture in column["pictures"]
            if picture["say"].startswith("send() to B fails with ECONNRESET")
            for socket in picture["sockets"] if socket[0] == "B"]
    assert seen and not any(seen)


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.fetched, self.last, self.data = [], [], [], {}, ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.last = dict(attributes)
        for key, found in (("id", self.ids), ("href", self.links), ("src", self.fetched)):
            found += [value for name, value in attributes if name == key]
        self.fetched += [tag] * (tag in ("link", "iframe", "object"))

    def handle_data(self, text):
        if self.last.get("id") == "data":
            self.data += text


def test_the_page(models, known):
    text = page(list(models.values()), known, "2001-01-01")
    assert len(text.encode()) < 1.5 * (1 << 20)
    read = Page(text)
    assert not read.fetched and "url(" not in text and "://" not in text
    assert len(read.ids) == len(set(read.ids))
    assert all(link.startswith("#") and link[1:] in read.ids for link in read.links)
    data = json.loads(read.data)
    for told, shown in zip(data["stories"], models.values()):
        assert [f"{told['name']}/{at}" in read.ids for at in range(len(told["steps"]))]
        for column, whole in zip(told["columns"], shown["columns"]):
            source = data["sources"][column["source"]]
            assert source["sha256"] == known[column["id"]].digest("server.cpp")
            assert "\n".join(source["lines"]) == known[column["id"]].file("server.cpp")
            last = {}                                  # as page.js reads it
            for changed, picture in zip(column["pictures"], whole["pictures"]):
                last = {**last, **changed}
                assert {key: last[key] for key in picture} == picture
                assert picture["say"] and 0 <= picture["line"] <= len(source["lines"])
    for picture in (picture for shown in models.values() for column in shown["columns"]
                    for picture in column["pictures"]):
        assert picture["say"].replace("&", "&amp;").replace("<", "&lt;").replace(
            "'", "&#x27;").replace('"', "&quot;") in text


def test_on_the_terminal(models):
    text = "\n".join(lines(models["second_client"]))
    steps = re.findall(r"^ +(\d+)  (\w.*)$", text, re.M)
    assert [int(number) for number, _ in steps] == list(range(len(steps)))
    for line in ("kernel   B (not accepted): 6 to be read", "client   B: sent 6, got 6",
                 "watched  signals:r listener:r A:rx B:rx (told r)  [three sets, in the program; "
                 "3 sets of 8 bits copied in and walked by the kernel; 3 sets copied out, 4 "
                 "entries walked by the program]",
                 'recv() on B returns 6 bytes: "hello\\n".'):
        assert line in text
    if shutil.which("addr2line"):
        assert re.search(r"at {7}recv\(\) calls.hpp:\d+ < read_from\(\) server.cpp:\d+ < ", text)


def test_without_addr2line_a_function_has_its_name(monkeypatch, known):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    building._frames.cache_clear()
    raw = record(STORIES["second_client"], known["3"])
    building._frames.cache_clear()
    assert complaints(STORIES["second_client"], raw, known["3"]) == []
    shown = model(STORIES["second_client"], [raw], [known["3"]])
    called = {frame for picture in shown["columns"][0]["pictures"] for frame in picture["stack"]}
    assert {"wait()", "run()", "accept_from()"} <= called
    assert "no addr2line here" in page([shown], known, "2001-01-01")


@pytest.mark.parametrize("words, named", [
    (["--story", "no_such"], "second_client"), (["--bug", "no_such"], "half_close"),
    (["--stages", "5 threads"], "threads is not recorded"),
    (["--stages", "workers"], "workers is not"), (["--stages", "uring"], "uring is not"),
    (["--stages", "one_shot"], "one_shot is not"), (["--stages", "7"], "6-epoll"),
    (["--format", "pdf"], "html, text, json"),
    (["--from", "/dev/null"], "no recording")])
def test_bad_words(words, named):
    done = run([sys.executable, "-m", "tests.replay", *words])
    assert done.returncode == 2 and done.stdout == b""
    assert named in done.stderr.decode() and done.stderr.count(b"\n") == 1
