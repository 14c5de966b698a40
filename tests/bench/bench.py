"""What each mechanism costs: `make bench`, `make bench QUICK=1`.

Eight servers (stage 6 with each of its selectors) under the same load, and beside them the floor:
a program that does nothing but receive and send (floor.cpp). load.cpp is what loads them.

    pinned      load and servers on one CPU, taking turns in slices of 50 ms. CPU time per message
                is from here: ratios repeat within a few per cent, on a noisy machine, too.
    apart       load and servers wherever the system puts them. Messages a second and latencies
                are from here. They do not repeat: look at them, but conclude nothing from them.

Stage 2 never sleeps. On one CPU with the others it would take from all of them, so it is
measured alone and apart, and its CPU time per message is what it takes there.

All that was measured goes to build/bench.json; the terminal and build/bench.html show nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import resource
import shlex
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Optional, Sequence

from tests import harness, output
from tests.bench import page as bench_page
from tests.compare.lessons import calls

BUILD = harness.BUILD
LABELS = {"floor": "floor", "1": "1 blocking", "2": "2 busy loop", "3": "3 select", "4": "4 poll",
          "5": "5 epoll", "6-select": "6 select", "6-poll": "6 poll", "6-epoll": "6 epoll"}
SERVERS = [name for name in LABELS if name != "floor"]
SLEEPING = ["3", "4", "5", "6-select", "6-poll", "6-epoll"]   # those with a wait
BY_SELECT = ("3", "6-select")


class Setting(NamedTuple):
    id: str
    title: str
    connections: int
    depth: int
    size: int


BUSY = [Setting("1", "1 connection", 1, 1, 64),
        Setting("50", "50", 50, 1, 64),
        Setting("500", "500", 500, 1, 64),
        Setting("50x16", "50, 16 messages each", 50, 16, 64),
        Setting("16k", "50, 16 KiB", 50, 1, 16384)]
FLOORS = [Setting("1", "", 1, 1, 64), Setting("50x16", "", 1, 16, 64),
          Setting("16k", "", 1, 1, 16384)]
FLOOR_OF = {"1": "1", "50": "1", "500": "1", "50x16": "50x16", "16k": "16k"}
STALLS = [("16 KiB", 16384), ("100 KB", 100_000), ("1 MB", 1_000_000)]

# What the servers of the libraries' documentation are to cost at the most, by their name.
RIVAL_AIMS = {"libuv": {"50": 0.70, "500": 0.70, "16k": 0.50},
              "libevent": {"50": 0.75, "500": 0.75}, "asio": {"50": 0.95, "500": 0.95}}


class Unusable(Exception):
    """One line for whoever started us."""


# --- what is started ------------------------------------------------------------------------

class Outside:
    """A program that is not one of the eight: the floor, or a rival, which is told its port."""

    def __init__(self, command: Sequence[str], port: int = 0) -> None:
        self._out = tempfile.TemporaryFile()
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._out)
        self.pid = self._process.pid
        self.port = port
        until = time.monotonic() + 10
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

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((harness.LOOPBACK, 0))
        return probe.getsockname()[1]


class Running:
    """Servers by name, for a `with` block."""

    def __init__(self, names: Sequence[str], service: str = "echo",
                 rivals: Optional[dict[str, str]] = None) -> None:
        self.servers: dict[str, Any] = {}
        try:
            for name in names:
                self.servers[name] = self._start(name.partition("@")[0], service, rivals or {})
        except BaseException:
            self.__exit__()
            raise

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

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers.values():
            server.kill()

    def load(self, *words: Any, silent: Sequence[int] = (), names: Sequence[str] = ()) -> dict:
        """Loads them in turns; what load says of each, by name."""
        targets = []
        for i, name in enumerate(names or self.servers):
            server = self.servers[name]
            targets.append(f"{name}={server.port}:{server.pid}"
                           + (f":{silent[i]}" if silent else ""))
        done = subprocess.run([str(BUILD / "load"), *map(str, words), *targets], text=True,
                              stdin=subprocess.DEVNULL, capture_output=True)
        if done.returncode:
            raise Unusable(done.stderr.strip() or f"load ended with {done.returncode}")
        return {target["name"]: target for target in json.loads(done.stdout)["targets"]}


# --- figures --------------------------------------------------------------------------------

def spread(values: Sequence[float]) -> Optional[dict[str, float]]:
    """Median and quartiles."""
    if not values:
        return None
    if len(values) == 1:
        return {"median": values[0], "low": values[0], "high": values[0]}
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def median(found: Optional[dict[str, float]]) -> float:
    return found["median"] if found else math.nan


class Samples:
    """What was measured, round after round: [table, setting, server][what] -> values."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str, str], dict[str, list[float]]] = defaultdict(
            lambda: defaultdict(list))

    def pinned(self, table: str, setting: str, found: dict[str, dict]) -> None:
        for name, target in found.items():
            cost = target["cpu_ns_per_message"]
            self.values[table, setting, name]["cpu"] += cost["slices"] if cost else []

    def apart(self, table: str, setting: str, found: dict[str, dict], cpu: bool = False) -> None:
        for name, target in found.items():
            values = self.values[table, setting, name]
            values["per_second"].append(target["messages_per_second"])
            for key in ("p50", "p99", "p99.9", "max"):
                values[key].append(target["latency_us"][key])
            values["load_busy"].append(target["load_busy"])
            if cpu and target["cpu_ns_per_message"]:
                values["cpu"] += target["cpu_ns_per_message"]["slices"]

    def of(self, table: str, setting: str, name: str) -> dict[str, Any]:
        found = self.values.get((table, setting, name), {})
        return {what: spread(values) for what, values in found.items() if values}

    def ratio(self, table: str, a: tuple[str, str], b: tuple[str, str]) -> Optional[dict]:
        """CPU time of a over b, (setting, server) each: slice against slice where they took
        turns in the same run, so that what hit both cancels out."""
        over = self.values.get((table, *a), {}).get("cpu", [])
        under = self.values.get((table, *b), {}).get("cpu", [])
        if not over or not under:
            return None
        if len(over) != len(under):
            return spread([statistics.median(over) / statistics.median(under)])
        return spread([x / y for x, y in zip(over, under)])


