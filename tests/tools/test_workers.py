"""Several workers (tests/variants/workers.patch): what the scenarios, which play it with one, do
not see; and herd, which counts how many of them a newcomer wakes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.harness import DEADLINE, SANITIZED, Client, Process, Server, own_host, run_program
from tests.harness.narration import complaints
from tests.tools import herd
from tests.tools.running import wait_until

pytestmark = [pytest.mark.sources, pytest.mark.skipif(
    not (sys.platform == "linux" and shutil.which("git")), reason="for Linux; git applies patches")]

AT_ONCE = 4 if SANITIZED else 1                   # seconds; a worker that hangs has five
ALL_WAYS = pytest.mark.parametrize("way", herd.WAYS)


def lives(pid: int) -> bool:
    """A zombie does not."""
    try:
        return Process(pid).state() not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def worker_of(server: Server, client: Client) -> int:
    """Which one has accepted it."""
    [number] = [number for number, events in herd.lines(server).items()
                for event in events if event.get("peer") == client.peername]
    return number


def answered(server: Server) -> None:
    with Client(server.address("echo")) as client:
        assert client.exchange(b"hello\n") == b"hello\n"
        worker_of(server, client)                  # one, and no other


@ALL_WAYS
def test_workers_serve_and_each_of_them_narrates_its_own(way):
    with herd.start(4, "-l", way, "-v", services=("echo", "chat")) as server:
        with Client(server.address("chat")) as member:
            member.send(b"/who\n")
            heard = [member.recv_line(), member.recv_line()]
            for _ in range(30):
                answered(server)
            server.send_signal(signal.SIGUSR1)
            wait_until(lambda: len(herd.last(server, "stats")) == 4, "stats of each")
            listeners = len(server.listening())
            # Of its own: its listeners and its client, if it has one. No other worker's.
            for pid in herd.pids(server).values():
                assert Process(pid).sockets() <= 3
            stopped = server.stop()
            heard.append(member.recv_until_eof())
    assert stopped.status == 0 and stopped.seconds < AT_ONCE
    assert server.stderr() == ""
    assert heard == [b"* you are guest-1, alone here\n", b"* here: guest-1\n",
                     b"* the server stops\n"]
    assert listeners == (8 if way == "own" else 2)
    assert [event["text"] for event in server.all("note")] == \
        ["each of the 4 workers has its own chat room"]
    narrated = herd.lines(server)
    assert sorted(narrated) == [1, 2, 3, 4]
    for number, events in narrated.items():
        # The parent has opened its listeners; their numbers are the same in the worker.
        own = server.listening()[2 * (number - 1):2 * number] if way == "own" else \
            server.listening()
        assert complaints([server.events[0], *own, *events[1:]], stage=5, arguments=["-v"]) == []
    busy = [event["max_clients"] for event in herd.last(server, "stats").values()]
    assert way != "own" or sum(map(bool, busy)) > 1
    assert len(server.malformed) == sum(map(len, narrated.values())), "a line that is not whole"


def test_each_worker_has_a_chat_room_of_its_own():
    with herd.start(2, services=("chat",)) as server:
        rooms: dict[int, list[str]] = {1: [], 2: []}
        members = []
        try:
            while not (rooms[1] and rooms[2]) or len(members) < 4:
                assert len(members) < 64
                members.append(Client(server.address("chat")))
                hello = members[-1].recv_line().decode()
                rooms[worker_of(server, members[-1])].append(hello)
        finally:
            for member in members:
                member.close()
        for hellos in rooms.values():
            assert hellos[0] == "* you are guest-1, alone here\n"
            assert all("here: guest-1" in hello for hello in hellos[1:])


@ALL_WAYS
def test_a_worker_that_dies_is_replaced_and_the_others_serve_on(way):
    with herd.start(3, "-l", way) as server:
        with Client(server.address()) as client:
            assert client.exchange(b"hello\n") == b"hello\n"
            before = herd.pids(server)
            dies = worker_of(server, client) % 3 + 1
            for _ in range(2):
                old = herd.pids(server)[dies]
                os.kill(old, signal.SIGKILL)
                assert client.exchange(b"still there?\n") == b"still there?\n"
                wait_until(lambda: herd.pids(server)[dies] != old, "another worker")
                for _ in range(10):
                    answered(server)
            starts = [event.time for event in herd.lines(server)[dies] if event.verb == "start"]
            assert len(starts) == 3
            # Once a second; a line is narrated somewhat later.
            assert all(b - a > 0.7 for a, b in zip(starts, starts[1:]))
            after = herd.pids(server)
            assert {number for number in after if after[number] != before[number]} == {dies}
            assert not lives(before[dies])
            assert [event["text"] for event in server.all("note")] == [
                f"worker {dies} (pid {pid}) ended: signal 9" for pid in (before[dies], old)]
        assert not Path(f"/proc/{old}").exists(), "a zombie is left"
        assert server.stop().status == 0


def test_clients_of_a_worker_that_died_wait_for_the_next():
    """Those that it has not accepted yet: the parent holds its listener."""
    with herd.start(2) as server:
        pids = herd.pids(server).values()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        clients = [Client(server.address()) for _ in range(10)]
        for client in clients:
            client.send(b"hello\n")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for client in clients:
            assert client.recv(6) == b"hello\n"
            client.close()
        assert server.stop().status == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_parent_ends_all(number):
    with herd.start(4, services=("greet",)) as server:
        pids = herd.pids(server).values()
        clients = [Client(server.address()) for _ in range(20)]
        for client in clients:
            client.recv_line()
        stopped = server.stop(number)
        assert stopped.status == 0 and stopped.seconds < AT_ONCE
        for client in clients:
            assert client.recv_until_eof() == b"goodbye: the server stops\n"
            client.close()
        assert not any(map(lives, pids))
        assert {events[-1].verb for events in herd.lines(server).values()} == {"stats"}
        assert {event["signal"] for event in herd.last(server, "stop").values()} == {number.name}


def test_a_signal_while_the_workers_start_ends_all():
    """Between the fork and the handler, too: whenever it comes."""
    for i in range(60):
        with Server(herd.variant(), ["echo"], ["-j", "8", "-q"], wait=False) as server:
            server.wait_for("start")               # it has a handler
            time.sleep(i * 0.0001)
            stopped = server.stop()
            # A worker that has missed it is killed after five seconds.
            assert stopped.status == 0 and stopped.seconds < AT_ONCE, i
            assert not any(map(lives, herd.pids(server).values())), i


def test_a_signal_to_one_worker_wakes_no_other():
    """The pipe that the parent's handler writes to was open in all of them."""
    with herd.start(4) as server:
        pids = herd.pids(server)
        told = pids.pop(1)
        others = [Process(pid) for pid in (server.pid, *pids.values())]
        herd.settle([Process(told), *others])
        before = herd.sleeps(others)
        for i in range(50):
            os.kill(told, signal.SIGUSR1)
            wait_until(lambda: len([event for event in herd.lines(server)[1]
                                    if event.verb == "stats"]) > i, "stats")
        assert herd.sleeps(others) == before
        assert list(herd.last(server, "stats")) == [1]


