"""The client through pipes: what it sends, prints and says."""

from __future__ import annotations

import re
import socket
import subprocess

import pytest

from tests.harness import DEADLINE, Client, Server
from tests.tools.printing import REFUSED
from tests.tools.running import ASCII, CLIENT, UTF_8, client_of, run, serve_once, server_of

pytestmark = pytest.mark.sources


def talk(server: Server, service: str, text: bytes) -> subprocess.CompletedProcess[bytes]:
    return run(client_of(server, service), text)


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
    done = run([*CLIENT, "4", "--port", port])
    said = done.stderr.decode()
    assert done.returncode == 1
    assert len(said.splitlines()) == 1
    assert f"nothing listens on 127.0.0.1:{port}" in said and "make run-4" in said


@pytest.mark.parametrize("service", ["echo", "greet"])
def test_client_says_that_the_answer_is_late(service):
    with server_of("1", service) as server:
        with socket.create_connection(server.address(service)) as first:
            process = subprocess.Popen(client_of(server, service), stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            if service == "echo":  # greet owes a welcome, even before anything is asked
                process.stdin.write(b"anybody there?\n")
                process.stdin.flush()
            said = b""
            while b"no answer for 1 s" not in said:
                line = process.stderr.readline()
                assert line, said
                said += line
            first.shutdown(socket.SHUT_WR)
        out, said = process.communicate(b"last\n", timeout=DEADLINE)
    assert process.returncode == 0
    assert out.splitlines()[-1].startswith(b"last")
    assert re.search(rb"that took \d+\.\d s", said)


def test_client_shows_no_control_bytes():
    port = serve_once(b"\x1b[2J\x00\x07 \xc2\x9b \xff \xe2\x80\xae caf\xc3\xa9\r\n")
    done = run([*CLIENT, "3", "--port", str(port)], **UTF_8)
    assert done.stdout == br"\x1b[2J\x00\x07 \x9b \xff \u202e caf" + "é".encode() + b"\\r\n"


def shell(redirected: str, answer: bytes = b"hello\n", **env: str) -> tuple[int, bytes, bytes]:
    """The client, with its descriptors as a shell redirects them; exit status, stdout, stderr."""
    command = [*CLIENT, "3", "--port", str(serve_once(answer))]
    done = run(["sh", "-c", f'"$@" {redirected}', "sh", *command], b"caf\xc3\xa9\n", **env)
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_client_and_server_refuse_the_same_characters():
    several = [*range(0x7e, 0xa2), *range(0x2000, 0x2070), 0xd7ff, 0xe000, 0xfeff, 0xffff, 0x10000,
               0x1f468, 0x10ffff]
    with server_of("5", "chat") as server:
        with Client(server.address("chat")) as anna, Client(server.address("chat")) as ben:
            anna.recv_line()
            ben.recv_line()
            anna.recv_line()  # that Ben has come
            for code in several:
                ben.send(f"x{chr(code)}\n".encode())
                passed = anna.recv_line().endswith(f": x{chr(code)}\n".encode())
                assert passed != bool(REFUSED.match(chr(code))), hex(code)


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


def test_client_prints_escapes_where_there_is_only_ascii():
    text = "caf\xe9 \u4f60\u597d \U0001f600\n"
    assert shell("", text.encode(), **ASCII)[:2] == (0, br"caf\xe9 \u4f60\u597d \U0001f600" + b"\n")


def test_client_shows_a_character_cut_short():
    status, out, _ = shell("", b"caf\xc3", **UTF_8)
    assert (status, out) == (0, br"caf\xc3")


def test_client_says_that_a_name_is_none():
    done = run([*CLIENT, "3", "--address", "a..b"])
    assert done.returncode == 1
    assert done.stderr == b"cannot connect to a..b:9301: that is no host name\n"


def test_client_says_that_the_server_broke_off():
    port = serve_once(b"", reset=True)
    done = run([*CLIENT, "3", "--port", str(port)], b"hello\n")
    assert done.returncode == 1
    assert b"the server broke off the connection" in done.stderr