# --- what is measured -----------------------------------------------------------------------

class Step(NamedTuple):
    title: str
    seconds: float                # about
    run: Callable[[], None]


class Bench:
    def __init__(self, quick: bool, scale: float, rivals: dict[str, str]) -> None:
        self.quick, self.rivals = quick, rivals
        self.scale = scale * (0.3 if quick else 0.7)
        self.rounds = 1 if quick else 3
        self.samples = Samples()
        self.figures: dict[str, Any] = {"start": {}, "size": {}, "memory": {}, "calls": {},
                                        "instructions": {}, "floor_of": FLOOR_OF}
        self.missing: list[str] = []
        self.took: list[dict[str, Any]] = []
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        self.descriptors = hard if hard != resource.RLIM_INFINITY else 1 << 30
        self.pin: list[str] = []
        if hasattr(os, "sched_getaffinity"):
            self.pin = ["-p", str(max(os.sched_getaffinity(0)))]
        else:
            self.missing.append("no server can be pinned to a CPU here: the figures vary more")

    def seconds(self, base: float) -> float:
        return max(0.01, round(base * self.scale, 3))

    def times(self, base: float) -> list[Any]:
        slices = max(0.01, min(0.05, self.seconds(base)))
        return ["-t", self.seconds(base), "-w", min(0.1, self.seconds(0.1)),
                "-l", f"{slices * 1000:.0f}"]

    # 1: busy connections

    def busy(self, setting: Setting) -> None:
        shape = ["-c", setting.connections, "-d", setting.depth, "-s", setting.size]
        names = (["1"] if setting.connections == 1 else []) + SLEEPING + list(self.rivals)
        floors = [floor for floor in FLOORS if floor.id == setting.id]
        if setting.connections == 1:      # on the same terms as the others, slice by slice
            names = ["floor", *names]
        with Running(names, rivals=self.rivals) as servers:
            self.samples.pinned("busy", setting.id,
                                servers.load(*self.pin, *shape, *self.times(0.8)))
            self.samples.apart("busy", setting.id, servers.load(*shape, *self.times(0.3)))
        for floor in floors if setting.connections > 1 else []:
            with Running(["floor"]) as servers:
                self.samples.pinned("busy", setting.id, servers.load(
                    *self.pin, "-c", 1, "-d", floor.depth, "-s", floor.size, *self.times(0.8)))
        with Running(["2"]) as servers:
            self.samples.apart("busy", setting.id, servers.load(*shape, *self.times(0.3)), cpu=True)

    # 2: silent connections

    def levels(self, name: str, last: bool) -> list[int]:
        """How many silent connections; all levels at once must fit into one load."""
        if name in BY_SELECT:
            return [10, 100, 900]
        most = [10, 100, 1000, 10_000]
        if name in ("2", "4", "6-poll") and (self.quick or not last):
            most = most[:3]               # to let so many in takes them half a minute
        while sum(most) + 100 > self.descriptors and len(most) > 1:
            most.pop()
            note = (f"a process may have {self.descriptors} descriptors here (ulimit -n): "
                    f"the silent connections end at {most[-1]}")
            if note not in self.missing:
                self.missing.append(note)
        return most

    def silent(self, name: str, last: bool) -> None:
        levels = self.levels(name, last)
        if name == "2":
            for level in levels:
                with Running([name]) as servers:
                    found = servers.load("-k", level, *self.times(0.3), "-o", 60)
                    self.samples.apart("silent", str(level), found, cpu=True)
            return
        with Running([f"{name}@{level}" for level in levels]) as servers:
            found = servers.load(*self.pin, *self.times(0.8), "-o", 60, silent=levels)
        for level in levels:
            target = found[f"{name}@{level}"]
            self.samples.pinned("silent", str(level), {name: target})
            if level == levels[-1] and target["memory"]["per_silent"] is not None:
                self.figures["memory"][name] = {"silent": level,
                                                "bytes": target["memory"]["per_silent"]}

    # 3: connections opened, used once, closed

    def connect(self) -> None:
        with Running([name for name in SERVERS if name != "2"]) as servers:
            shape = ["-m", "connect", "-c", 50]
            self.samples.pinned("connect", "50",
                                servers.load(*self.pin, *shape, *self.times(0.4)))
            self.samples.apart("connect", "50", servers.load(*shape, *self.times(0.3)))
        with Running(["2"]) as servers:
            self.samples.apart("connect", "50", servers.load(*shape, *self.times(0.3)), cpu=True)

    # 4: memory (see silent), start, size

    def start(self) -> None:
        for _ in range(5 if self.quick else 15):
            for name in SERVERS:
                self.samples.values["start", "", name]["seconds"].append(time_to_start(name))
        for name in SERVERS:
            self.figures["size"][name] = loaded_size(harness.variants(name)[0].program)

    # 5: chat

    def chat(self, members: int) -> None:
        shape = ["-m", "chat", "-c", members]
        with Running(SLEEPING, "chat") as servers:
            self.samples.pinned("chat", str(members),
                                servers.load(*self.pin, *shape, *self.times(0.5)))
        with Running(["2"], "chat") as servers:
            self.samples.apart("chat", str(members), servers.load(*shape, *self.times(0.3)),
                               cpu=True)

    # 6: system calls

    def calls(self) -> None:
        for connections in (1, 50):
            for name in SERVERS:
                if name == "1" and connections > 1:
                    continue
                found = [self.calls_of(name, connections) for _ in range(self.rounds)]
                kinds = {kind: statistics.median(each[kind] for each in found)
                         for kind in found[0]}
                kinds["all"] = calls(kinds, name)
                self.figures["calls"].setdefault(str(connections), {})[name] = kinds

    def calls_of(self, name: str, connections: int) -> dict[str, float]:
        """From the server's own counters. Two loads of different length: what connecting, leaving
        and asking for the counters takes is in both, and drops out of the difference."""
        with Running([name]) as servers:
            server = servers.servers[name]
            marks, messages = [server.stats()], []
            for seconds in (self.seconds(0.1), self.seconds(0.5)):
                found = servers.load("-c", connections, "-w", 0, "-t", seconds)
                messages.append(found[name]["messages"])
                if name != "1":   # until all have left
                    server.wait_until(lambda: server.sockets() == 1, "all gone")
                marks.append(server.stats())
        counted = messages[1] - messages[0]
        kinds = {}
        for kind in ("waits", "recv", "send", "watch", "accept", "scanned"):
            a, b, c = (mark[kind] for mark in marks)
            if name == "2":       # also asks while nobody asks it: no difference to take
                kinds[kind] = (c - b) / messages[1]
            else:
                kinds[kind] = ((c - b) - (b - a)) / counted if counted > 0 else math.nan
        return kinds

    # Stalls

    def stalls(self, title: str, size: int) -> None:
        names = ["1", *SLEEPING]
        with Running(names) as servers:
            self.samples.apart("stalls", title, servers.load("-s", size, *self.times(0.5)))
        with Running(["2"]) as servers:
            self.samples.apart("stalls", title, servers.load("-s", size, *self.times(0.5)))

    # Instructions

    def instructions(self) -> None:
        if not has_valgrind():
            self.missing.append("valgrind is not there: instructions were not counted")
            return
        names = ["5", "6-epoll"] if self.quick else ["1", *SLEEPING]
        for name in names:
            self.figures["instructions"][name] = count_instructions(name)

    # All of it

    def steps(self) -> Iterator[Step]:
        unit = self.scale
        for number in range(self.rounds):
            last = number == self.rounds - 1
            for setting in BUSY:
                count = 9 if setting.connections == 1 else 7
                count += len(self.rivals)
                yield Step(f"busy: {setting.title}", unit * count * 1.4 + 1,
                           lambda setting=setting: self.busy(setting))
            for name in ["2", *SLEEPING]:
                slow = 25 if name in ("2", "4", "6-poll") and last and not self.quick else 0
                yield Step(f"beside silent ones: {LABELS[name]}", unit * 4 + 1 + slow,
                           lambda name=name, last=last: self.silent(name, last))
            yield Step("connections opened and closed", unit * 8 + 1, self.connect)
            for members in (10, 100, 1000) if last and not self.quick else (10, 100):
                yield Step(f"chat: {members} members", unit * 5 + members / 50,
                           lambda members=members: self.chat(members))
        yield Step("start-up and size", 2, self.start)
        yield Step("system calls", (unit * 12 + 3) * self.rounds, self.calls)
        for title, size in STALLS:
            yield Step(f"stalls: {title}", unit * 5 + 1,
                       lambda title=title, size=size: self.stalls(title, size))
        yield Step("instructions (valgrind)", 5 if self.quick else 20, self.instructions)

    def run(self, only: str = "") -> None:
        steps = [step for step in self.steps() if re.search(only, step.title)]
        progress = Progress(steps)
        for i, step in enumerate(steps):
            progress.at(i)
            began = time.monotonic()
            step.run()
            self.took.append({"step": step.title, "expected": step.seconds,
                              "seconds": time.monotonic() - began})
        progress.done()

    # What came of it

    def results(self, seconds: float) -> dict[str, Any]:
        samples, figures = self.samples, self.figures
        everybody = ["floor", *SERVERS, *self.rivals]
        figures["busy"] = {setting.id: {name: samples.of("busy", setting.id, name)
                                        for name in everybody
                                        if ("busy", setting.id, name) in samples.values}
                           for setting in BUSY}
        for setting, of in figures["busy"].items():
            floor = median(figures["busy"][FLOOR_OF[setting]].get("floor", {}).get("cpu"))
            for found in of.values():
                if "cpu" in found and not math.isnan(floor):
                    found["times_floor"] = found["cpu"]["median"] / floor
        figures["silent"] = {}
        for name in ["2", *SLEEPING]:
            levels = sorted(int(setting) for table, setting, who in samples.values
                            if table == "silent" and who == name)
            points = [{"silent": level, **samples.of("silent", str(level), name)}
                      for level in levels]
            if len(points) < 2:
                continue
            first, final = points[0], points[-1]
            figures["silent"][name] = {
                "points": points,
                "growth": samples.ratio("silent", (str(levels[-1]), name), (str(levels[0]), name)),
                "slope_ns": (median(final["cpu"]) - median(first["cpu"]))
                / (levels[-1] - levels[0])}
        figures["connect"] = {name: samples.of("connect", "50", name) for name in SERVERS}
        figures["chat"] = {members: {name: samples.of("chat", members, name)
                                     for name in ["2", *SLEEPING]}
                           for members in ("10", "100", "1000")
                           if ("chat", members, "5") in samples.values}
        figures["start"] = {name: samples.of("start", "", name).get("seconds") for name in SERVERS}
        figures["stalls"] = {title: {name: samples.of("stalls", title, name) for name in SERVERS}
                             for title, _ in STALLS}
        figures["ratios"] = {setting.id: {
            f"{a}/{b}": samples.ratio("busy", (setting.id, a), (setting.id, b))
            for a, b in [("6-epoll", "5"), ("6-poll", "4"), ("6-select", "3"), ("3", "5"),
                         ("4", "5"), ("1", "floor"), ("5", "floor"), ("6-epoll", "floor")]
            + [(mine, rival) for rival in self.rivals for mine in ("5", "6-epoll")]}
            for setting in BUSY}
        results = {
            "machine": machine(), "quick": self.quick, "seconds": round(seconds, 1),
            "rounds": self.rounds, "labels": {**LABELS, **{name: name for name in self.rivals}},
            "settings": [setting._asdict() for setting in BUSY], "notes": self.missing,
            "steps": self.took, "figures": figures}
        results["aims"] = list(aims(results, list(self.rivals)))
        results["tables"] = list(tables(results, list(self.rivals)))
        return tidy(results)


