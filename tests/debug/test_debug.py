"""`make debug-4` and `make trace-4`, and what an editor is told of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.debug.__main__ import STEPS, script
from tests.harness import BUILD, DEADLINE, FOLDERS, ROOT, Client, poll_one
from tests.tools.running import make

pytestmark = pytest.mark.sources

STAGES = pytest.mark.parametrize("number", range(1, 7))
NOT_PERMITTED = re.compile(r"(ptrace|PTRACE_TRACEME|trace the inferior).*(not permitted|process)")


class Session:
    """A command that make starts, with what it says, and a server in it."""

    def __init__(self, tool, *words, home="/nonexistent"):
        if not shutil.which(tool):
            pytest.skip(f"there is no {tool} here")
        self.said = ""
        self.process = subprocess.Popen(
            make(*words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "HOME": str(home)}, start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            for pid in re.findall(r" pid=(\d+)", self.said)[:1]:   # gdb gives it a group of its own
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    pass
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def read(self, pattern, seconds=DEADLINE):
        """What is said from now on, up to that; without a pattern, to the end."""
        begin, until = len(self.said), time.monotonic() + seconds
        while not (pattern and re.search(pattern, self.said[begin:], re.M)):
            left = until - time.monotonic()
            assert left > 0 and poll_one(self.process.stdout.fileno(), 1, left), \
                f"it never said {pattern!r}:\n{self.said}"
            data = os.read(self.process.stdout.fileno(), 65536).decode()
            if NOT_PERMITTED.search(data):
                pytest.skip("this system lets no debugger trace a program")
            if not data:
                assert not pattern, f"it ended before it said {pattern!r}:\n{self.said}"
                break
            self.said += data
        return self.said[begin:]

    def write(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, *lines):
        """Of gdb; what it answers to the last."""
        for line in lines:
            self.write(line)
            answer = self.read(r"^(\(gdb\) )+\Z")
        return answer

    def address(self):
        return "127.0.0.1", int(re.search(r" address=127.0.0.1:(\d+)", self.said)[1])

    def interrupt(self):
        os.kill(int(re.search(r" pid=(\d+)", self.said)[1]), signal.SIGINT)


def debug(number, arguments, home):
    session = Session("gdb", f"debug-{number}", f"ARGS={arguments}", home=home)
    try:
        session.read(r"^\(gdb\) \Z", 4 * DEADLINE)     # it is compiled before
    except BaseException:
        session.__exit__()
        raise
    return session


WATCHED = {3: "POLLIN|POLLPRI", 4: "events=POLLIN|POLLPRI revents=POLLIN",
           5: "EPOLLIN|EPOLLPRI|EPOLLERR|EPOLLHUP", 6: "POLLIN|POLLPRI, and its callback"}


@STAGES
def test_debug_stops_before_the_wait_and_shows_the_state(number, tmp_path):
    folder = FOLDERS[number - 1]
    with debug(number, "-g 0", tmp_path) as gdb:
        first = {1: "calls_.accept(listener)", 2: "try_all"}.get(number, "wait")
        stop = re.search(r"^Breakpoint (\d+), .*?^(\d+)\t(.*)", gdb.said, re.M | re.S)
        assert stop and stop[1] == "1" and first in stop[0] and f"at {folder}/server.cpp" in stop[0]
        assert f"{folder} has stopped before " in gdb.said and f"make client-{number}" in gdb.said
        assert "Error" not in gdb.said and "rror in" not in gdb.said
        # All that it names is there, once.
        table = gdb.ask("info breakpoints")
        assert len(re.findall(rf" at {folder}/server.cpp:\d+$", table, re.M)) == len(STEPS[number])
        assert "PENDING" not in table and "MULTIPLE" not in table
        assert re.search(r"^clients?: none$", gdb.ask("suite-state"), re.M)

        with Client(gdb.address()) as client:
            send = "send_all" if number == 1 else "write_to"
            assert send in gdb.ask("disable", f"tbreak Server::{send}", "continue")
            fd = re.search(r" accept +fd=(\d+)", gdb.said)[1]
            assert f"fd {fd} greet, outbox: 62 bytes 'welcome: every line" in gdb.ask("suite-state")
            client.send(b"hello\n")
            assert "receive" in gdb.ask("tbreak Services::receive", "continue")
            state = gdb.ask("suite-state")
            assert f"fd {fd} greet, outbox: 0 bytes" in state
            if number >= 3:
                assert f"fd {fd} client: {WATCHED[number]}\n" in state
                listener = re.search(r" listen +fd=(\d+)", gdb.said)[1]
                assert re.search(rf"^    fd {listener} listener, greet: .*POLLIN", state, re.M)
                assert f"ready list of the last wait:\n    fd {fd} client: POLLIN\n" in state
            else:
                assert "watched: nothing" in state

            gdb.write("continue")
            assert client.recv_line().startswith(b"welcome")
            assert client.recv_line() == b"hello good\n"
            gdb.interrupt()                            # for the server, and no stop in gdb
            said = gdb.read(r"^(\(gdb\) )+\Z")
            assert client.recv_until_eof() == b"goodbye: the server stops\n"
        assert " stats " in said and "exited normally" in said and "Program received" not in said
        gdb.write("quit")
        gdb.read(None)
        assert gdb.process.wait(DEADLINE) == 0


def test_a_step_does_not_fall_into_the_library(tmp_path):
    with debug(4, "-e 0", tmp_path) as gdb, Client(gdb.address()):
        lines = (ROOT / FOLDERS[3] / "server.cpp").read_text().splitlines()
        line = next(i for i, text in enumerate(lines, 1) if "finished_.reserve(" in text)
        assert "reserve" in gdb.ask("disable", f"tbreak 04_poll/server.cpp:{line}", "continue")
        assert re.search(rf"^{line + 1}\t", gdb.ask("step"), re.M)


def test_a_server_that_cannot_start_says_why(tmp_path):
    with debug(3, "-e 0", tmp_path) as first:
        port = first.address()[1]
        with Session("gdb", "debug-3", f"ARGS=-e {port}", home=tmp_path) as second:
            said = second.read(None)
            assert "cannot listen on 127.0.0.1" in said and "has stopped" not in said
            assert second.process.wait(DEADLINE) == 2          # make's, of our 1


def test_a_gdb_without_python_is_told_in_its_own_words():
    told = script(BUILD / "debug" / FOLDERS[4], [], python=False)
    assert "python" not in told and "source" not in told and "no Python" in told
    assert [line for line in told.splitlines() if line.startswith("break ")] == \
        [f"break Server::{step}" for step in STEPS[5]]


def test_debug_names_a_client_for_the_port():
    told = script(BUILD / "debug" / FOLDERS[4], ["-t", "1", "-c", "7000"], python=True)
    assert 'make client-5 SERVICE=chat ARGS="--port 7000"' in told


WAITS = {"1": None, "2": None, "3": "pselect6", "4": "poll", "5": "epoll_wait",
         "6 select": "pselect6", "6 poll": "poll", "6 epoll": "epoll_wait"}


@pytest.mark.parametrize("stage", WAITS)
def test_trace_shows_the_calls_of_a_message_in_order(stage):
    number, _, selector = stage.partition(" ")
    arguments = "ARGS=-e 0" + (f" -s {selector}" if selector else "")
    with Session("strace", f"trace-{number}", arguments) as trace:
        trace.read(r" address=127.0.0.1:\d+$", 4 * DEADLINE)
        with Client(trace.address()) as client:
            trace.read(r"^accept\(.*\) = \d+$")
            assert client.exchange(b"hello\n") == b"hello\n"
        fd = re.search(r"^accept\(.*\) = (\d+)$", trace.said, re.M)[1]
        if f"close({fd})" not in trace.said:
            trace.read(rf"^close\({fd}\)")
        trace.interrupt()
        trace.read(None)
        assert trace.process.wait(DEADLINE) == 0, trace.said
    assert ("shows as pselect6" in trace.said) == (WAITS[stage] == "pselect6")
    assert f'recvfrom({fd}, "hello\\n", ' in trace.said and "--- SIGINT" in trace.said
    calls = re.findall(r"^(\w+)\((?!\))", trace.said, re.M)
    calls = [{"ppoll": "poll", "epoll_pwait": "epoll_wait", "select": "pselect6"}.get(call, call)
             for call in calls if call != "epoll_ctl"]
    begin, wait = calls.index("accept"), [WAITS[stage]] * bool(WAITS[stage])
    assert calls[0] == "listen" and calls[1:begin] == wait
    assert calls[begin:calls.index("close") + 1] == [
        "accept", *wait, "recvfrom", "sendto", *wait, "recvfrom", "close"]


@pytest.mark.parametrize("tool", ["gdb", "strace"])
def test_a_missing_tool_is_named_with_its_package(tool, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.debug", tool, str(BUILD / FOLDERS[2]), "--"], cwd=ROOT,
        env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 1 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and f"apt-get install {tool}" in done.stderr


# --- the editor -----------------------------------------------------------------------------------

def read(name):
    return json.loads((ROOT / name).read_text())


def test_the_editor_starts_and_runs_what_there_is():
    launch, tasks = read(".vscode/launch.json"), read(".vscode/tasks.json")
    labels = {task["label"]: task["command"] for task in tasks["tasks"]}
    assert {"build", "demo", "run", "test"} <= set(labels)
    (entry,), (stage,), (number,) = launch["configurations"], launch["inputs"], tasks["inputs"]
    assert entry["program"] == "${workspaceFolder}/build/debug/${input:" + stage["id"] + "}"
    assert [option["value"] for option in stage["options"]] == list(FOLDERS)
    assert "BUILD=build/debug" in labels[entry["preLaunchTask"]]
    assert [option["label"] for option in number["options"]] == \
        [option["label"] for option in stage["options"]]
    for command in entry["setupCommands"]:
        for path in re.findall(r"\$\{workspaceFolder\}/(\S+)", command["text"]):
            assert (ROOT / path).exists(), path
    for command in sorted({command.replace("${input:" + number["id"] + "}", option["value"])
                           for command in labels.values() for option in number["options"][::5]}):
        first, *words = command.split()
        done = subprocess.run(make("-n", *words), capture_output=True, text=True, timeout=DEADLINE)
        assert first == "make" and done.returncode == 0, done.stderr


def test_the_container_has_what_the_suite_uses():
    container = read(".devcontainer/devcontainer.json")
    assert re.fullmatch(r"debian:\w+", container["image"])
    assert "SYS_PTRACE" in container["capAdd"]             # gdb, strace
    packages = container["postCreateCommand"].partition("--no-install-recommends ")[2].split()
    assert {"g++", "make", "git", "python3", "python3-pytest", "gdb", "strace",
            "netcat-openbsd", "iproute2"} <= set(packages)
