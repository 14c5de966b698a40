"""load, floor and bench: do they measure what they say, and does load notice a wrong byte?"""

from __future__ import annotations

import html.parser
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from typing import Callable, Optional

import pytest

from tests.bench.bench import at_most
from tests.harness import BUILD, DEADLINE, ROOT, SANITIZED, Server, variants
from tests.compare.test_compare import cut_off

pytestmark = pytest.mark.sources

LOAD = BUILD / "load"


@pytest.fixture(scope="module", autouse=True)
def built():
    if not (LOAD.exists() and (BUILD / "floor").exists()):
        folder = os.path.relpath(BUILD, ROOT)          # make cannot handle spaces, as above it
        subprocess.run(["make", f"BUILD={folder}", f"{folder}/load", f"{folder}/floor"], cwd=ROOT,
                       check=True)


def load(*words: object, wrong: bool = False):
    """What it says, as JSON; or with wrong=True its exit status and its line."""
    done = subprocess.run([str(LOAD), *map(str, words)], text=True, capture_output=True,
                          stdin=subprocess.DEVNULL, timeout=DEADLINE)
    if wrong:
        return done.returncode, done.stderr
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


class Echo:
    """An echo server of a few lines, whose answer can be tampered with."""

    def __init__(self, answer: Callable[[bytes, int], Optional[bytes]] = lambda data, at: data):
        """answer(data, at): what to send for these bytes, which begin at that place of the
        stream; None ends the connection."""
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        place = 0
        with peer:
            try:
                while data := peer.recv(16384):
                    answer = self._answer(data, place)
                    if answer is None:
                        return
                    place += len(data)
                    peer.sendall(answer)
            except OSError:
                return

    def __enter__(self) -> "Echo":
        return self

    def __exit__(self, *_: object) -> None:
        # Closed under the thread's hands, it might accept at the next listener with that number.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()


def at_place(wanted: int, change: Callable[[bytes, int], Optional[bytes]]):
    """Changes the answer that has that byte of the stream in it."""
    def answer(data: bytes, place: int) -> Optional[bytes]:
        inside = place <= wanted < place + len(data)
        return change(data, wanted - place) if inside else data
    return answer


# --- every byte -----------------------------------------------------------------------------

WRONG = {
    "changed": (lambda data, i: data[:i] + bytes([data[i] ^ 1]) + data[i + 1:],
                r"byte 1000 came back as 0x\w\w, not 0x\w\w"),
    "lost": (lambda data, i: data[:i] + data[i + 1:], r"byte 10\d\d came back as|nothing was ans"),
    "doubled": (lambda data, i: data[:i] + data[i:i + 1] + data[i:],
                r"byte 10\d\d came back as|more came back than was sent"),
    "ended": (lambda data, i: None, "the server ended it|Connection reset"),
    "silent": (lambda data, i: b"", "nothing was answered for 0.3 seconds; 1 messages are under"),
}


@pytest.mark.parametrize("how", WRONG)
def test_what_is_wrong_is_reported(how):
    change, line = WRONG[how]
    with Echo(at_place(1000, change)) as echo:
        status, said = load("-t", 1, "-w", 0, "-o", 0.3, echo.port, wrong=True)
    assert status == 1
    assert said.count("\n") == 1 and re.search(line, said), said


def test_a_byte_of_another_connection_is_reported():
    kept: list[bytes] = []
    lock = threading.Lock()

    def swap(data: bytes, place: int) -> bytes:
        with lock:
            kept.append(data)
            return kept[0] if len(kept) == 2 else data

    with Echo(swap) as echo:
        status, said = load("-c", 2, "-t", 1, "-w", 0, "-o", 0.3, echo.port, wrong=True)
    assert status == 1 and re.search(r"byte \d+ came back as", said), said


def test_nobody_listens():
    with socket.socket() as taken:         # bound, but not listening
        taken.bind(("127.0.0.1", 0))
        status, said = load(taken.getsockname()[1], wrong=True)
    assert status == 1 and said.count("\n") == 1 and "connect: Connection refused" in said


# --- how long it took -----------------------------------------------------------------------

def test_latency():
    def late(data: bytes, place: int) -> bytes:
        time.sleep(0.02)
        return data

    with Echo(late) as echo:
        [found] = load("-t", 0.2, "-w", 0, echo.port)["targets"]
    latency = found["latency_us"]
    assert 20_000 <= latency["p50"] <= latency["p99"] <= latency["p99.9"] <= latency["max"]
    assert latency["counted"] == found["messages"] <= 11
    assert found["bytes"] == 64 * found["messages"]


