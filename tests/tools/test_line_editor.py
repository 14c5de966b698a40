"""The client on a terminal of our own: the row being typed, resizing, signals."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
from contextlib import contextmanager
from typing import Iterator

import pytest

from tests.harness import Client
from tests.output.terminal import Glass, Screen
from tests.tools.running import (ASCII, CLIENT, FOREGROUND, UTF_8, client_of, make, serve_once,
                                 server_of)

pytestmark = pytest.mark.sources


@contextmanager
def typing(columns: int = 80, first: str = "> ", **env: str) -> Iterator[Screen]:
    """A client of an echo server, once it has shown that; Ctrl-D ends it, with status 0."""
    with server_of("5", "echo") as server:
        with Screen(client_of(server, "echo"), columns, **env) as screen:
            screen.wait_for(first)
            yield screen
            screen.type("\004")
            assert screen.end() == 0


# What people write that str.isprintable() refuses: spaces of other scripts, joiners, a soft hyphen.
WRITTEN = ["\u4f60\u3000\u597d", "10\u00a0km", "10\u202fkm", "a\u2009b", "Donau\u00addampf",
           "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u200f\u05d0", "\ufeffx", "x\ue000",
           "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u2764\ufe0f", "e\u0301"]


def test_client_shows_all_that_the_server_passes():
    """Typed into a chat, on the way to it, and printed by the others."""
    with server_of("5", "chat") as server:
        chat = client_of(server, "chat")
        with Screen(chat, **UTF_8) as anna, Screen(chat, **UTF_8) as ben:
            anna.wait_for("guest-")
            ben.wait_for("guest-")
            ben.wait_for("> ")
            for text in WRITTEN:
                ben.type(f"x{text}")
                ben.wait_for(f"> x{text}")
                ben.type("y\n")
                anna.wait_for(f": x{text}y\r\n")
            for screen in ben, anna:
                screen.type("\004")
                assert screen.end() == 0


def test_client_types_nothing_that_drives_a_terminal():
    """What the servers replace in a chat, and bytes that are no character."""
    with typing(**UTF_8) as screen:
        screen.type("a\a\x0e\x7f\x7fb\x80\x9b\u2028\u202e\u2066c\u061cd")
        os.write(screen.fd, b"\xe9!\n")
        screen.wait_for("> bc\u061cd\ufffd!\r\n")


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"TERM": ""}, {"NO_COLOR": "1"}])
def test_client_edits_a_line_without_escape_sequences(env):
    with typing(**env) as screen:
        screen.type("hallo")
        screen.wait_for("> hallo")
        screen.type("\177\177\177\177ello\n")
        screen.wait_for("\r> hello\r\n")
        screen.wait_for("\rhello\r\n")
        screen.wait_for("> ")
    assert b"\033" not in screen.all


def test_client_on_a_terminal_shows_a_chat_while_you_type():
    with server_of("5", "chat") as server:
        with Screen(client_of(server, "chat")) as anna, Screen(client_of(server, "chat")) as ben:
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
    with typing(columns, first="leaves\r\n") as screen:
        screen.type("hello\n")
        screen.wait_for("hello\r\n")  # typed
        screen.wait_for("hello\r\n")  # answered


# In a terminal that narrow, what is seen of a line that is longer: its end, never a full row.
ROWS = [(12, "abcdefghijklm", "> efghijklm"), (12, "\u4f60" * 20, "> " + "\u4f60" * 4),
        (11, "\u4f60\u3000" * 20, "> " + "\u4f60\u3000" * 2),
        (12, "e\u0301\u0302" * 20, "> " + "e\u0301\u0302" * 9),
        (10, "\U0001f468\u200d\U0001f469\u200d" * 4, "> " + "\U0001f469\u200d\U0001f468\u200d"
         "\U0001f469\u200d"), (9, "\u1112\u1161\u11ab" * 9, "> " + "\u1112\u1161\u11ab" * 3)]


@pytest.mark.parametrize("columns, typed, row", ROWS, ids=map(str, range(len(ROWS))))
def test_client_shows_the_end_of_a_long_line(columns, typed, row):
    with typing(columns, **UTF_8) as screen:
        screen.type(typed[:-1])
        screen.type(typed[-1] + "\007")  # a key that changes nothing
        screen.wait_for(f"\033[K{row}")
        screen.type("\n")
        screen.wait_for(f"> {typed}\r\n")


def test_client_counts_the_columns_of_an_escape():
    with typing(12, **ASCII) as screen:
        screen.type("\xe9" * 9)
        screen.wait_for(r"> \xe9\xe9")
        screen.type("\n")
        screen.wait_for("> " + r"\xe9" * 9 + "\r\n")
    assert r"> \xe9\xe9\xe9\r".encode() not in screen.all


def test_client_takes_a_long_line_as_it_comes():
    """Each key costs the same, however long the line is."""
    with typing() as screen:
        line = "".join(f"{i:07} " for i in range(2500))
        screen.type(line)
        screen.wait_for("0002499 ")
        for i in range(50):
            screen.type(f"{i % 10}")
            screen.wait_for(f"{i % 10}")
        screen.type("\n")
        screen.wait_for(f"0002499 {'0123456789' * 5}\r\n")
        screen.wait_for(f"0002499 {'0123456789' * 5}\r\n")
    assert screen.cpu < 2


def test_client_on_a_terminal_leaves_a_busy_server_alone():
    with server_of("1", "echo") as server:
        with socket.create_connection(server.address("echo")):
            with Screen(client_of(server, "echo")) as screen:
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
        with Screen(client_of(server, "chat"), 80) as screen:
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
        with Screen(client_of(server, "echo")) as screen:
            screen.wait_for("> ")
            assert not screen.line_mode()
            os.kill(screen.pid, number)
            assert screen.end() == status
            assert screen.line_mode()


def test_client_on_a_terminal_ignores_what_it_is_started_to_ignore():
    with server_of("5", "echo") as server:
        shell = ["/bin/sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *client_of(server, "echo")]
        with Screen(shell) as screen:
            screen.wait_for("> ")
            os.kill(screen.pid, signal.SIGHUP)
            screen.type("hello\n")
            screen.wait_for("\033[Khello\r\n")
            screen.type("\004")
            assert screen.end() == 0


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
        command = client_of(server, "echo")
        if started == "by foreground.py":
            command = FOREGROUND + command
        elif started == "by make":
            command = make("client-5", f"ARGS={shlex.join(command[5:])}")
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
        with dash(*client_of(server, "echo")) as screen:
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
        with dash(*client_of(server, "echo")) as screen:
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
