"""The programs that are measured, and load, which measures them."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from typing import Any, Optional, Sequence

from tests import harness

BUILD = harness.BUILD


class Unusable(Exception):
    """One line for whoever started us."""


class Outside:
    """A program that is not one of the eight: the floor, one under valgrind, or a rival, which is
    told its port."""

    def __init__(self, command: Sequence[str], port: int = 0, **how: Any) -> None:
        self._out = tempfile.TemporaryFile()
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._out, **how)
        self.pid = self._process.pid
        self.port = port
        until = time.monotonic() + 20
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise Unusable(f"{' '.join(command)} does not listen")
            time.sleep(0.005)

    def _listens(self) -> bool:
        if self.port:
            with socket.socket() as probe:
                return probe.connect_ex((harness.LOOPBACK, self.port)) == 0
        found = re.search(rb"address=\S+:(\d+)", os.pread(self._out.fileno(), 1000, 0))
        self.port = int(found[1]) if found else 0
        return bool(found)

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(30)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((harness.LOOPBACK, 0))
        return probe.getsockname()[1]


def command(name: str) -> list[str]:
    """One of the eight, as an echo server on any free port."""
    variant = harness.variants(name)[0]
    return [str(variant.program), *variant.arguments, "-q", "-e", "0"]


class Running(ExitStack):
    """Servers by name, for a `with` block. "5@10" is one more "5"."""

    def __init__(self, names: Sequence[str], service: str = "echo",
                 rivals: Optional[dict[str, str]] = None) -> None:
        super().__init__()
        self.servers: dict[str, Any] = {}
        with self:                         # if one of them does not start, the others end
            for name in names:
                server = self._start(name.partition("@")[0], service, rivals or {})
                self.callback(server.kill)
                self.servers[name] = server
            self.push(self.pop_all())

    @staticmethod
    def _start(name: str, service: str, rivals: dict[str, str]) -> Any:
        if name == "floor":
            return Outside([str(BUILD / "floor")])
        if name in rivals:
            port = free_port()
            return Outside([*shlex.split(rivals[name]), str(port)], port)
        server = harness.Server(harness.variants(name)[0], (service,), ["-q"])
        server.port = server.address(service)[1]
        return server

    def load(self, *words: Any, silent: Sequence[int] = ()) -> dict[str, dict[str, Any]]:
        """Loads them in turns; what load says of each, by name."""
        targets = [f"{name}={server.port}:{server.pid}" for name, server in self.servers.items()]
        if silent:
            targets = [f"{target}:{count}" for target, count in zip(targets, silent)]
        return load(*words, *targets)


def load(*words: Any) -> dict[str, dict[str, Any]]:
    done = subprocess.run([str(BUILD / "load"), *map(str, words)], text=True,
                          stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        raise Unusable(done.stderr.strip() or f"load ended with {done.returncode}")
    return {target["name"]: target for target in json.loads(done.stdout)["targets"]}
