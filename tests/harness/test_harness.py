"""The tests' own tools: that they see what is wrong. A check that cannot fail is none."""

import json
import shutil
import sys
import textwrap
from pathlib import Path

import pytest

from tests.harness import (DEADLINE, Client, Late, Server, Unavailable, Variant, anything, at_least,
                           at_most, between, including, judge, none_but, one_of, variants)
from tests.harness.expect import differences, for_variant
from tests.harness.faults import environment
from tests.harness.narration import Malformed, complaints, parse
from tests.scenarios import Scenario, scenarios

pytestmark = pytest.mark.sources


# --- the narration --------------------------------------------------------------------------

def test_a_line_is_taken_apart():
    event = parse('   2.119 recv    fd=7 bytes=46 data="a\\n\\r\\t\\"\\\\\\x00\\xff b"+38'
                  " slept=1.500")
    assert (event.time, event.verb) == (2.119, "recv")
    assert event.fields == {"fd": 7, "bytes": 46, "data": b'a\n\r\t"\\\0\xff b', "more": 38,
                            "slept": 1.5}
    event = parse("   2.118 wait    call=select watching=40 ready=19 on=4:r,7:rwx,9:h,+16"
                  " slept=0.100")
    assert event["on"] == {4: "r", 7: "rwx", 9: "h"} and event["more"] == 16
    assert parse("   0.000 wait    call=poll watching=2 ready=0 on=- slept=0.000")["on"] == {}
    event = parse("   0.000 wait    call=poll watching=2 error=EINTR slept=0.000")
    assert event["error"] == "EINTR"
    assert parse("12345.678 resume  clients=3")["clients"] == 3


@pytest.mark.parametrize("line", [
    "",
    "hello",
    "  0.000 resume  clients=3",                       # the time is eight wide
    "   0.00 resume  clients=3",
    "   0.000 resume clients=3",                       # the verb is seven wide
    "   0.000 resume  clients=3 ",
    "   0.000 resume  clients=three",
    "   0.000 resume  clients=3 clients=3",
    "   0.000 resume",                                 # a key is missing
    "   0.000 resume  clients=3 fd=4",                 # one too many
    "   0.000 listen  service=echo fd=4 address=127.0.0.1:1",   # another order
    "   0.000 listens fd=4 service=echo address=127.0.0.1:1",
    "   0.000 urgent  fd=4 data=!",
    "   0.000 start   stage=04_poll pid=1 clock=1.000",
    "   0.000 recv    fd=4 bytes=0 slept=1",
    '   0.000 note    text="unfinished',
    '   0.000 note    text="a"b"',
    '   0.000 note    text="a\\b"',                    # no such escape
    '   0.000 note    text="a\\x0G"',
    '   0.000 note    text="\x1b[31m"',                # a control byte
    '   0.000 note    text="\xe4"',
    "   0.000 wait    call=poll watching=2 ready=1 on=4 slept=0.000",
    "   0.000 wait    call=poll watching=2 ready=1 on=4:q slept=0.000",
])
def test_what_is_no_narration(line):
    with pytest.raises(Malformed):
        parse(line)


STATS = ("waits={waits} ready=0 watch=0 scanned=0 accept=1 recv=1 send=1 would_block=0 "
         "bytes_in={bytes_in} bytes_out={bytes_out} clients={clients} max_clients={most}")
GOOD = """\
   0.000 start   stage=04_poll pid=1 clock=1.000000
   0.000 listen  fd=4 service=echo address=127.0.0.1:1
   1.000 wait    call=poll watching=2 ready=1 on=4:r slept=1.000
   1.000 accept  fd=7 service=echo peer=127.0.0.1:2 clients=1
   1.001 recv    fd=7 bytes=3 data="abc"
   1.001 send    fd=7 bytes=3
   2.000 close   fd=7 reason=eof clients=0
   2.000 stop    signal=SIGTERM
   2.000 stats   waits=1 ready=1 watch=9 scanned=4 accept=1 recv=2 send=1 would_block=0 \
bytes_in=3 bytes_out=3 clients=0 max_clients=1
"""


def _complaints(text, arguments=(), stage=4):
    return complaints([parse(line) for line in text.splitlines()], stage=stage,
                      arguments=arguments)


def test_a_good_narration():
    assert _complaints(GOOD) == []