def tidy(value: Any) -> Any:
    """Fit for JSON: no NaN, and no more digits than mean something."""
    if isinstance(value, dict):
        return {key: tidy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [tidy(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


class Progress:
    """One line that is written over on a terminal; a line each step in a pipe."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps
        self.began = time.monotonic()
        self.live = output.styled(sys.stderr)

    def at(self, number: int) -> None:
        took = time.monotonic() - self.began
        past = sum(step.seconds for step in self.steps[:number])
        left = sum(step.seconds for step in self.steps[number:])
        pace = took / past if past > 10 else 1.0
        text = (f"[{number + 1:2}/{len(self.steps)}] {self.steps[number].title}"
                f"  (about {duration(left * pace)} left)")
        self._show(text)

    def done(self) -> None:
        self._show(f"measured in {duration(time.monotonic() - self.began)}")
        if self.live:
            print(file=sys.stderr)

    def _show(self, text: str) -> None:
        if self.live:
            print(f"\r\x1b[K{text[:100]}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


# --- odds and ends --------------------------------------------------------------------------

def machine() -> dict[str, str]:
    model = ""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(errors="replace")
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.M)
        model = found[1] if found else ""
    except OSError:
        pass
    built = ""
    try:
        command = (BUILD / "compiled-with").read_bytes().strip()
        built = command.decode("utf-8", "replace")
        version = subprocess.run([b"sh", b"-c", command + b" --version"], capture_output=True)
        built += f"  ({version.stdout.decode('utf-8', 'replace').splitlines()[0]})"
    except (OSError, IndexError):
        pass
    return {"cpu": model or platform.processor(), "cpus": str(os.cpu_count()),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "built": built, "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())}


def time_to_start(name: str) -> float:
    """Seconds from starting the program until it says that it listens. Not by subprocess, which
    itself takes longer than the server does."""
    variant = harness.variants(name)[0]
    words = [str(variant.program), *variant.arguments, "-q", "-e", "0"]
    with tempfile.TemporaryFile() as out:
        began = time.monotonic()
        pid = os.posix_spawn(words[0], words, os.environ,
                             file_actions=[(os.POSIX_SPAWN_DUP2, out.fileno(), 1)])
        try:
            found = None
            while not found and time.monotonic() < began + 10:
                time.sleep(0.001)
                text = os.pread(out.fileno(), 1000, 0).decode()
                # When it started, by its own clock, and how long after that it listened.
                found = re.search(r"clock=([\d.]+).*\n\s*([\d.]+) listen", text)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    if not found:
        raise Unusable(f"{words[0]} did not start")
    return max(0.0, float(found[1]) + float(found[2]) - began)


def loaded_size(program: Path) -> Optional[int]:
    """Bytes that the system maps of it: code and data, without what only debuggers read."""
    data = program.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        return None
    (offset,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    total = 0
    for i in range(count):
        kind, _, _, _, _, in_file = struct.unpack_from("<IIQQQQ", data, offset + i * size)
        total += in_file if kind == 1 else 0
    return total


def has_valgrind() -> bool:
    try:
        return subprocess.run(["valgrind", "--version"], capture_output=True).returncode == 0
    except OSError:
        return False


def count_instructions(name: str) -> Optional[float]:
    """Instructions in user space for one message on one connection: the difference between two
    runs, so that what starting and stopping takes drops out."""
    runs = []
    for seconds in (0.1, 0.5):
        variant = harness.variants(name)[0]
        out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        process = subprocess.Popen(
            ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
             str(variant.program), *variant.arguments, "-q", "-e", "0"],
            stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        try:
            until, found = time.monotonic() + 30, None
            while not found and time.monotonic() < until and process.poll() is None:
                time.sleep(0.02)
                found = re.search(rb"address=\S+:(\d+)", os.pread(out.fileno(), 1000, 0))
            if not found:
                return None
            load = subprocess.run([str(BUILD / "load"), "-w", "0", "-t", str(seconds),
                                   found[1].decode()], capture_output=True, text=True)
            if load.returncode:
                return None
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        finally:
            process.kill()
            process.wait()
        counted = re.search(rb"Collected : (\d+)", os.pread(err.fileno(), 1 << 20, 0))
        if not counted:
            return None
        runs.append((json.loads(load.stdout)["targets"][0]["messages"], int(counted[1])))
    (few, less), (many, more) = runs
    return (more - less) / (many - few) if many > few else None


# --- what was hoped for ---------------------------------------------------------------------

def aim(text: str, wanted: str, figure: Optional[float], met: bool, shown: str) -> dict[str, Any]:
    known = figure is not None and not math.isnan(figure)
    return {"aim": text, "wanted": wanted, "figure": figure if known else None,
            "shown": shown if known else "not measured", "met": met if known else None}


def at_most(text: str, limit: float, figure: Optional[float], unit: str = "",
            digits: int = 2) -> dict[str, Any]:
    value = math.nan if figure is None else figure
    while value > limit >= round(value, digits):  # 1.102, where 1.10 would do
        digits += 1
    return aim(text, f"at most {limit:g}{unit}", value, value <= limit, f"{value:.{digits}f}{unit}")


def worst(text: str, limit: float, of: dict[str, Optional[float]], unit: str = "",
          digits: int = 2) -> dict[str, Any]:
    """One line for several: the one that costs most, and which that is."""
    known = {name: value for name, value in of.items()
             if value is not None and not math.isnan(value)}
    if not known:
        return at_most(text, limit, None, unit, digits)
    name = max(known, key=lambda each: known[each])
    found = at_most(text, limit, known[name], unit, digits)
    if len(known) > 1:
        found["shown"] += f", {name} (least {min(known.values()):.{digits}f}{unit})"
    return found


def aims(results: dict[str, Any], rivals: Sequence[str]) -> Iterator[dict[str, Any]]:
    figures = results["figures"]
    titles = {setting["id"]: setting["title"] for setting in results["settings"]}
    titles["50"], titles["500"] = "50 connections", "500 connections"
    titles["50x16"], titles["16k"] = "50 with 16 messages each", "50 with 16 KiB"

    def ratio(setting: str, a: str, b: str) -> float:
        return median(figures["ratios"][setting].get(f"{a}/{b}"))

    one, fifty = figures["calls"].get("1", {}), figures["calls"].get("50", {})
    for wanted, names in ((2, ["1"]), (3, SLEEPING)):
        got = {name: one[name]["all"] for name in names if name in one}
        far = max(got.values(), key=lambda value: abs(value - wanted), default=math.nan)
        yield aim("system calls a message, 1 connection, "
                  + ("1 blocking" if wanted == 2 else "stages 3 to 6"), f"exactly {wanted}", far,
                  abs(far - wanted) < 0.0005, f"{far:.3f}")
    yield worst("system calls a message, 50 connections, stages 3 to 6", 2.5,
                {LABELS[name]: fifty[name]["all"] for name in SLEEPING if name in fifty})
    for setting in titles:
        yield at_most(f"CPU, 6 epoll to 5 epoll, {titles[setting]}", 1.10,
                      ratio(setting, "6-epoll", "5"))
    for setting in ("50", "500", "50x16", "16k"):
        yield worst(f"CPU, stages 3 and 4 to 5 epoll, all of {titles[setting]} busy", 1.10,
                    {LABELS[name]: ratio(setting, name, "5") for name in ("3", "4")})
    yield at_most("CPU, 5 epoll to the floor, 1 connection", 1.10, ratio("1", "5", "floor"))
    for name in ("5", "6-epoll"):
        of = figures["silent"].get(name)
        if of:
            yield at_most(f"CPU, {LABELS[name]} beside {of['points'][-1]['silent']:,} silent "
                          "connections to beside 10", 1.15, median(of["growth"]))
    yield worst("memory for a silent connection, stages 3 to 6", 512,
                {LABELS[name]: of["bytes"] for name, of in figures["memory"].items()}, " bytes", 0)
    for title, of in figures["stalls"].items():
        yield worst(f"p99 of {title} messages on one connection", 20, {
            LABELS[name]: median(of[name]["p99"]) / 1000 for name in SERVERS if "p99" in of[name]
        }, " ms")
    for name, limit in (("5", 390), ("6-epoll", 520)):
        yield at_most(f"instructions a message, {LABELS[name]}", limit,
                      figures["instructions"].get(name), "", 0)
    for rival in rivals:
        for setting, limit in RIVAL_AIMS.get(rival, {}).items():
            for name in ("5", "6-epoll"):
                yield at_most(f"CPU, {LABELS[name]} to {rival}, {titles[setting]}", limit,
                              ratio(setting, name, rival))


# --- tables ---------------------------------------------------------------------------------

def amount(value: Optional[float], digits: int = 3) -> str:
    """1234567 -> 1,230,000; 0.012345 -> 0.0123"""
    if value is None or math.isnan(value):
        return "-"
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{round(value, digits - 1 - math.floor(math.log10(abs(value)))):,.{places}f}"


def micro(found: Optional[dict[str, float]], floor: Optional[float] = None) -> str:
    """CPU time in microseconds, its spread, and as a multiple of the floor."""
    if not found:
        return "-"
    value = found["median"]
    half = (found["high"] - found["low"]) / 2 / value * 100 if value else 0
    text = f"{amount(value / 1000)} ±{half:.0f}%"
    return text + (f" {amount(value / floor, 3)}x" if floor else "")


def table(title: str, note: str, columns: Sequence[str],
          rows: Sequence[tuple[str, Sequence[str]]]) -> dict[str, Any]:
    return {"title": title, "note": note, "columns": list(columns),
            "rows": [{"name": name, "cells": list(cells)} for name, cells in rows
                     if any(cell != "-" for cell in cells)]}


def tables(results: dict[str, Any], rivals: Sequence[str]) -> Iterator[dict[str, Any]]:
    figures, labels = results["figures"], results["labels"]
    names = ["floor", *SERVERS, *rivals]
    busy = figures["busy"]
    titles = [setting["title"] for setting in results["settings"]]
    ids = [setting["id"] for setting in results["settings"]]
    floors = {i: median(busy[FLOOR_OF[i]].get("floor", {}).get("cpu")) for i in ids}
    known = {i: floor for i, floor in floors.items() if not math.isnan(floor)}

    yield table(
        "1. CPU time a message, µs",
        "x: times the floor, which has one connection and the same messages. With many "
        "connections a server need not fall asleep and be woken for each message, so that it can "
        "cost less than the floor. Stage 1 serves one connection at a time. Stage 2 never sleeps: "
        "its messages cost all that it used up meanwhile.",
        titles,
        [(labels[name], [micro(busy[i].get(name, {}).get("cpu"), known.get(i)) for i in ids])
         for name in names])

    def rate(found: dict[str, Any]) -> str:
        text = amount(median(found.get("per_second")))
        return text + ("*" if text != "-" and median(found["load_busy"]) > 0.9 else "")

    yield table(
        "   Messages a second",
        "Does not repeat: conclude nothing from it. *: the load itself was busy, and the server "
        "could have done more.",
        titles, [(labels[name], [rate(busy[i].get(name, {})) for i in ids]) for name in names])
    yield table(
        "   Latency, µs: p50, p99", "Does not repeat: conclude nothing from it.",
        titles, [(labels[name], [
            f"{amount(median(busy[i][name]['p50']))}, {amount(median(busy[i][name]['p99']))}"
            if "p50" in busy[i].get(name, {}) else "-" for i in ids]) for name in names])

    silent = figures["silent"]
    levels = [10, 100, 900, 1000, 10_000]
    rows = []
    for name, of in silent.items():
        at = {point["silent"]: point["cpu"] for point in of["points"]}
        rows.append((labels[name], [micro(at.get(level)) for level in levels]
                     + [amount(median(of["growth"])) + "x", amount(max(0.0, of["slope_ns"]), 2)]))
    yield table(
        "2. CPU time a message, µs, beside silent connections",
        "One connection speaks. Growth: from the first to the last. The slope is what each silent "
        "connection adds to every message, in ns. select ends at 1,024 descriptors.",
        [f"{level:,}" for level in levels] + ["growth", "ns each"], rows)

    yield table(
        "3. Connections opened, used for one message, closed", "50 at a time.",
        ["a second", "CPU each, µs"],
        [(labels[name], [rate(of), micro(of.get("cpu"))])
         for name, of in figures["connect"].items()])

    def cell(value: Optional[float], unit: str, scale: float = 1.0) -> str:
        return "-" if value is None or math.isnan(value) else amount(value * scale) + unit

    yield table(
        "4. Memory, start-up, size",
        "Memory: the server's own (anonymous pages) for each silent connection, kernel buffers "
        "not counted. Start-up: until it listens. Size: what is mapped of the program.",
        ["bytes a silent connection", "start-up, ms", "size, KB"],
        [(labels[name], [cell(figures["memory"].get(name, {}).get("bytes"), ""),
                         cell(median(figures["start"].get(name)), "", 1000),
                         cell(figures["size"].get(name), "", 0.001)]) for name in SERVERS])
    chat = figures["chat"]
    yield table(
        "5. Chat: CPU time a delivered line, µs", "One member speaks, so many others listen.",
        [f"{members} members" for members in chat],
        [(labels[name], [micro(chat[members][name].get("cpu")) for members in chat])
         for name in ["2", *SLEEPING]])
    calls = figures["calls"]
    kinds = ("all", "waits", "recv", "send", "watch", "scanned")
    for connections, of in calls.items():
        what = "1 connection" if connections == "1" else f"{connections} busy connections"
        yield table(
            f"6. System calls a message, {what}", "From the servers' counters. Watch: changes of "
            "what is watched. Scanned: entries walked to find who is ready.", kinds,
            [(labels[name], [cell(of.get(name, {}).get(kind), "") for kind in kinds])
             for name in SERVERS])
    stalls = figures["stalls"]
    yield table(
        "7. Large messages on one connection: p99, ms", "A stall from Nagle's algorithm reads 40.",
        list(stalls), [(labels[name], [cell(median(of[name].get("p99")), "", 0.001)
                                       for of in stalls.values()]) for name in SERVERS])
    if figures["instructions"]:
        yield table("8. Instructions a message, in user space", "64 bytes, one connection, counted "
                    "by valgrind.", ["instructions"],
                    [(labels[name], [cell(figures["instructions"].get(name), "")])
                     for name in SERVERS])
    if rivals:
        yield table(
            "9. Beside others: CPU time, times theirs", "Slice against slice. Below 1: ours takes "
            "less.", titles,
            [(f"{labels[mine]} / {rival}",
              [cell(median(figures["ratios"][i].get(f"{mine}/{rival}")), "") for i in ids])
             for rival in rivals for mine in ("5", "6-epoll")])


def markdown(results: dict[str, Any]) -> str:
    """The tables, for a page such as NOTES.md."""
    chart = text_chart(results)
    machine = results["machine"]
    lines = [f"`make bench{' QUICK=1' if results['quick'] else ''}`, {machine['when']}, on "
             f"{machine['cpu']}, {machine['cpus']} CPUs, {machine['system']}.", ""]
    lines += ["CPU time a message, one connection speaks:", "", "```", chart, "```", ""] * bool(chart)
    for found in results["tables"]:
        lines += [f"**{found['title'].strip()}** {found['note']}", "",
                  "| | " + " | ".join(found["columns"]) + " |",
                  "|---" + "|---:" * len(found["columns"]) + "|"]
        lines += [f"| {row['name']} | " + " | ".join(row["cells"]) + " |" for row in found["rows"]]
        lines.append("")
    return "\n".join(lines)


def text_chart(results: dict[str, Any], width: int = 64, height: int = 18) -> str:
    """The chart of the silent connections in characters; both axes logarithmic."""
    lines = {name: [(point["silent"], median(point["cpu"]) / 1000) for point in of["points"]]
             for name, of in results["figures"]["silent"].items() if not name.startswith("6")}
    if not lines:
        return ""
    places = sorted({k for points in lines.values() for k, _ in points})
    if 1000 in places and 900 in places:
        places.remove(900)                # there is no room for both
    values = [v for points in lines.values() for _, v in points]
    low, high = min(values) * 0.7, max(values) * 1.3
    grid = [[" "] * width for _ in range(height)]

    def column(k: float) -> int:
        return round(math.log(k / places[0]) / math.log(places[-1] / places[0]) * (width - 3)) + 1

    def row(v: float) -> int:
        return height - 1 - round(math.log(v / low) / math.log(high / low) * (height - 1))

    for points in lines.values():
        for (k, v), (next_k, next_v) in zip(points, points[1:]):
            for at in range(column(k), column(next_k) + 1):
                share = (at - column(k)) / (column(next_k) - column(k))
                grid[row(v * (next_v / v) ** share)][at] = "."
    for name, points in lines.items():
        for k, v in points:
            cells, at = grid[row(v)], column(k)
            cells[at if cells[at] in " ." or at + 1 == width else at + 1] = name
    text, scale = [], {row(v): v for power in range(-1, 8) for v in (10.0 ** power,)
                       if low <= v <= high}
    for i, cells in enumerate(grid):
        text.append(f"{bench_page.number(scale[i]) + ' µs' if i in scale else '':>10} |"
                    + "".join(cells).rstrip())
    ruler = [" "] * (width + 8)
    for k in places:
        label = bench_page.number(k)
        at = max(0, column(k) - len(label) // 2)
        ruler[at:at + len(label)] = label
    text += [" " * 10 + " +" + "-" * width, " " * 12 + "".join(ruler).rstrip(),
             " " * 12 + "silent connections; the digits are the stages"]
    return "\n".join(text)


def show(results: dict[str, Any]) -> None:
    colour = output.styled(sys.stdout)
    bold, red, green, plain = ("\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[0m") if colour else [""] * 4
    for found in results["tables"]:
        if not found["rows"]:
            continue
        first = max(len(row["name"]) for row in found["rows"])
        widths = [max([len(column)] + [len(row["cells"][i]) for row in found["rows"]])
                  for i, column in enumerate(found["columns"])]
        print(f"\n{bold}{found['title']}{plain}")
        print(" " * first + "".join(f"  {column:>{width}}" for column, width
                                    in zip(found["columns"], widths)))
        for row in found["rows"]:
            print(f"{row['name']:{first}}" + "".join(
                f"  {cell:>{width}}" for cell, width in zip(row["cells"], widths)))
    known = [found for found in results["aims"] if found["met"] is not None]
    print(f"\n{bold}Aims{plain}: {sum(found['met'] for found in known)} of {len(known)} met")
    for found in results["aims"]:
        if found["met"] is None:
            word = "-     "
        else:
            word = f"{green}met   {plain}" if found["met"] else f"{red}MISSED{plain}"
        print(f"  {word} {found['aim']}: {found['shown']} ({found['wanted']})")
    for note in results["notes"]:
        print(f"note: {note}")


# --- the command line -----------------------------------------------------------------------

def rivals_of(text: str) -> dict[str, str]:
    """'libuv=/tmp/uv-echo asio="/tmp/asio -x"' -> what to start by what name."""
    rivals = {}
    for word in shlex.split(text):
        name, equals, command = word.partition("=")
        program = shlex.split(command)[:1]
        if not equals or not re.fullmatch(r"[A-Za-z][\w.-]*", name) or not program:
            raise Unusable(f"RIVALS: {word!r}: name=program is wanted")
        if not os.access(program[0], os.X_OK):
            raise Unusable(f"RIVALS: {program[0]} is no program")
        rivals[name] = command
    return rivals


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench.py", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measures what each stage costs. Started by `make bench`.",
        epilog="Rivals: RIVALS in the environment, or --rivals, names other echo servers, which "
               "are measured\nbeside the eight with busy connections:\n\n"
               "    make bench RIVALS=\"libuv=/tmp/uv-echo mine=./mine\"\n\n"
               "Each is started with a port as its last word, and is to echo what comes to "
               "127.0.0.1 on that\nport until it is killed. For the names libuv, libevent and "
               "asio there are aims, too.")
    parser.add_argument("--quick", action="store_true", help="in less than a minute (QUICK=1)")
    parser.add_argument("--rivals", default=os.environ.get("RIVALS", ""), metavar="NAME=PROGRAM...",
                        help="other echo servers to measure beside ours; see below")
    parser.add_argument("--only", default="", metavar="REGEX",
                        help="only the steps whose title this matches: busy, silent, chat ...")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X",
                        help="measure X times as long")
    parser.add_argument("--again", action="store_true",
                        help="measure nothing: show build/bench.json once more, write the page")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--out", type=Path, default=BUILD, metavar="DIR",
                        help="where bench.json and bench.html go (build)")
    options = parser.parse_args()
    try:
        re.compile(options.only)
    except re.error as wrong:
        parser.error(f"--only: {wrong}")
    if not 0 < options.scale <= 100:
        parser.error("--scale: a number above 0, up to 100, is wanted")
    try:
        rivals = rivals_of(options.rivals)
    except Unusable as wrong:
        parser.error(str(wrong))
    if harness.SANITIZED:
        parser.error("SAN=1: what is sanitized is many times slower; there is nothing to learn")
    harness.end_on_sigterm()
    json_file, page = options.out / "bench.json", options.out / "bench.html"
    try:
        if options.again:
            results = json.loads(json_file.read_text())
        else:
            for program in [BUILD / "load", BUILD / "floor"]:
                if not program.exists():
                    raise Unusable(f"{program} is not there: run make bench")
            began = time.monotonic()
            bench = Bench(options.quick, options.scale, rivals)
            bench.run(options.only)
            results = bench.results(time.monotonic() - began)
            options.out.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps(results, indent=1) + "\n")
        page.write_text(bench_page.page(results), encoding="utf-8")
    except FileNotFoundError as wrong:
        print(f"bench: {wrong.filename} is not there", file=sys.stderr)
        return 1
    except (Unusable, harness.Late) as wrong:
        print(f"\nbench: {wrong}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbench: interrupted", file=sys.stderr)
        return 130
    if options.markdown:
        print(markdown(results))
    else:
        show(results)
        print(f"\nall of it: {os.path.relpath(json_file)}\nthe page:  {os.path.relpath(page)}")
    return 0
