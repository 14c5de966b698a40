"""How many workers does one newcomer wake? A server with several workers (tests/variants/workers),
once for each way to listen:

    python3 -m tests.tools.herd [--workers N] [--connections N]

own: each worker has a listener of its own (SO_REUSEPORT); shared: the epolls of all workers watch
the same one; exclusive: the same, with EPOLLEXCLUSIVE. The connections are made one after the
other, each only when all workers sleep.

A worker that is woken falls asleep again afterwards, which the system counts (proc(5),
voluntary_ctxt_switches). If another one was faster, it either calls accept() and gets EAGAIN, or
comes so late that epoll_wait() itself finds nothing any more, and sleeps on: that costs the same
changes from one process to another, but no counter of the program shows it.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests import output
from tests.bugs.patches import Wrong, built, path_of, read_bug
from tests.harness import DEADLINE, Client, Late, Process, Server, Variant, end_on_sigterm
from tests.harness.narration import Event, parse

WAYS = ("own", "shared", "exclusive")
LINE = re.compile(r"^ ?(\d+) \| (.*)\n", re.M)             # of a worker


def variant() -> Variant:
    return Variant("workers", "5", 5, built(read_bug(path_of("workers")),
                                            sanitizer=os.environ.get("SAN", "")))


def start(workers: int, *words: str, services: tuple[str, ...] = ("echo",)) -> Server:
    """With all its workers up."""
    server = Server(variant(), services, ["-j", str(workers), *words])
    try:
        server.wait_until(lambda: len(pids(server)) == workers, f"{workers} workers")
    except BaseException:
        server.kill()
        raise
    return server


def lines(server: Server) -> dict[int, list[Event]]:
    """What each worker has narrated so far."""
    found: dict[int, list[Event]] = {}
    for number, line in LINE.findall(server.narration()):
        found.setdefault(int(number), []).append(parse(line))
    return found


def last(server: Server, verb: str) -> dict[int, Event]:
    """The last such line of each worker that has one."""
    return {number: event for number, events in lines(server).items()
            for event in events if event.verb == verb}


def pids(server: Server) -> dict[int, int]:
    return {number: event["pid"] for number, event in last(server, "start").items()}


def sleeps(workers: list[Process]) -> int:
    """How often they have fallen asleep until now."""
    found = 0
    for worker in workers:
        status = Path(f"/proc/{worker.pid}/status").read_text(encoding="ascii", errors="replace")
        found += int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return found


def settle(workers: list[Process]) -> None:
    """Until all of them sleep, each in its wait."""
    def used() -> list[float]:
        return [worker.cpu() for worker in workers]

    until = time.monotonic() + DEADLINE
    before = used()
    while time.monotonic() < until:
        time.sleep(0.002)
        now = used()
        if now == before and all(worker.state() == "S" for worker in workers):
            return
        before = now
    raise Late("the workers do not come to rest")


@dataclass(frozen=True)
class Seen:
    woken: float                           # workers, by each newcomer
    vain: float                            # of them, that called accept() and found nobody
    accepted: list[int]                    # by each worker


def measure(way: str, workers: int, connections: int) -> Seen:
    with start(workers, "-l", way, "-q") as server:
        watched = [Process(pid) for pid in pids(server).values()]
        woken = 0
        for _ in range(connections):
            settle(watched)
            before = sleeps(watched)
            with Client(server.address()) as client:
                settle(watched)
                woken += sleeps(watched) - before
                client.exchange(b"hello\n")
        settle(watched)
        server.stop()
        counters = sorted(last(server, "stats").items())
    return Seen(woken / connections,
                sum(event["would_block"] for _, event in counters) / connections,
                [event["accept"] - event["would_block"] for _, event in counters])


def main() -> int:
    words = argparse.ArgumentParser(prog="herd", description=(__doc__ or "").partition("\n\n")[0])
    words.error = lambda message: words.exit(2, f"herd: {message}\n")      # type: ignore
    words.add_argument("--workers", type=int, default=4)
    words.add_argument("--connections", type=int, default=100)
    options = words.parse_args()
    if not 2 <= options.workers <= 64 or options.connections < 1:
        words.error("2 to 64 workers and a connection are wanted")
    end_on_sigterm()
    print(f"{options.connections} connections, one after the other, to {options.workers} workers\n")
    print("-l         woken by each   accept() found none   accepted by each worker")
    try:
        for way in WAYS:
            seen = measure(way, options.workers, options.connections)
            print(f"{way:9} {seen.woken:14.2f} {seen.vain:21.2f}   "
                  + " ".join(map(str, seen.accepted)), flush=True)
    except (Wrong, Late) as wrong:
        print(f"herd: {str(wrong).splitlines()[0]}", file=sys.stderr)
        return 2 if isinstance(wrong, Wrong) else 1
    return 0


if __name__ == "__main__":
    output.run(main, "herd")
