"""foreground.py: between make and a program, so that Ctrl-C and a hang-up end both of them well."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.harness import DEADLINE, Process
from tests.output.terminal import Screen
from tests.tools.running import FOREGROUND, make, run, wait_until

pytestmark = pytest.mark.sources


@pytest.fixture(autouse=True)
def hang_ups_count():
    """Though these tests may run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("command, status", [
    ("exit 0", 0), ("exit 3", 3), ("exit 130", 130), ("kill -KILL $$", 137)])
def test_the_status_is_the_programs(command, status):
    assert subprocess.run([*FOREGROUND, "sh", "-c", command]).returncode == status


def test_a_program_that_is_not_there_gets_one_line():
    done = run([*FOREGROUND, "build/no_such"])
    assert done.returncode == 127 and done.stdout == b""
    assert done.stderr == b"build/no_such: No such file or directory\n"


def _started(script: str, **how: object) -> subprocess.Popen[str]:
    """That script under foreground.py; it has said "ready"."""
    process = subprocess.Popen([*FOREGROUND, sys.executable, "-c", script], text=True,
                               stdout=subprocess.PIPE, **how)
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_make_sends_ends_the_program(number):
    """A hang-up, too, comes as SIGTERM: the servers have no handler for SIGHUP."""
    script = ("import signal, sys\n"
              "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
              "print('ready', flush=True)\nsignal.pause()")
    # The tests may themselves have been started by nohup.
    process = _started(script, preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))
    process.send_signal(number)
    assert process.wait(DEADLINE) == 5


def test_what_is_ignored_stays_ignored():
    """nohup make run-5 & : neither Ctrl-C nor a hang-up ends it."""
    def ignore() -> None:
        for number in signal.SIGINT, signal.SIGHUP:
            signal.signal(number, signal.SIG_IGN)

    script = ("import signal, sys\n"
              "print('ready', flush=True)\n"
              "sys.exit(signal.getsignal(signal.SIGINT) == signal.getsignal(signal.SIGHUP)\n"
              "         == signal.SIG_IGN)")
    process = _started(script, preexec_fn=ignore)
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE) == 1


def test_ctrl_c_in_a_server_started_by_make():
    for _ in range(5):
        with Screen(make("run-3", "ARGS=-e 0")) as screen:
            screen.wait_for("listen ")
            screen.type("\x03")
            ended = screen.end()
        assert b"stop    signal=SIGINT" in screen.shown and b" stats " in screen.shown
        assert b"make" not in screen.shown, screen.shown
        assert ended == -signal.SIGINT                    # make's own end, which a shell wants


def test_the_program_is_gone_before_make_has_its_turn():
    """On a busy machine make may be the last to run. Here it is stopped meanwhile."""
    with Screen(make("run-3", "ARGS=-e 0")) as screen:
        screen.wait_for("listen ")
        os.kill(screen.pid, signal.SIGSTOP)
        # Or SIGINT, the lower number, is first.
        wait_until(lambda: Process(screen.pid).state() == "T", "make is stopped")
        children = Path(f"/proc/{screen.pid}/task/{screen.pid}/children").read_text().split()
        screen.type("\x03")
        screen.wait_for(" stats ")
        time.sleep(0.2)                                   # a window to look through
        states = [Process(int(child)).state() for child in children]
        os.kill(screen.pid, signal.SIGCONT)
        assert screen.end() == -signal.SIGINT
    assert states in (["S"], ["R"])                       # and no zombie
    assert b"make" not in screen.shown, screen.shown


def test_ctrl_c_in_a_tool_is_no_error():
    with Screen(make("demo", "ARGS=--stages 3 --step 0.5")) as screen:
        screen.wait_for("asks: hello")
        screen.type("\x03")
        assert screen.end() == -signal.SIGINT
    assert b"the tour ends here" in screen.shown
    assert b"make" not in screen.shown, screen.shown


def test_make_is_ended_and_so_is_the_server():
    """make hands SIGTERM on to its children, and nothing else."""
    process = subprocess.Popen(make("run-5", "ARGS=-e 0"), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        while " listen " not in process.stdout.readline():
            assert process.poll() is None
        process.terminate()
        assert " stats " in process.stdout.read()         # until nobody has it open any more
    finally:
        process.wait(DEADLINE)


SHELL = "/bin/sh"
HUNG_UP = {"make leads the session": [], "a shell does": [SHELL, "-c", '"$@"; exit', SHELL],
           "nohup": [SHELL, "-c", 'trap "" HUP; "$@"; exit', SHELL]}


@pytest.mark.parametrize("how", HUNG_UP)
def test_a_hang_up_ends_the_server_unless_it_is_to_stay(how):
    """The terminal goes: a window is closed, `ssh -t host make run-2` loses its connection."""
    with Screen([*HUNG_UP[how], *make("run-2", "ARGS=-g 0")]) as screen:
        pid, port = map(int, screen.find(rb" pid=(\d+) .* address=\S+:(\d+)\r"))
        try:
            with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
                heard = client.makefile("rb")
                assert heard.readline().startswith(b"welcome")
                os.close(screen.fd)
                screen.fd = os.open(os.devnull, os.O_RDONLY)
                if how == "nohup":
                    client.sendall(b"still there?\n")
                    assert heard.readline() == b"still there? good\n"
                    os.kill(pid, signal.SIGTERM)
                assert heard.read() == b"goodbye: the server stops\n"
            wait_until(lambda: os.waitpid(screen.pid, os.WNOHANG)[0], "it did not end")
            # A shell does not wait for it.
            wait_until(lambda: not Path(f"/proc/{pid}").exists(), "it did not end")
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            raise