@pytest.mark.parametrize("old, new", [
    ("   0.000 start   stage=04_poll pid=1 clock=1.000000\n", ""),
    ("   2.000 stop ", "   1.000 stop "),                         # time runs backwards
    ("recv    fd=7", "recv    fd=8"),                             # nobody has that one
    ("close   fd=7", "close   fd=8"),
    ("accept  fd=7", "accept  fd=4"),                             # the listener's
    ("127.0.0.1:2 clients=1", "127.0.0.1:2 clients=2"),
    ("eof clients=0", "eof clients=1"),
    ("bytes=3 data", "bytes=4 data"),
    ("ready=1 on=4:r", "ready=2 on=4:r"),
    ("watching=2 ready=1", "watching=0 ready=1"),
    ("bytes_in=3", "bytes_in=4"),
    ("bytes_out=3", "bytes_out=2"),
    ("stats   waits=1", "stats   waits=2"),
    ("ready=1 watch", "ready=2 watch"),
    ("clients=0 max", "clients=1 max"),
    ("max_clients=1", "max_clients=0"),
    ("   1.001 send    fd=7 bytes=3\n", "   1.001 send    fd=7 bytes=3 slept=0.000\n"),
    ("   1.001 send    fd=7 bytes=3\n", "   1.001 send    fd=7 bytes=3\n"
                                        "   1.001 recv    fd=7 error=EAGAIN\n"),
    ("   1.001 send    fd=7 bytes=3\n", "   1.001 send    fd=7 bytes=3\n"
                                        "   1.001 watch   fd=7 for=r\n"),
    ("   2.000 close   fd=7 reason=eof clients=0\n", ""),
])
def test_a_bad_narration(old, new):
    assert old in GOOD
    assert _complaints(GOOD.replace(old, new, 1)) != []


def test_a_narration_without_its_end():
    assert _complaints(GOOD[:GOOD.index("   2.000 stats")]) == ["the last line is not stats"]


def test_what_quiet_and_verbose_change():
    assert len(_complaints(GOOD, ["-q"])) == 6
    assert _complaints(GOOD, ["-v"]) != []              # calls are counted that were not narrated


# --- what is expected ------------------------------------------------------------------------

def test_conditions():
    for condition, right, wrong in ((at_least(3), 3, 2.9), (at_most(3), 3, 3.1),
                                    (between(1, 2), 1.5, 2.1), (one_of("a", "b"), "b", "c"),
                                    (including("a"), ["a", "b"], ["b"]),
                                    (none_but("a"), [], ["a", "b"])):
        assert condition == right and not condition == wrong
        assert not condition == None and str(condition)  # noqa: E711
        assert {"a": [condition]} == {"a": [right]} and {"a": [condition]} != {"a": [wrong]}
    assert anything == None  # noqa: E711


def test_differences():
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": at_least(2)}) == []
    assert len(differences({"a": 1}, {"a": 2})) == 1
    assert len(differences({"a": 1}, {})) == 1
    assert len(differences({}, {"a": anything})) == 1


def test_what_a_stage_expects_goes_before_what_all_expect():
    by_id = {variant.id: variant for variant in variants()}
    assert list(by_id) == ["1", "2", "3", "4", "5", "6-select", "6-poll", "6-epoll"]
    expect = {"all": {"a": 1, "b": 1}, "1": {"a": 2}, "3 6-select": {"b": 3}}
    assert for_variant(expect, by_id["1"]) == {"a": 2, "b": 1}
    assert for_variant(expect, by_id["3"]) == for_variant(expect, by_id["6-select"])
    assert for_variant(expect, by_id["6-select"]) == {"a": 1, "b": 3}
    assert for_variant(expect, by_id["6-poll"]) == {"a": 1, "b": 1}
    assert [v.id for v in variants("2-3 6-poll")] == ["2", "3", "6-poll"]
    with pytest.raises(ValueError):
        variants("7")


def test_what_is_no_program_is_refused_in_one_line(tmp_path):
    (tmp_path / "text").write_text("")
    for path, why in ((tmp_path, "a folder"), (tmp_path / "text", "not executable"),
                      (tmp_path / "none", "no such file")):
        with pytest.raises(ValueError, match=f"^SERVER={path}: {why}; .*wanted$"):
            variants("4", str(path))


def test_every_word_of_a_scenario_names_a_variant():
    for scenario in scenarios().values():
        for which in [*scenario.expect, *scenario.not_for]:
            assert which == "all" or variants(which)


# --- what is checked after every scenario ---------------------------------------------------

FAKE = """\
    import os, signal, socket, sys, time
    fault = "{fault}"
    began = time.monotonic()
    def say(verb, rest):
        print(f"{{time.monotonic() - began:8.3f}} {{verb:<7}} {{rest}}", flush=True)
    def stop(number, frame):
        say("stop", "signal=SIGTERM")
        clients = 1 if fault == "clients_left" else 0
        if fault != "no_stats":
            say("stats", "waits=0 ready=0 watch=0 scanned=0 accept=1 recv=1 send=1 would_block=0"
                f" bytes_in={{total}} bytes_out={{total}} clients={{clients}} max_clients=1")
        if fault == "stderr":
            print("ERROR: AddressSanitizer: something", file=sys.stderr)
        os._exit(3 if fault == "status" else 0)
    signal.signal(signal.SIGTERM, stop)
    if fault in ("hangs", "dies"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    listener = socket.create_server(("127.0.0.1", 0))
    total, kept = 0, []
    pid = 1 if fault == "pid" else os.getpid()
    say("start", f"stage=04_poll pid={{pid}} clock={{began:.6f}}")
    say("listen", f"fd=4 service=echo address=127.0.0.1:{{listener.getsockname()[1]}}")
    if fault == "grammar":
        print("hello")
    client, address = listener.accept()
    say("accept", f"fd=7 service=echo peer=127.0.0.1:{{address[1]}} clients=1")
    data = client.recv(100)
    total += len(data)
    say("recv", f'fd=7 bytes={{len(data)}} data="' + data.decode().replace("\\n", "\\\\n") + '"')
    if fault == "mute":
        time.sleep(60)
    client.sendall(data)
    say("send", f"fd=7 bytes={{len(data)}}")
    client.recv(1)
    say("close", "fd=7 reason=eof clients=0")
    if fault != "leak":
        client.close()
    if fault == "dies":
        os.abort()
    while True:
        time.sleep(60)
"""