def test_a_worker_that_hangs_is_killed():
    with herd.start(2) as server:
        hangs = herd.pids(server)[2]
        os.kill(hangs, signal.SIGSTOP)
        wait_until(lambda: Process(hangs).state() == "T", "stopped")
        assert server.stop(seconds=2 * DEADLINE).status == 0
        assert not lives(hangs)


def test_a_parent_that_is_killed_leaves_nobody_behind():
    with herd.start(4, services=("greet",)) as server:
        pids = list(herd.pids(server).values())
        with Client(server.address()) as client:
            assert client.recv_line().startswith(b"welcome")
            server.kill()
            wait_until(lambda: not any(map(lives, pids)), f"the end of {pids}")
            assert client.recv_until_eof() == b"goodbye: the server stops\n"


def test_idle_workers_and_their_parent_sleep():
    with herd.start(3) as server:
        everybody = [Process(pid) for pid in (server.pid, *herd.pids(server).values())]
        herd.settle(everybody)
        used = [process.cpu() for process in everybody]
        time.sleep(1.2)                            # a second is how soon a worker may be replaced
        assert used == [process.cpu() for process in everybody]


@ALL_WAYS
def test_a_second_start_on_the_same_port_is_refused(way):
    with herd.start(2, "-l", way, "-a", own_host()) as server:
        port = server.address()[1]
        done = run_program(herd.variant(), "-j", "2", "-l", way, "-a", own_host(), "-e", str(port))
        assert (done.returncode, done.stderr) == (
            1, f"workers: cannot listen on {own_host()} port {port}: Address already in use\n")


