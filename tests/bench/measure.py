"""What is started and measured, step by step.

    pinned      load and servers on one CPU, taking turns in slices of 50 ms. CPU time per message
                is from here: ratios repeat within a few per cent, on a noisy machine, too.
    apart       load and servers wherever the system puts them. Messages a second and latencies
                are from here. They do not repeat: look at them, but conclude nothing from them.

Stage 2 never sleeps. On one CPU with the others it would take from all of them, so it is
measured alone and apart, and its CPU time per message is what it takes there.
"""

from __future__ import annotations

import math
import os
import re
import resource
import shutil
import statistics
import time
from functools import partial
from typing import Any, Callable, Iterator, NamedTuple, Sequence

from tests import harness
from tests.bench.programs import (Running, Unusable, count_instructions, loaded_size,
                                  time_to_start)
from tests.bench.samples import Samples
from tests.bench.settings import (BUSY, BY_EPOLL, BY_SELECT, FLOOR_OF, LABELS, ON_ALL, SERVERS,
                                  SLEEPING, STALLS, Setting)
from tests.bench.show import progress
from tests.compare.lessons import calls
from tests.output.figures import duration


class Step(NamedTuple):
    title: str
    seconds: float                # about
    run: Callable[[], None]


class Bench:
    def __init__(self, quick: bool, scale: float, rivals: dict[str, str],
                 variants: Sequence[str] = ()) -> None:
        self.quick, self.rivals, self.variants = quick, rivals, variants
        self.scale = scale * (0.3 if quick else 0.7)
        self.rounds = 1 if quick else 3
        self.samples = Samples()
        self.figures: dict[str, Any] = {"size": {}, "memory": {}, "calls": {}, "instructions": {},
                                        "floor_of": FLOOR_OF}
        self.missing: list[str] = []
        self.took: list[dict[str, Any]] = []
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        self.descriptors = hard if hard != resource.RLIM_INFINITY else 1 << 30
        self.pin = ["-p", max(os.sched_getaffinity(0))]

    def seconds(self, base: float) -> float:
        return max(0.01, round(base * self.scale, 3))

    def times(self, base: float) -> list[Any]:
        slices = max(0.01, min(0.05, self.seconds(base)))
        return ["-t", self.seconds(base), "-w", min(0.1, self.seconds(0.1)),
                "-l", f"{slices * 1000:.0f}"]

    def lacks(self, note: str) -> None:
        if note not in self.missing:
            self.missing.append(note)

    def take(self, table: str, setting: str, names: Sequence[str], shape: Sequence[Any],
             pinned: float = 0, apart: float = 0, alone: float = 0.3,
             service: str = "echo") -> None:
        """So many seconds pinned, and so many apart; then stage 2, alone."""
        with Running(names, service, self.rivals) as servers:
            if pinned:
                self.samples.add_cpu(table, setting,
                                     servers.load(*self.pin, *shape, *self.times(pinned)))
            if apart:
                self.samples.add_speed(table, setting, servers.load(*shape, *self.times(apart)))
        with Running(["2"], service) as servers:
            found = servers.load(*shape, *self.times(alone))
        self.samples.add_cpu(table, setting, found)
        self.samples.add_speed(table, setting, found)

    def busy(self, setting: Setting) -> None:
        message = ["-d", setting.depth, "-s", setting.size]
        names = [*SLEEPING, *self.variants, *self.rivals]
        if setting.connections == 1:       # on the same terms as the others, slice by slice
            names = ["floor", "1", *names]
        elif setting.floor == setting.id:
            with Running(["floor"]) as servers:
                self.samples.add_cpu("busy", setting.id, servers.load(
                    *self.pin, "-c", 1, *message, *self.times(0.8)))
        self.take("busy", setting.id, names, ["-c", setting.connections, *message],
                  pinned=0.8, apart=0.3)

    def levels(self, name: str, last: bool) -> list[int]:
        """How many silent connections; all levels at once must fit into one load."""
        if name in BY_SELECT:
            return [10, 100, 900]
        if name == "threads":              # one each
            return [10, 100, 1000]
        most = [10, 100, 1000, 10_000]
        if name in ("2", "4", "6-poll") and (self.quick or not last):
            most = most[:3]               # to let so many in takes them half a minute
        while sum(most) + 100 > self.descriptors and len(most) > 1:
            most.pop()
            self.lacks(f"a process may have {self.descriptors} descriptors here (ulimit -n): "
                       f"the silent connections end at {most[-1]}")
        return most

    def silent(self, name: str, last: bool) -> None:
        levels = self.levels(name, last)
        if name == "2":
            for level in levels:
                self.take("silent", str(level), [], ["-k", level, "-o", 60])
            return
        with Running([f"{name}@{level}" for level in levels]) as servers:
            found = servers.load(*self.pin, *self.times(0.8), "-o", 60, silent=levels)
        for level in levels:
            self.samples.add_cpu("silent", str(level), {name: found[f"{name}@{level}"]})
        memory = found[f"{name}@{levels[-1]}"]["memory"]["per_silent"]
        if memory is not None:
            self.figures["memory"][name] = {"silent": levels[-1], "bytes": memory}

    def on_all(self, connections: int) -> None:
        """Stage 5 on one of the CPUs, beside variants that use all; the load takes its part."""
        names = ["5", *(f"{name}@all" for name in ON_ALL if name in self.variants)]
        for name in names:                 # each alone: nobody else is to have a CPU
            with Running([name]) as servers:
                found = servers.load("-c", connections, *self.times(0.8))
            found = {name.partition("@")[0]: found[name]}
            self.samples.add_speed("on_all", str(connections), found)

    def connect(self) -> None:
        self.take("connect", "50", [name for name in SERVERS if name != "2"],
                  ["-m", "connect", "-c", 50], pinned=0.4, apart=0.3)

    def start(self) -> None:
        for _ in range(5 if self.quick else 15):
            for name in SERVERS:
                self.samples.values["start", "", name]["seconds"].append(time_to_start(name))
        for name in SERVERS:
            self.figures["size"][name] = loaded_size(harness.variants(name)[0].program)
        if not any(self.figures["size"].values()):
            self.lacks("size is not there (it is one of the binutils): no sizes are shown")

    def chat(self, members: int) -> None:
        self.take("chat", str(members), SLEEPING, ["-m", "chat", "-c", members], pinned=0.5,
                  service="chat")

    def calls(self) -> None:
        for connections in (1, 50):
            of = self.figures["calls"].setdefault(str(connections), {})
            for name in SERVERS:
                if name == "1" and connections > 1:
                    continue
                found = [self.calls_of(name, connections) for _ in range(self.rounds)]
                of[name] = {kind: statistics.median(each[kind] for each in found)
                            for kind in found[0]}
                of[name]["all"] = calls(of[name], name)

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

    def stalls(self, title: str) -> None:
        self.take("stalls", title, ["1", *SLEEPING], ["-s", STALLS[title]], apart=0.5, alone=0.5)

    def instructions(self) -> None:
        valgrind = shutil.which("valgrind")
        if not valgrind:
            self.lacks("valgrind is not there: instructions were not counted")
            return
        for name in BY_EPOLL if self.quick else ("1", *SLEEPING):
            try:
                self.figures["instructions"][name] = count_instructions(valgrind, name)
            except (Unusable, harness.Late) as wrong:
                self.lacks(f"instructions of {LABELS[name]} were not counted: {wrong}")

    def steps(self) -> Iterator[Step]:
        unit = self.scale
        for number in range(self.rounds):
            last = number == self.rounds - 1
            for setting in BUSY:
                count = (9 if setting.connections == 1 else 7) + len(self.rivals) + len(
                    self.variants)
                yield Step(f"busy: {setting.title}", unit * count * 1.4 + 1,
                           partial(self.busy, setting))
            for name in ["2", *SLEEPING, *self.variants]:
                slow = 25 if name in ("2", "4", "6-poll") and last and not self.quick else 0
                yield Step(f"beside silent ones: {LABELS.get(name, name)}", unit * 4 + 1 + slow,
                           partial(self.silent, name, last))
            for connections in (50, 500) if set(self.variants) & set(ON_ALL) else ():
                yield Step(f"on all CPUs: {connections}", unit * 4 + 2,
                           partial(self.on_all, connections))
            yield Step("connections opened and closed", unit * 8 + 1, self.connect)
            for members in (10, 100, 1000) if last and not self.quick else (10, 100):
                yield Step(f"chat: {members} members", unit * 5 + members / 50,
                           partial(self.chat, members))
        yield Step("start-up and size", 2, self.start)
        yield Step("system calls", (unit * 12 + 3) * self.rounds, self.calls)
        for title in STALLS:
            yield Step(f"stalls: {title}", unit * 5 + 1, partial(self.stalls, title))
        yield Step("instructions (valgrind)", 5 if self.quick else 20, self.instructions)

    def run(self, only: str = "") -> None:
        steps = [step for step in self.steps() if re.search(only, step.title)]
        began = time.monotonic()
        for i, step in enumerate(steps):
            past, left = (sum(each.seconds for each in part) for part in (steps[:i], steps[i:]))
            now = time.monotonic()
            pace = (now - began) / past if past > 10 else 1.0
            progress(f"[{i + 1:2}/{len(steps)}] {step.title}  (about {duration(left * pace)} left)")
            step.run()
            self.took.append({"step": step.title, "expected": step.seconds,
                              "seconds": time.monotonic() - now})
        progress(f"measured in {duration(time.monotonic() - began)}", end="\n")
