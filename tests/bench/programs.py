"""The programs that are measured, and load, which measures them."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional, Sequence

from tests.harness import BUILD, LOOPBACK, Server, Variant, free_port, variants

VALGRIND = ("--tool=callgrind", "--callgrind-out-file=/dev/null")


class Unusable(Exception):
    """One line for the user."""


def outside(name: str, *words: str, **how: Any) -> Server:
    """A program that is not one of the eight."""
    return Server(Variant(name, name, 0, Path(words[0]), words[1:]), (), **how)


def rival(name: str, command: str, port: int) -> Server:
    """It is told its port, and does not say when it listens."""
    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((LOOPBACK, port)) == 0

    server = outside(name, *shlex.split(command), str(port), wait=False, stdout=subprocess.DEVNULL,
                     nofile=resource.getrlimit(resource.RLIMIT_NOFILE))
    server.wait_until(listens, f"listening on port {port}")
    return server


class Running:
    """Servers by name, for a `with` block. What is behind an @ only tells them apart, but for
    @all: a variant on all CPUs, which it takes if no argument forbids it."""

    def __init__(self, names: Sequence[str], service: str = "echo",
                 rivals: Optional[dict[str, str]] = None) -> None:
        self.servers: dict[str, Server] = {}
        self.ports: dict[str, int] = {}
        for name in names:
            if rivals and name in rivals:
                self.ports[name] = free_port()
                self.servers[name] = rival(name, rivals[name], self.ports[name])
            elif name == "floor":
                self.add(name, outside(name, str(BUILD / "floor"), listening=1))
            else:
                variant = variants(name.partition("@")[0], more=True)[0]
                if name.endswith("@all"):
                    variant = replace(variant, arguments=())
                self.add(name, Server(variant, (service,), ["-q"]), service)

    def add(self, name: str, server: Server, service: str = "echo") -> None:
        """One that says where it listens."""
        self.servers[name] = server
        self.ports[name] = server.address(service)[1]

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers.values():
            server.kill()

    def load(self, *words: Any, silent: Sequence[int] = ()) -> dict[str, dict[str, Any]]:
        """Loads them in turns; what load says of each, by name."""
        targets = [f"{name}={self.ports[name]}:{server.pid}"
                   for name, server in self.servers.items()]
        if silent:
            targets = [f"{target}:{count}" for target, count in zip(targets, silent)]
        done = subprocess.run([str(BUILD / "load"), *map(str, words), *targets], text=True,
                              stdin=subprocess.DEVNULL, capture_output=True)
        if done.returncode:
            raise Unusable(done.stderr.strip() or f"load ended with {done.returncode}")
        return {target["name"]: target for target in json.loads(done.stdout)["targets"]}


def time_to_start(name: str) -> float:
    """Seconds from starting the program until it listens. Not by subprocess, which itself takes
    longer than the server does."""
    variant = variants(name)[0]
    words = [str(variant.program), *variant.arguments, "-q", "-e", "0"]
    ours, theirs = os.pipe()
    began = time.monotonic()
    pid = os.posix_spawn(words[0], words, os.environ,
                         file_actions=[(os.POSIX_SPAWN_DUP2, theirs, 1)])
    os.close(theirs)
    with open(ours) as said:
        text = said.readline() + said.readline()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    # When it started, by its own clock, and how long after that it listened.
    found = re.search(r"clock=([\d.]+).*\n\s*([\d.]+) listen", text)
    if not found:
        raise Unusable(f"{words[0]} did not start")
    return max(0.0, float(found[1]) + float(found[2]) - began)


def loaded_size(program: Path) -> Optional[int]:
    """Bytes of code and data, without what only debuggers read, as binutils' size has it."""
    if not shutil.which("size"):
        return None
    said = subprocess.run(["size", str(program)], text=True, capture_output=True).stdout
    found = re.search(r"^\s*(\d+)\s+(\d+)\s", said, re.M)
    return int(found[1]) + int(found[2]) if found else None


def count_instructions(valgrind: str, name: str) -> float:
    """Instructions in user space for one message on one connection: the difference between two
    runs, so that what starting and stopping takes drops out."""
    own, runs = variants(name)[0], []
    inside = replace(own, program=Path(valgrind),
                     arguments=(*VALGRIND, str(own.program), *own.arguments))
    for seconds in (0.1, 0.5):
        with Running([]) as servers:
            server = Server(inside, ("echo",), ["-q"])
            servers.add(name, server)
            messages = servers.load("-w", 0, "-t", seconds)[name]["messages"]
            server.stop()
            counted = re.search(r"Collected : (\d+)", server.stderr())
        if not counted:
            raise Unusable("valgrind has counted nothing" + server.tail())
        runs.append((messages, int(counted[1])))
    (few, less), (many, more) = runs
    if abs(many - few) < 100:              # on a busy machine, the short run may have had more
        raise Unusable(f"{few} messages in one run, {many} in the other: too alike")
    return (more - less) / (many - few)