def test_it_starts_where_children_are_ignored():
    """SIGCHLD ignored is inherited, and then nobody is told how a child has ended."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        server = herd.start(2)
    finally:
        signal.signal(signal.SIGCHLD, before)
    with server:
        old = herd.pids(server)[1]
        os.kill(old, signal.SIGKILL)
        server.wait_for("note", text=f"worker 1 (pid {old}) ended: signal 9")
        assert server.stop().status == 0


@pytest.mark.parametrize("limit", range(5, 10))
def test_too_few_descriptors_to_start_get_one_line(limit):
    with Server(herd.variant(), ["echo"], ["-j", "2"], nofile=(limit, limit), wait=False,
                env={"ASAN_OPTIONS": "detect_leaks=0"}) as server:
        assert server.wait_end() == 1
        assert len(server.stderr().splitlines()) == 1
        wait_until(lambda: not any(map(lives, herd.pids(server).values())), "the end of all")


@pytest.mark.parametrize("words, wanted", [
    ("-j 0", "1 to 64"), ("-j 65", "1 to 64"), ("-j x", "1 to 64"), ("-j 1.5", "whole"),
    ("-j", "a value"), ("-l x", "own, shared or exclusive"), ("-l", "a value")])
def test_a_bad_word_gets_one_line(words, wanted):
    done = run_program(herd.variant(), *words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert wanted in done.stderr and words[:2] in done.stderr


def test_as_many_workers_as_there_are_cpus():
    may = os.sched_getaffinity(0)
    with Server(herd.variant(), ["echo"]) as server:
        wanted = min(64, len(may)) if len(may) > 1 else 0      # one is the process itself
        server.wait_until(lambda: len(herd.pids(server)) == wanted, f"{wanted} workers")
    os.sched_setaffinity(0, {min(may)})
    try:
        server = Server(herd.variant(), ["echo"])
    finally:
        os.sched_setaffinity(0, may)
    with server, Client(server.address()) as client:
        assert client.exchange(b"hello\n") == b"hello\n"
        assert server.stop().stats["accept"] == 1 and server.complaints() == []
        assert herd.pids(server) == {}


def _herd(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tests.tools.herd", *words], text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=6 * DEADLINE)


def test_herd():
    done = _herd("--connections", "20")
    assert (done.returncode, done.stderr) == (0, "")
    table = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()[3:]}
    assert list(table) == list(herd.WAYS)
    woken = {way: float(row[0]) for way, row in table.items()}
    assert 1 <= woken["own"] < 1.5 and 1 <= woken["exclusive"] < 2 and woken["shared"] > 2
    for way, (_, vain, *accepted) in table.items():
        assert sum(map(int, accepted)) == 20 and len(accepted) == 4
        assert way == "shared" or float(vain) < 1


@pytest.mark.parametrize("words", [["--workers", "x"], ["--workers", "1"], ["nonsense"]])
def test_a_bad_word_to_herd_gets_one_line(words):
    done = _herd(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("herd: ")
