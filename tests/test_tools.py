"""The interactive client and `make run-all`: through pipes, and on a terminal of our own."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator

import pytest

from harness import BUILD, DEADLINE, FOLDERS, ROOT, SERVICES, Server, variants

pytestmark = pytest.mark.sources

CLIENT = [sys.executable, str(ROOT / "tests" / "client.py")]


def server_of(stage: str, *services: str) -> Server:
    return Server(variants(stage)[0], services or SERVICES)


def words(server: Server, service: str) -> list[str]:
    host, port = server.address(service)
    return [*CLIENT, server.variant.id[0], service, "--address", host, "--port", str(port)]


def talk(server: Server, service: str, text: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(words(server, service), input=text, capture_output=True,
                          timeout=DEADLINE)


class Screen:
    """A program on a pseudo-terminal, and all that it has printed there."""

    def __init__(self, arguments: list[str]) -> None:
        self.shown = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(arguments[0], arguments)

    def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def wait_for(self, text: str) -> None:
        """Until the screen has shown this, in what came since the last time."""
        until = time.monotonic() + DEADLINE
        while text.encode() not in self.shown:
            assert select.select([self.fd], [], [], max(0, until - time.monotonic()))[0], \
                f"{text!r} did not come: {self.shown!r}"
            try:
                data = os.read(self.fd, 4096)
            except OSError:  # Linux's word for the end of a terminal
                data = b""
            assert data, f"it ended before {text!r}: {self.shown!r}"
            self.shown += data
        self.shown = self.shown.partition(text.encode())[2]

    def end(self) -> int:
        """Reads on until it has ended; its exit status."""
        while select.select([self.fd], [], [], DEADLINE)[0]:
            try:
                data = os.read(self.fd, 4096)
            except OSError:
                break
            if not data:
                break
            self.shown += data
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def line_mode(self) -> bool:
        return bool(termios.tcgetattr(self.fd)[3] & termios.ICANON)

    def __enter__(self) -> "Screen":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind:
            try:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass  # end() has seen it out
        os.close(self.fd)


def test_client_prints_what_comes_and_ends_with_its_input():
    with server_of("5") as server:
        echo = talk(server, "echo", b"one\ntwo")
        greet = talk(server, "greet", b"hello\nq\n")
        chat = talk(server, "chat", b"/who\n")
    assert (echo.returncode, echo.stdout) == (0, b"one\ntwo")
    assert greet.returncode == 0
    assert greet.stdout.splitlines()[1:] == [b"hello good", b"goodbye"]
    assert chat.stdout == b"* you are guest-1, alone here\n* here: guest-1\n"
    assert b"the server closed the connection" in greet.stderr


def test_client_sends_a_file_of_any_size():
    data = b"".join(b"%07d\n" % i for i in range(500_000))
    with server_of("5", "echo") as server:
        assert talk(server, "echo", data).stdout == data


def test_client_says_that_nothing_listens():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    done = subprocess.run([*CLIENT, "4", "--port", port], stdin=subprocess.DEVNULL, text=True,
                          capture_output=True, timeout=DEADLINE)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"nothing listens on 127.0.0.1:{port}" in done.stderr and "make run-4" in done.stderr


@pytest.mark.parametrize("service", ["echo", "greet"])
def test_client_says_that_the_answer_is_late(service):
    with server_of("1", service) as server:
        with socket.create_connection(server.address(service)) as first:
            client = subprocess.Popen(words(server, service), stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            if service == "echo":  # greet owes a welcome, even before anything is asked
                client.stdin.write(b"anybody there?\n")
                client.stdin.flush()
            said = b""
            while b"no answer for 1 s" not in said:
                line = client.stderr.readline()
                assert line, said
                said += line
            first.shutdown(socket.SHUT_WR)
        out, said = client.communicate(b"last\n", timeout=DEADLINE)
    assert client.returncode == 0
    assert out.splitlines()[-1].startswith(b"last")
    assert re.search(rb"that took \d+\.\d s", said)


def serve_once(answer: bytes, reset: bool = False) -> int:
    """A listener whose one client gets this answer; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with listener, listener.accept()[0] as peer:
            peer.sendall(answer)
            if reset:  # a close with bytes unread is a reset
                select.select([peer], [], [], DEADLINE)
            else:
                while peer.recv(4096):
                    pass

    threading.Thread(target=run, daemon=True).start()
    return listener.getsockname()[1]


def test_client_shows_no_control_bytes():
    port = serve_once(b"\x1b[2J\x00\x07 \xc2\x9b \xff \xe2\x80\xae caf\xc3\xa9\r\n")
    done = subprocess.run([*CLIENT, "3", "--port", str(port)], input=b"", capture_output=True,
                          timeout=DEADLINE, env={**os.environ, "PYTHONIOENCODING": "utf-8"})
    assert done.stdout == br"\x1b[2J\x00\x07 \x9b \xff \u202e caf" + "é".encode() + b"\\r\n"


def test_client_says_that_the_server_broke_off():
    port = serve_once(b"", reset=True)
    done = subprocess.run([*CLIENT, "3", "--port", str(port)], input="hello\n", text=True,
                          capture_output=True, timeout=DEADLINE)
    assert done.returncode == 1
    assert "the server broke off the connection" in done.stderr


def test_client_on_a_terminal_shows_a_chat_while_you_type():
    with server_of("5", "chat") as server:
        with Screen(words(server, "chat")) as anna, Screen(words(server, "chat")) as ben:
            anna.wait_for("guest-")
            ben.wait_for("guest-")
            anna.type("good mor")
            anna.wait_for("> good mor")
            ben.type("hello\n")
            anna.wait_for(": hello\r\n> good mor")  # her line stands beneath what came
            anna.type("x\177ning\033[D\n")  # backspace; an arrow key, which does nothing
            ben.wait_for(": good morning\r\n> ")
            assert not ben.line_mode()
            ben.type("never sent\003")
            assert ben.end() == 0
            assert ben.line_mode()
            anna.wait_for("leaves")
            anna.type("\004")
            assert anna.end() == 0
            assert b"the server closed the connection" in anna.shown
            assert anna.line_mode()


def test_client_on_a_terminal_leaves_a_busy_server_alone():
    with server_of("1", "echo") as server:
        with socket.create_connection(server.address("echo")):
            with Screen(words(server, "echo")) as client:
                client.wait_for("> ")
                client.type("hello\n")
                client.wait_for("no answer for 1 s")
                client.type("\004")
                assert client.end() == 0


# --- run-all --------------------------------------------------------------------------------

@contextmanager
def run_all(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Ended when the deadline has passed, so that reading what it says comes to an end, too."""
    programs = [str(BUILD / folder) for folder in FOLDERS]
    with subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "run_all.py"), *programs, "--", *arguments],
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