def test_a_stall_is_not_flattered():
    """At a fixed rate, all messages that fall into a stall are late; otherwise one would be."""
    began: list[float] = []

    def stalls(data: bytes, place: int) -> bytes:
        if place >= 1280 and not began:
            began.append(time.monotonic())
            time.sleep(0.2)
        return data

    with Echo(stalls) as echo:
        [found] = load("-t", 0.3, "-w", 0, "-r", 200, echo.port)["targets"]
    assert 40 < found["messages"] <= 60              # sixty, unless the machine has other work
    assert found["latency_us"]["max"] >= 195_000
    assert found["latency_us"]["p50"] >= 30_000      # forty of the sixty had to wait
    began.clear()
    with Echo(stalls) as echo:
        [found] = load("-t", 0.3, "-w", 0, echo.port)["targets"]
    assert found["latency_us"]["max"] >= 195_000
    assert found["latency_us"]["p50"] < found["latency_us"]["max"] / 4   # one of them had to wait


# --- what it cost ---------------------------------------------------------------------------

def test_cost_of_two_servers_in_turns():
    with Server(variants("5")[0], ("echo",), ["-q"]) as a, \
            Server(variants("6-epoll")[0], ("echo",), ["-q"]) as b:
        port = {server: server.address("echo")[1] for server in (a, b)}
        result = load("-c", 10, "-d", 2, "-s", 100, "-t", 0.2, "-w", 0.02, "-l", 20,
                      f"five={port[a]}:{a.pid}:20", f"six={port[b]}:{b.pid}")
        stats = {"five": a.stats(), "six": b.stats()}
        used = {"five": a.cpu(), "six": b.cpu()}
    assert [found["name"] for found in result["targets"]] == ["five", "six"]
    for found in result["targets"]:
        cost = found["cpu_ns_per_message"]
        assert len(cost["slices"]) == 10
        assert 0 < cost["low"] <= cost["median"] <= cost["high"]
        # What was counted is part of what the server used up, and of what it received.
        assert cost["mean"] * found["messages"] / 1e9 <= used[found["name"]] + 0.001
        assert stats[found["name"]]["bytes_in"] >= found["bytes"]
        assert stats[found["name"]]["bytes_in"] == stats[found["name"]]["bytes_out"]
        assert found["context_switches"]["voluntary"] >= 0
        assert found["memory"]["resident"] > 0
    assert stats["five"]["max_clients"] == 30 and stats["six"]["max_clients"] == 10
    assert result["targets"][0]["silent"] == 20
    assert result["targets"][0]["memory"]["per_silent"] is not None


def test_silent_connections_only():
    with Server(variants("4")[0], ("echo",), ["-q"]) as server:
        [found] = load("-c", 0, "-k", 1500,
                       f"{server.address('echo')[1]}:{server.pid}")["targets"]
        assert server.stats()["accept"] == 1500
    assert found["silent"] == 1500
    if not SANITIZED:
        assert 0 < found["memory"]["per_silent"] < 2000


def test_connections_used_once():
    with Server(variants("3")[0], ("echo",), ["-q"]) as server:
        [found] = load("-m", "connect", "-c", 4, "-t", 0.1, "-w", 0,
                       f"{server.address('echo')[1]}:{server.pid}")["targets"]
        server.wait_until(lambda: server.sockets() == 1, "all gone")
        assert server.stats()["accept"] == found["messages"] > 4


def test_chat():
    with Server(variants("5")[0], ("chat",), ["-q"]) as server:
        [found] = load("-m", "chat", "-c", 20, "-d", 2, "-t", 0.1, "-w", 0, "-s", 30,
                       f"{server.address('chat')[1]}:{server.pid}")["targets"]
        assert found["messages"] % 20 == 0 and found["messages"] > 0
        assert server.stats()["bytes_in"] == 30 * found["messages"] / 20


def test_chat_with_an_echo_server():
    with Echo() as echo:
        status, said = load("-m", "chat", "-o", 0.2, echo.port, wrong=True)
    assert status == 1 and said.count("\n") == 1 and "did not reach" in said


def test_the_floor():
    with subprocess.Popen([str(BUILD / "floor")], stdout=subprocess.PIPE, text=True) as floor:
        try:
            port = re.search(r"address=127.0.0.1:(\d+)", floor.stdout.readline())[1]
            assert load("-s", 20_000, "-t", 0.05, "-w", 0, port)["targets"][0]["messages"] > 0
        finally:
            floor.kill()


@pytest.mark.parametrize("words, said", [
    ([], "which server?"), (["-c", "x", "1"], "-c 'x': a whole number from 0"),
    (["-c", "1.5", "1"], "a whole number"), (["-s", "0", "1"], "from 1"), (["-t"], "wants a value"),
    (["-t", "nan", "1"], "a number"), (["-z"], "unknown option"), (["0"], "is no server"),
    (["65536"], "is no server"), (["1:2:3:4"], "is no server"), (["x=y"], "is no server"),
    (["1:999999999"], "no process"), (["-m", "sing", "1"], "echo, connect or chat"),
    (["-m", "chat", "-r", "5", "1"], "-r goes with"), (["-a", "localhost", "1"], "-a 'localhost'"),
    (["-m", "chat", "-s", "5000", "1"], "2 to 4097"), (["-p", "5000", "1"], "-p '5000'")])
