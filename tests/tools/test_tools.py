"""`make run-all`: six servers started side by side, and stopped together."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator

import pytest

from tests.harness import BUILD, DEADLINE, FOLDERS

pytestmark = pytest.mark.sources


@contextmanager
def run_all(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Ended when the deadline has passed, so that reading what it says comes to an end, too."""
    programs = [str(BUILD / folder) for folder in FOLDERS]
    with subprocess.Popen(
            [sys.executable, "-m", "tests.tools.run_all", *programs, "--", *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True) as process:
        deadline = threading.Timer(2 * DEADLINE, process.kill)
        deadline.start()
        try:
            yield process
            process.wait(2 * DEADLINE)
        except BaseException:
            process.kill()
            raise
        finally:
            deadline.cancel()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_all_starts_six_and_stops_six(number):
    with run_all("-q", "-e", "0") as process:
        lines = []
        while sum(" listen " in line for line in lines) < 6:
            lines.append(process.stdout.readline())
            assert lines[-1], lines
        process.send_signal(number)
        lines += process.stdout.readlines()
    assert process.returncode == 0
    assert sum(" stats " in line for line in lines) == 6
    assert {line.partition(" | ")[0].rstrip() for line in lines} == \
        {"1 blocking", "2 nonblocking", "3 select", "4 poll", "5 epoll", "6 selector"}
    for line in lines:
        found = re.search(r"pid=(\d+)", line)
        if found:
            with pytest.raises(ProcessLookupError):
                os.kill(int(found[1]), 0)


def test_run_all_stops_when_one_cannot_start():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with run_all("-e", str(taken.getsockname()[1])) as process:
            text = process.stdout.read()
    assert process.returncode == 1
    assert "ended with exit status 1: the others stop" in text


@pytest.mark.parametrize("how", ["its reader leaves", "killed", "hang-up under nohup"])
def test_run_all_leaves_nobody_behind_without_a_goodbye(how):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if "nohup" in how else signal.SIG_DFL)
    ports, pids, clients = [], [], []
    try:
        with run_all("-g", "0") as process:
            signal.signal(signal.SIGHUP, before)
            while len(ports) < 6:
                line = process.stdout.readline()
                assert line
                pids += map(int, re.findall(r" pid=(\d+)", line))
                ports += map(int, re.findall(r" address=\S+:(\d+)", line))
            for port in ports:
                clients.append(socket.create_connection(("127.0.0.1", port), DEADLINE))
            heard = [client.makefile("rb") for client in clients]
            for each in heard:
                assert each.readline().startswith(b"welcome")
            if how == "killed":
                process.kill()
            elif how == "its reader leaves":
                process.stdout.close()
                with suppress(OSError):                    # what it said before is enough
                    clients[0].sendall(b"say something\n")
            else:
                process.send_signal(signal.SIGHUP)
                status = Path(f"/proc/{process.pid}/status").read_text()
                ignored = int(re.search(r"^SigIgn:\s+(\w+)$", status, re.M)[1], 16)
                assert ignored & 1 << signal.SIGHUP - 1    # or it may not have got round to it
                clients[0].sendall(b"still there?\n")
                assert heard[0].readline() == b"still there? good\n"
                process.terminate()
            for each in heard:
                assert each.read().endswith(b"goodbye: the server stops\n")
        assert process.returncode == (-signal.SIGKILL if how == "killed" else 0)
    except BaseException:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        raise
    finally:
        signal.signal(signal.SIGHUP, before)
        for client in clients:
            client.close()
