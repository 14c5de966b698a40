"""The interactive client: through pipes, and on a terminal of our own."""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import Iterator

import pytest

from tests.tools.printing import REFUSED
from tests.harness import DEADLINE, ROOT, SERVICES, Client, Server, variants
from tests.output.terminal import Glass, Screen

pytestmark = pytest.mark.sources

CLIENT = [sys.executable, "-m", "tests.tools.client"]


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
            process = subprocess.Popen(words(server, service), stdin=subprocess.PIPE,
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


def serve_once(answer: bytes, reset: bool = False) -> int:
    """A listener whose one client gets this answer; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with listener, listener.accept()[0] as peer:
            try:
                peer.sendall(answer)
            except OSError:
                return  # it has read enough
            if reset:  # a close with bytes unread is a reset
                select.select([peer], [], [], DEADLINE)
            else:
                try:
                    while peer.recv(4096):
                        pass
                except ConnectionResetError:
                    pass  # it has left with bytes unread

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
    done = subprocess.run(["sh", "-c", f'"$@" {redirected}', "sh", *command], capture_output=True,
                          input=b"caf\xc3\xa9\n", timeout=DEADLINE, env={**os.environ, **env})
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr
    return done.returncode, done.stdout, done.stderr


# What people write that str.isprintable() refuses: spaces of other scripts, joiners, a soft hyphen.
WRITTEN = ["\u4f60\u3000\u597d", "10\u00a0km", "10\u202fkm", "a\u2009b", "Donau\u00addampf",
           "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u200f\u05d0", "\ufeffx", "x\ue000",
           "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u2764\ufe0f", "e\u0301"]
UTF_8 = {"PYTHONIOENCODING": "utf-8"}


@pytest.mark.parametrize("text", WRITTEN)
def test_client_shows_all_that_the_server_passes(text):
    """Typed into a chat, on the way to it, and printed by the others."""
    with server_of("5", "chat") as server:
        chat = words(server, "chat")
        with Screen(chat, **UTF_8) as anna, Screen(chat, **UTF_8) as ben:
            anna.wait_for("guest-")
            ben.wait_for("guest-")
            ben.wait_for("> ")
            ben.type(f"x{text}")
            ben.wait_for(f"> x{text}")
            ben.type("y\n")
            anna.wait_for(f": x{text}y\r\n")
            ben.type("\004")
            ben.end()
            anna.type("\004")
            anna.end()


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


def test_client_types_nothing_that_drives_a_terminal():
    """What the servers replace in a chat, and bytes that are no character."""
    with server_of("5", "echo") as server:
        with Screen(words(server, "echo"), **UTF_8) as screen:
            screen.wait_for("> ")
            screen.type("a\a\x0e\x7f\x7fb\x80\x9b\u2028\u202e\u2066c\u061cd")
            os.write(screen.fd, b"\xe9!\n")
            screen.wait_for("> bc\u061cd\ufffd!\r\n")
            screen.type("\004")
            screen.end()


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
    status, out, _ = shell("", b"caf\xc3", **UTF_8)
    assert (status, out) == (0, br"caf\xc3")


def test_client_says_that_a_name_is_none():
    done = subprocess.run([*CLIENT, "3", "--address", "a..b"], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=DEADLINE)
    assert done.returncode == 1
    assert done.stderr == "cannot connect to a..b:9301: that is no host name\n"


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"TERM": ""}, {"NO_COLOR": "1"}])
def test_client_edits_a_line_without_escape_sequences(env):
    with server_of("5", "echo") as server, Screen(words(server, "echo"), **env) as screen:
        screen.wait_for("> ")
        screen.type("hallo")
        screen.wait_for("> hallo")
        screen.type("\177\177\177\177ello\n")
        screen.wait_for("\r> hello\r\n")
        screen.wait_for("\rhello\r\n")
        screen.wait_for("> ")
        screen.type("\004")
        assert screen.end() == 0
    assert b"\033" not in screen.all


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


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5])
def test_client_does_with_a_terminal_of_few_columns(columns):
    with server_of("5", "echo") as server:
        with Screen(words(server, "echo"), columns) as screen:
            screen.wait_for("leaves\r\n")
            screen.type("hello\n")
            screen.wait_for("hello\r\n")  # typed
            screen.wait_for("hello\r\n")  # answered
            screen.type("\004")
            assert screen.end() == 0


# In a terminal that narrow, what is seen of a line that is longer: its end, never a full row.
ROWS = [(12, "abcdefghijklm", "> efghijklm"), (12, "\u4f60" * 20, "> " + "\u4f60" * 4),
        (11, "\u4f60\u3000" * 20, "> " + "\u4f60\u3000" * 2),
        (12, "e\u0301\u0302" * 20, "> " + "e\u0301\u0302" * 9),
        (10, "\U0001f468\u200d\U0001f469\u200d" * 4, "> " + "\U0001f469\u200d\U0001f468\u200d"
         "\U0001f469\u200d"), (9, "\u1112\u1161\u11ab" * 9, "> " + "\u1112\u1161\u11ab" * 3)]


@pytest.mark.parametrize("columns, typed, row", ROWS, ids=map(str, range(len(ROWS))))
def test_client_shows_the_end_of_a_long_line(columns, typed, row):
    with server_of("5", "echo") as server:
        with Screen(words(server, "echo"), columns, **UTF_8) as screen:
            screen.wait_for("> ")
            screen.type(typed[:-1])
            screen.type(typed[-1] + "\007")  # a key that changes nothing
            screen.wait_for(f"\033[K{row}")
            screen.type("\n")
            screen.wait_for(f"> {typed}\r\n")
            screen.type("\004")
            screen.end()


def test_client_counts_the_columns_of_an_escape():
    with server_of("5", "echo") as server:
        with Screen(words(server, "echo"), 12, **ASCII) as screen:
            screen.wait_for("> ")
            screen.type("\xe9" * 9)
            screen.wait_for(r"> \xe9\xe9")
            screen.type("\n")
            screen.wait_for("> " + r"\xe9" * 9 + "\r\n")
            screen.type("\004")
            screen.end()
    assert r"> \xe9\xe9\xe9\r".encode() not in screen.all


def test_client_takes_a_long_line_as_it_comes():
    """Each key costs the same, however long the line is."""
    with server_of("5", "echo") as server:
        with Screen(words(server, "echo")) as screen:
            screen.wait_for("> ")
            line = "".join(f"{i:07} " for i in range(2500))
            screen.type(line)
            screen.wait_for("0002499 ")
            for i in range(50):
                screen.type(f"{i % 10}")
                screen.wait_for(f"{i % 10}")
            screen.type("\n")
            screen.wait_for(f"0002499 {'0123456789' * 5}\r\n")
            screen.wait_for(f"0002499 {'0123456789' * 5}\r\n")
            screen.type("\004")
            screen.end()
    assert screen.cpu < 2


def test_client_on_a_terminal_leaves_a_busy_server_alone():
    with server_of("1", "echo") as server:
        with socket.create_connection(server.address("echo")):
            with Screen(words(server, "echo")) as screen:
                screen.wait_for("> ")
                screen.type("hello\n")
                screen.wait_for("no answer for 1 s")
                screen.type("\004")
                assert screen.end() == 0


ALPHABET = "abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize("wraps, answers", [(True, True), (True, False), (False, True)],
                         ids=["wraps", "wraps and does not answer", "cuts off"])
@pytest.mark.parametrize("length", [20, 57, 58, 200])
def test_client_leaves_nothing_behind_in_a_terminal_made_narrower(wraps, answers, length):
    """And takes nothing away: a line that comes while it asks the terminal is there, too."""
    line = (ALPHABET * 10)[:length]
    with server_of("5", "chat") as server, Client(server.address("chat")) as ben:
        with Screen(words(server, "chat"), 80) as screen:
            screen.glass = glass = Glass(80, wraps, answers)
            screen.wait_for("> ")
            screen.type(f"one\n{line}")
            row = f"> {line}" if length < 78 else f"> {line[-77:]}"
            screen.wait_until(lambda: glass.rows[-2:] == ["> one", row], row)
            said = []
            for columns in 60, 40, 30, 17, 60, 14, 80:
                screen.resize(columns)
                said.append(f"guest-1: {columns}")
                ben.send(f"{columns}\n".encode())
                row = f"> {line}" if length + 2 < columns else f"> {line[3 - columns:]}"
                seen = ["> one", *said, row]
                screen.wait_until(lambda: glass.rows[-len(seen):] == seen, seen)
                assert glass.x == len(row), glass.rows
            screen.type("\003")
            assert screen.end() == 0


# --- signals --------------------------------------------------------------------------------------

def test_client_prints_nothing_from_a_signal_handler():
    """Continued again and again, and most of the time it is in the middle of a write."""
    port = serve_once(b"".join(b"line %06d\n" % i for i in range(20_000)))
    with Screen([*CLIENT, "3", "chat", "--port", str(port)]) as screen:
        for i in range(0, 20_000, 50):
            screen.wait_for(f"line {i:06}")
            os.kill(screen.pid, signal.SIGCONT)
        screen.wait_for("line 019999")
        screen.type("\004")
        assert screen.end() == 0
    assert b"Traceback" not in screen.all


@pytest.mark.parametrize("number, status", [
    (signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGQUIT, 131)])
def test_client_gives_the_terminal_back_when_a_signal_ends_it(number, status):
    with server_of("5", "echo") as server:
        with Screen(words(server, "echo")) as screen:
            screen.wait_for("> ")
            assert not screen.line_mode()
            os.kill(screen.pid, number)
            assert screen.end() == status
            assert screen.line_mode()


def test_client_on_a_terminal_ignores_what_it_is_started_to_ignore():
    with server_of("5", "echo") as server:
        shell = ["/bin/sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *words(server, "echo")]
        with Screen(shell) as screen:
            screen.wait_for("> ")
            os.kill(screen.pid, signal.SIGHUP)
            screen.type("hello\n")
            screen.wait_for("\033[Khello\r\n")
            screen.type("\004")
            assert screen.end() == 0


FOREGROUND = [sys.executable, "-IS", str(ROOT / "tests" / "tools" / "foreground.py")]


@contextmanager
def dash(*command: str) -> Iterator[Screen]:
    """A shell that leaves the terminal as a stopped program leaves it; that command runs in it."""
    program = shutil.which("dash")
    if not program:
        pytest.skip("there is no dash here")
    with Screen([program, "-i"], PS1="shell% ", ENV="") as screen:
        screen.wait_for("shell% ")
        screen.type(shlex.join(command) + "\n")
        yield screen
        screen.wait_for("shell% ")
        assert screen.line_mode()
        screen.type("exit\n")
        screen.end()
        assert b"Traceback" not in screen.all


@pytest.mark.parametrize("started", ["alone", "by foreground.py", "by make"])
def test_client_gives_the_terminal_back_before_it_stops(started):
    with server_of("5", "echo") as server:
        command = words(server, "echo")
        if started == "by foreground.py":
            command = FOREGROUND + command
        elif started == "by make":  # as from a shell, not as from the make that runs these tests
            command = ["env", "-u", "MAKEFLAGS", "-u", "MFLAGS", "-u", "MAKELEVEL", "make", "-C",
                       str(ROOT), "client-5", f"ARGS={shlex.join(command[5:])}"]
        with dash(*command) as screen:
            screen.wait_for("leaves")
            screen.wait_for("> ")
            for i in range(3):
                screen.type(f"half{i}")
                screen.wait_for(f"half{i}")
                screen.type("\x1a")
                screen.wait_for("shell% ")
                assert screen.line_mode()
                screen.type("fg\n")
                screen.wait_for(f"half{i}")
                assert not screen.line_mode()
            screen.type("\n")
            screen.wait_for("half0half1half2\r\n")
            screen.wait_for("\033[Khalf0half1half2\r\n")
            screen.type("\004")


def test_client_sends_what_is_typed_before_it_stops():
    with server_of("5", "echo") as server:
        with dash(*words(server, "echo")) as screen:
            screen.wait_for("leaves")
            screen.wait_for("> ")
            screen.type("hello\n\x1a")
            screen.wait_for("shell% ")
            server.wait_for("recv", bytes=6)
            screen.type("fg\n")
            screen.wait_for("\033[Khello\r\n")
            screen.type("\004")


def test_client_gives_the_terminal_back_when_a_signal_stops_it():
    """kill -TSTP; and a client that kill -STOP has stopped takes its modes again."""
    with server_of("5", "echo") as server:
        with dash(*words(server, "echo")) as screen:
            screen.wait_for("leaves")
            screen.wait_for("> ")
            for number in signal.SIGTSTP, signal.SIGSTOP:
                os.kill(os.tcgetpgrp(screen.fd), number)
                screen.wait_for("shell% ")
                assert screen.line_mode() or number == signal.SIGSTOP
                screen.type("stty sane; fg\n")
                screen.wait_for("\033[K> ")
                assert not screen.line_mode()
            screen.type("\004")


def test_client_is_stopped_in_a_busy_chat():
    """Ctrl-S while lines come, Ctrl-Z, Ctrl-Q, fg."""
    port = serve_once(b"".join(b"line %06d\n" % i for i in range(100_000)))
    with dash(*FOREGROUND, *CLIENT, "3", "chat", "--port", str(port)) as screen:
        screen.wait_for("line 000100")
        for i in range(1, 10):
            screen.type("\x13")
            screen.type("\x1a")
            screen.wait_for("shell% ")
            assert screen.line_mode()
            screen.type("\x11")
            screen.type("fg\n")
            screen.wait_for("line ")
        screen.type("\003")
