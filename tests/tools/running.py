"""What the tests of the tools start, and how they wait for it."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Callable, Iterable, Optional

from tests.harness import BUILD, DEADLINE, ROOT, SERVICES, Server, variants

CLIENT = [sys.executable, "-m", "tests.tools.client"]
FOREGROUND = [sys.executable, "-IS", str(ROOT / "tests" / "tools" / "foreground.py")]
UTF_8 = {"PYTHONIOENCODING": "utf-8"}
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
# What make tells the commands that it starts.
OF_MAKE = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")


def from_a_shell(*words: str, without: Iterable[str] = (), **env: str) -> list[str]:
    """As from a shell, not as from the make that runs these tests."""
    unset = [word for name in (*OF_MAKE, *without) for word in ("-u", name)]
    return ["env", *unset, *(f"{name}={value}" for name, value in env.items()), *words]


def make(*words: str) -> list[str]:
    return from_a_shell("make", "-C", str(ROOT), "--no-print-directory",
                        f"BUILD={os.path.relpath(BUILD, ROOT)}", *words)


def run(words: list[str], said: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
    """Until it has ended; with that as its stdin."""
    return subprocess.run(words, input=said, capture_output=True, timeout=DEADLINE,
                          env={**os.environ, **env})


def wait_until(holds: Callable[[], object], what: Optional[str] = None) -> None:
    until = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < until, what
        time.sleep(0.001)


def server_of(stage: str, *services: str) -> Server:
    return Server(variants(stage)[0], services or SERVICES)


def client_of(server: Server, service: str) -> list[str]:
    """How to start a client that talks to it."""
    host, port = server.address(service)
    return [*CLIENT, server.variant.id[0], service, "--address", host, "--port", str(port)]


def serve_once(answer: bytes, reset: bool = False) -> int:
    """A listener whose one client gets this answer; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as peer:
            with suppress(OSError):  # it has read enough, or has left with bytes unread
                peer.sendall(answer)
                if reset:  # a close with bytes unread is a reset
                    select.select([peer], [], [], DEADLINE)
                while not reset and peer.recv(4096):
                    pass

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]
