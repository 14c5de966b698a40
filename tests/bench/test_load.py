"""load and floor: do they measure what they say, and does load notice a wrong byte?"""

from __future__ import annotations

import json
import re
import socket
import socketserver
import subprocess
import threading
import time
from typing import Callable, Optional

import pytest

from tests.harness import BUILD, DEADLINE, SANITIZED, Server, variants

pytestmark = pytest.mark.sources

LOAD = BUILD / "load"


def run(*words: object):
    return subprocess.run([str(LOAD), *map(str, words)], text=True, capture_output=True,
                          stdin=subprocess.DEVNULL, timeout=DEADLINE)


def load(*words: object):
    """What it says of each server."""
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)["targets"]


def refused(*words: object, status: int = 1) -> str:
    """The one line with which it ends."""
    done = run(*words)
    assert done.returncode == status
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("load: ")
    return done.stderr


# answer(data, at): what to send for these bytes, which begin at that place of the stream; None
# ends the connection.
Answer = Callable[[bytes, int], Optional[bytes]]


class Echo(socketserver.ThreadingTCPServer):
    """An echo server of a few lines, whose answer can be tampered with."""
    daemon_threads = True
    disable_nagle_algorithm = True

    def __init__(self, answer: Answer = lambda data, at: data) -> None:
        super().__init__(("127.0.0.1", 0), None)
        self.answer, self.port = answer, self.server_address[1]
        self._serving = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._serving.start()

    def finish_request(self, peer: socket.socket, address: object) -> None:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        place = 0
        try:
            while data := peer.recv(16384):
                answer = self.answer(data, place)
                if answer is None:
                    return
                place += len(data)
                peer.sendall(answer)
        except OSError:
            return

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        super().__exit__()


def at_place(wanted: int, change: Answer) -> Answer:
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
        said = refused("-t", 1, "-w", 0, "-o", 0.3, echo.port)
    assert re.search(line, said), said


def test_a_byte_of_another_connection_is_reported():
    kept: list[bytes] = []
    lock = threading.Lock()

    def swap(data: bytes, place: int) -> bytes:
        with lock:
            kept.append(data)
            return kept[0] if len(kept) == 2 else data

    with Echo(swap) as echo:
        said = refused("-c", 2, "-t", 1, "-w", 0, "-o", 0.3, echo.port)
    assert re.search(r"byte \d+ came back as", said), said


def test_nobody_listens():
    with socket.socket() as taken:         # bound, but not listening
        taken.bind(("127.0.0.1", 0))
        assert "connect: Connection refused" in refused(taken.getsockname()[1])


# --- how long it took -----------------------------------------------------------------------

def test_latency():
    def late(data: bytes, place: int) -> bytes:
        time.sleep(0.02)
        return data

    with Echo(late) as echo:
        [found] = load("-t", 0.2, "-w", 0, echo.port)
    latency = found["latency_us"]
    assert 20_000 <= latency["p50"] <= latency["p99"] <= latency["p99.9"] <= latency["max"]
    assert latency["counted"] == found["messages"] <= 11
    assert found["bytes"] == 64 * found["messages"]


@pytest.mark.parametrize("rate", [(), ("-r", 200)], ids=["", "at a rate"])
def test_a_stall_is_not_flattered(rate):
    """At a fixed rate, all messages that fall into a stall are late; otherwise one would be."""
    began: list[float] = []

    def stalls(data: bytes, place: int) -> bytes:
        if place >= 1280 and not began:
            began.append(time.monotonic())
            time.sleep(0.2)
        return data

    with Echo(stalls) as echo:
        [found] = load("-t", 0.3, "-w", 0, *rate, echo.port)
    latency = found["latency_us"]
    assert latency["max"] >= 195_000
    if rate:
        assert 40 < found["messages"] <= 60          # sixty, unless the machine has other work
        assert latency["p50"] >= 30_000              # forty of the sixty had to wait
    else:
        assert latency["p50"] < latency["max"] / 4   # one of them had to wait


