"""The interactive client: through pipes, and on a terminal of our own."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import sys
import threading

import pytest

from harness import DEADLINE, ROOT, SERVICES, Server, variants
from terminal import Screen

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


def shell(redirected: str, answer: bytes = b"hello\n", **env: str) -> tuple[int, bytes, bytes]:
    """The client, with its descriptors as a shell redirects them; exit status, stdout, stderr."""
    command = [*CLIENT, "3", "--port", str(serve_once(answer))]
    done = subprocess.run(["sh", "-c", f'"$@" {redirected}', "sh", *command], input=b"caf\xc3\xa9\n",
                          capture_output=True, timeout=DEADLINE, env={**os.environ, **env})
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_client_takes_a_closed_stdin_for_the_end_of_input():
    status, out, said = shell("<&-")
    assert (status, out) == (0, b"hello\n")
    assert b"the server closed the connection" in said


def test_client_does_without_stderr():
    assert shell("2>&-") == (0, b"hello\n", b"")
    assert shell("<&- 2>&-") == (0, b"hello\n", b"")
    assert shell("2>/dev/full") == (0, b"hello\n", b"")


@pytest.mark.parametrize("redirected, why", [
    (">&-", b"it is closed"), ("-h >&-", b"it is closed"), ("<&- >&-", b"it is closed"),
    (">/dev/full", b"No space left on device"), ("-h >/dev/full", b"No space left on device"),
    ("1</dev/null", b"Bad file descriptor")])
def test_client_says_that_it_cannot_print(redirected, why):
    status, out, said = shell(redirected)
    assert (status, out) == (1, b"")
    assert said.splitlines()[-1] == b"cannot write to stdout: " + why
    assert len([line for line in said.splitlines() if not line.startswith(b"-- ")]) == 1


def test_client_ends_quietly_when_nobody_reads_on():
    status, out, said = shell("| head -1", b"hello\n" * 100_000)
    assert (status, out) == (0, b"hello\n")
    assert all(line.startswith(b"-- ") for line in said.splitlines())


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


def test_client_prints_escapes_where_there_is_only_ascii():
    text = "caf\xe9 \u4f60\u597d \U0001f600\n"
    assert shell("", text.encode(), **ASCII)[:2] == (0, br"caf\xe9 \u4f60\u597d \U0001f600" + b"\n")


def test_client_shows_a_character_cut_short():
    status, out, _ = shell("", b"caf\xc3", PYTHONIOENCODING="utf-8")
    assert (status, out) == (0, br"caf\xc3")


def test_client_says_that_a_name_is_none():
    done = subprocess.run([*CLIENT, "3", "--address", "a..b"], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=DEADLINE)
    assert done.returncode == 1
    assert done.stderr == "cannot connect to a..b:9301: that is no host name\n"


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"TERM": ""}, {"NO_COLOR": "1"}])
def test_client_edits_a_line_without_escape_sequences(env):
    with server_of("5", "echo") as server, Screen(words(server, "echo"), **env) as client:
        client.wait_for("> ")
        client.type("hallo")
        client.wait_for("> hallo")
        client.type("\177\177\177\177ello\n")
        client.wait_for("\r> hello\r\n")
        client.wait_for("\rhello\r\n")
        client.wait_for("> ")
        client.type("\004")
        assert client.end() == 0
    assert b"\033" not in client.all


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