def test_bad_words(words, said):
    status, line = load(*words, wrong=True)
    assert status == 2 and line.count("\n") == 1 and line.startswith("load: ") and said in line


def test_help():
    done = subprocess.run([str(LOAD), "-h"], text=True, capture_output=True)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.startswith("usage: load ")


# --- the bench ------------------------------------------------------------------------------

def bench(*words: str, seconds: float = DEADLINE, **env: str):
    return subprocess.run([sys.executable, "-m", "tests.bench", *words], text=True,
                          capture_output=True, stdin=subprocess.DEVNULL, timeout=seconds,
                          env={**os.environ, "NO_COLOR": "1", "RIVALS": "", **env})


class Page(html.parser.HTMLParser):
    """Its ids, where its links go, and its text."""
    EMPTY = {"meta", "circle", "rect", "path", "line", "br"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            if key == "id":
                self.ids.append(value)
            elif key in ("src", "xlink:href") or (key == "href" and not value.startswith("#")):
                self.fetched.append(value)
            elif key == "href":
                self.links.append(value[1:])
            elif key == "aria-labelledby":
                self.links += value.split()
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.EMPTY and (not self.open or self.open.pop() != tag):
            self.wrong.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.EMPTY:
            self.handle_endtag(tag)

    def handle_data(self, data):
        self.text.append(data)


@pytest.mark.skipif(SANITIZED, reason="the bench refuses sanitized programs")
def test_bench(tmp_path):
    done = bench("--quick", "--scale", "0.03", "--out", str(tmp_path), "--only",
                 "busy: 1 conn|silent ones: 3|chat: 10 |start-up|stalls: 16")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "bench.json").read_text())
    figures = results["figures"]
    for name in ("floor", "1", "2", "3", "4", "5", "6-select", "6-poll", "6-epoll"):
        found = figures["busy"]["1"][name]
        assert found["cpu"]["median"] > 0 and found["per_second"]["median"] > 0
        assert found["times_floor"] == pytest.approx(
            found["cpu"]["median"] / figures["busy"]["1"]["floor"]["cpu"]["median"], rel=0.001)
    assert [point["silent"] for point in figures["silent"]["3"]["points"]] == [10, 100, 900]
    assert figures["ratios"]["1"]["5/floor"]["median"] > 0
    assert "about" in done.stderr and "left" in done.stderr
    page = Page((tmp_path / "bench.html").read_text(encoding="utf-8"))
    assert not page.wrong and not page.open and not page.fetched
    assert cut_off((tmp_path / "bench.html").read_text(encoding="utf-8")) == []
    assert len(page.ids) == len(set(page.ids)) and set(page.links) <= set(page.ids)
    shown = set(page.text)
    for table in results["tables"]:
        for row in table["rows"]:
            assert {row["name"], *row["cells"]} <= shown
            line = next(line for line in done.stdout.splitlines() if line.startswith(row["name"]))
            assert line
    for aim in results["aims"]:
        assert {aim["aim"], aim["shown"], aim["wanted"]} <= shown
        assert f"{aim['aim']}: {aim['shown']} ({aim['wanted']})" in done.stdout
    again = bench("--again", "--markdown", "--out", str(tmp_path))
    assert again.returncode == 0 and "| 5 epoll |" in again.stdout


@pytest.mark.parametrize("ascii_only", [
    {}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}], ids=["", "ascii"])
def test_a_compiler_of_any_name_is_asked_for_its_version(tmp_path, ascii_only):
    compiler = tmp_path / "a b'ü"
    compiler.write_text("#!/bin/sh\necho version 1\n")
    compiler.chmod(0o755)
    built = f"{shlex.quote(str(compiler))} -std=c++20 -DX='a b'"
    (tmp_path / "compiled-with").write_text(built + "\n", encoding="utf-8")
    script = "from tests.bench import bench; print(ascii(bench.machine()['built']))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, text=True,
                          env={**os.environ, "BUILD": str(tmp_path), **ascii_only},
                          capture_output=True, timeout=DEADLINE)
    assert done.stdout == ascii(f"{built}  (version 1)") + "\n", done.stderr


@pytest.mark.parametrize("figure, limit, shown", [
    (250.04, 250, "250.04 bytes"), (250.0000004, 250, "250.0000004 bytes"), (251, 250, "251 bytes"),
    (249.99, 250, "250 bytes"), (250, 250, "250 bytes"), (0.1, 250, "0 bytes")])
def test_a_verdict_can_be_seen_from_its_figure(figure, limit, shown):
    found = at_most("memory", limit, figure, " bytes", 0)
    assert (found["shown"], found["met"]) == (shown, figure <= limit)


@pytest.mark.parametrize("words, env, said", [
    (["--scale", "0"], {}, "--scale"), ([], {"RIVALS": "x"}, "name=program is wanted"),
    ([], {"RIVALS": "x=/nowhere/y"}, "/nowhere/y is no program")])
def test_bench_bad_words(words, env, said):
    done = bench(*words, **env)
    assert done.returncode == 2 and said in done.stderr.splitlines()[-1]