# --- what it cost ---------------------------------------------------------------------------

def started(stage: str, service: str = "echo") -> Server:
    return Server(variants(stage)[0], (service,), ["-q"])


def named(server: Server, service: str = "echo") -> str:
    return f"{server.address(service)[1]}:{server.pid}"


def test_cost_of_two_servers_in_turns():
    with started("5") as a, started("6-epoll") as b:
        targets = load("-c", 10, "-d", 2, "-s", 100, "-t", 0.2, "-w", 0.02, "-l", 20,
                       f"five={named(a)}:20", f"six={named(b)}")
        stats, used = [a.stats(), b.stats()], [a.cpu(), b.cpu()]
    assert [found["name"] for found in targets] == ["five", "six"]
    for found, stat, cpu in zip(targets, stats, used):
        cost = found["cpu_ns_per_message"]
        assert len(cost["slices"]) == 10
        assert 0 < cost["low"] <= cost["median"] <= cost["high"]
        # What was counted is part of what the server used up, and of what it received.
        assert cost["mean"] * found["messages"] / 1e9 <= cpu + 0.001
        assert stat["bytes_in"] >= found["bytes"]
        assert stat["bytes_in"] == stat["bytes_out"]
        assert found["context_switches"]["voluntary"] >= 0
        assert found["memory"]["resident"] > 0
    assert [stat["max_clients"] for stat in stats] == [30, 10]
    assert targets[0]["silent"] == 20
    assert targets[0]["memory"]["per_silent"] is not None


def test_silent_connections_only():
    with started("4") as server:
        [found] = load("-c", 0, "-k", 1500, named(server))
        assert server.stats()["accept"] == 1500
    assert found["silent"] == 1500
    if not SANITIZED:
        assert 0 < found["memory"]["per_silent"] < 2000


def test_connections_used_once():
    with started("3") as server:
        [found] = load("-m", "connect", "-c", 4, "-t", 0.1, "-w", 0, named(server))
        server.wait_until(lambda: server.sockets() == 1, "all gone")
        assert server.stats()["accept"] == found["messages"] > 4


def test_chat():
    with started("5", "chat") as server:
        [found] = load("-m", "chat", "-c", 20, "-d", 2, "-t", 0.1, "-w", 0, "-s", 30,
                       named(server, "chat"))
        assert found["messages"] % 20 == 0 and found["messages"] > 0
        assert server.stats()["bytes_in"] == 30 * found["messages"] / 20


def test_chat_with_an_echo_server():
    with Echo() as echo:
        assert "did not reach" in refused("-m", "chat", "-o", 0.2, echo.port)


def test_the_floor():
    with subprocess.Popen([str(BUILD / "floor")], stdout=subprocess.PIPE, text=True) as floor:
        try:
            port = re.search(r"address=127.0.0.1:(\d+)", floor.stdout.readline())[1]
            assert load("-s", 20_000, "-t", 0.05, "-w", 0, port)[0]["messages"] > 0
        finally:
            floor.kill()


@pytest.mark.parametrize("words, said", [
    ("", "which server?"), ("-c x 1", "-c 'x': a whole number from 0"),
    ("-c 1.5 1", "a whole number"), ("-s 0 1", "from 1"), ("-t", "wants a value"),
    ("-t nan 1", "a number"), ("-z", "unknown option"), ("0", "is no server"),
    ("65536", "is no server"), ("1:2:3:4", "is no server"), ("1:", "is no server"),
    ("x=y", "is no server"), ("1:999999999", "no process"), ("-m sing 1", "echo, connect or chat"),
    ("-m chat -r 5 1", "-r goes with"), ("-a localhost 1", "-a 'localhost'"),
    ("-m chat -s 5000 1", "2 to 4097"), ("-p 5000 1", "-p '5000'")])
def test_bad_words(words, said):
    assert said in refused(*words.split(), status=2)


def test_help():
    done = run("-h")
    assert done.returncode == 0 and done.stderr == "" and done.stdout.startswith("usage: load ")