def _talk(run, seconds):
    client = run.connect()
    answer = client.exchange(b"hello\n", seconds=seconds)
    client.close()
    run.server.closed(client)
    return {"answer": answer.decode()}


@pytest.mark.parametrize("fault, complaint", [
    ("none", ""),
    ("status", "exit status 3"),
    ("no_stats", "the last line is not stats"),
    ("clients_left", "clients"),
    ("stderr", "AddressSanitizer"),
    ("grammar", "no narration"),
    ("pid", "pid"),
    ("leak", "all clients' sockets closed"),
    ("hangs", "did not end"),
    ("dies", "exit status -6"),
    ("mute", "Late: 1 s, and not"),
])
def test_what_is_wrong_is_seen(tmp_path, monkeypatch, fault, complaint):
    if fault in ("leak", "hangs"):                       # what never comes, is not waited for long
        monkeypatch.setattr("tests.harness.run.DEADLINE", 0.5)
    seconds = 1 if fault == "mute" else DEADLINE
    program = tmp_path / "server"
    program.write_text(textwrap.dedent(FAKE).format(fault=fault))
    variant = Variant("04_poll", "4", 4, Path(sys.executable), (str(program),))
    scenario = Scenario("talk", "Does it answer?", lambda run: _talk(run, seconds),
                        {"all": {"answer": "hello\n"}}, ("echo",), {})
    verdict = judge(scenario, variant, timeline=True)
    assert isinstance(verdict.error, Late) == (fault == "mute")
    assert (verdict.wrong == []) == (complaint == "")
    assert complaint in "\n".join(verdict.wrong)
    assert fault == "mute" or verdict.observed == {"answer": "hello\n"}
    json.dumps(verdict.timeline)                         # fit for a file


def test_a_scenario_is_judged_by_what_it_expects():
    def played(expect, function=lambda run: {"a": 1}, not_for={}):
        return judge(Scenario("one", "?", function, expect, ("echo",), not_for), variants("3")[0])

    def unavailable(run):
        raise Unavailable("no such thing here")

    assert played({"all": {"a": 1}}).wrong == []
    assert played({"all": {"a": 1}, "3": {"a": 2}}).wrong == ["a: expected 2, observed 1"]
    assert played({"all": {}}, unavailable).skipped == "no such thing here"
    assert played({"all": {}}, not_for={"1-3": "why"}).skipped == "why"
    broken = played({"all": {}}, lambda run: 1 / 0)
    assert isinstance(broken.error, ZeroDivisionError) and "division by zero" in broken.wrong[0]


def test_a_server_that_ends_is_not_waited_for(tmp_path):
    program = tmp_path / "server"
    program.write_text("#!/bin/sh\necho 'cannot listen' >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(Late, match="ended with 1.*(?s:.*)cannot listen"):
        Server(Variant("04_poll", "4", 4, program), ["echo"])


@pytest.fixture
def faults():
    try:
        return environment(variants("3")[0], "accept ENFILE 1 0 1")
    except Unavailable as why:
        pytest.skip(str(why))


def test_a_shim_is_loaded_from_any_folder(tmp_path, faults):
    folder = tmp_path / "a b:c'ü"                        # LD_PRELOAD is split at spaces and colons
    folder.mkdir()
    shim = shutil.copy(faults["LD_PRELOAD"], folder)
    with Server(variants("3")[0], ["echo"], env={**faults, "LD_PRELOAD": shim}) as server:
        with Client(server.address()):
            server.wait_for("accept", error="ENFILE")
        server.stop()
        assert server.complaints() == []                 # nothing on stderr, either


def test_a_shim_that_is_not_loaded_is_said(tmp_path, faults):
    shim = tmp_path / "shim.so"
    shim.write_text("no shared object\n")
    with pytest.raises((RuntimeError, Unavailable), match=f"{shim} was not loaded .*03_select"):
        Server(variants("3")[0], ["echo"], env={**faults, "LD_PRELOAD": str(shim)})


def test_unavailable_is_no_failure():
    assert not issubclass(Unavailable, AssertionError) and issubclass(Late, AssertionError)
