"""Whether a recording is true: what has to hold for every call, and at every rest.

    complaints(story, raw, program)   -> what does not hold, in words; [] if all does
"""

from __future__ import annotations

import errno
import platform
from itertools import islice
from typing import Iterator

from tests.replay.model import EDGE, ERROR, HANGUP, READ, URGENT, WAITS, WRITE, letters
from tests.replay.programs import Program
from tests.replay.record import CLOSE_WAIT, Raw, lost_bytes, totals
from tests.replay.stories import Story

MOST = 256                                 # what epoll_wait() has room for
NUMBERS = {                                # of system calls, by machine
    "x86_64": {23: "select", 270: "select", 7: "poll", 271: "poll", 232: "epoll_wait",
               281: "epoll_wait", 43: "accept", 288: "accept", 45: "recv", 44: "send"},
    "aarch64": {72: "select", 73: "poll", 22: "epoll_wait", 202: "accept", 242: "accept",
                207: "recv", 206: "send"}}
# How the lines of a selector's user read.
BY_SELECTOR = {"epoll_ctl": ("register_fd(", "modify(", "unregister("),
               "epoll_wait": ("select(",), "poll": ("select(",), "select": ("select(",)}


def complaints(story: Story, raw: Raw, program: Program) -> list[str]:
    said = [*_waits(raw), *_order(raw), *_bytes(raw), *_proc(raw), *_lines(raw, program),
            *_narration(raw), *_watched(raw)]
    if story.service == "echo":
        said += _outboxes(raw)
    return [f"{story.name}, {program.id}: {text}" for text in said]


def _calls(raw: Raw) -> list[Raw]:
    return [call for call in raw["calls"] if "call" in call]


def _interest(raw: Raw) -> Iterator[tuple[Raw, dict[int, int]]]:
    """Each call, and what epoll has been told to watch until then."""
    watched: dict[int, int] = {}
    for call in _calls(raw):
        yield call, watched
        if call["call"] == "epoll_ctl" and not call["errno"]:
            watched.pop(call["fd"], None)
            if call["with"][0] != 2:
                watched[call["fd"]] = call["with"][1]
        elif call["call"] == "close":
            watched.pop(call["fd"], None)


def _waits(raw: Raw) -> Iterator[str]:
    """What was reported was so; and of what was watched and so, nothing was passed over."""
    for call, interest in _interest(raw):
        if call["call"] not in WAITS or call["errno"]:
            continue
        watched = dict(call.get("watched", [])) or interest
        before = {row[0]: row[4] for row in call["before"]}
        after = {row[0]: row[4] for row in call["after"]}
        found = dict(call["found"])
        for fd, events in found.items():
            so = before.get(fd, 0) | after.get(fd, 0)
            so |= (READ | WRITE | URGENT) * bool(so & (ERROR | HANGUP))
            if events & ~so or not events & (watched.get(fd, 0) | ERROR | HANGUP):
                yield f"{call['call']} reported {fd}:{events:#x}, and it was {so:#x}"
        for fd, wanted in watched.items():
            missed = wanted & before.get(fd, 0) & (READ | WRITE | URGENT) & ~found.get(fd, 0)
            if missed and not wanted & EDGE and len(found) < MOST:
                yield f"{call['call']} did not report {fd}:{missed:#x}"


def _order(raw: Raw) -> Iterator[str]:
    now = 0.0
    for call in _calls(raw):
        if not now <= call["t0"] <= call["t1"]:
            yield f"{call['call']} at {call['t0']}: time runs backwards"
        now = call["t1"]


def _bytes(raw: Raw) -> Iterator[str]:
    for step in raw["steps"]:
        done = [call for call in _calls(raw) if call["t1"] <= step["rest"]["at"]]
        for text in lost_bytes(step["rest"], done, raw["clients"]):
            yield f'"{step["text"]}": {text}'


def _outboxes(raw: Raw) -> Iterator[str]:
    """An echo offers what it has received, and has not sent yet."""
    owed: dict[int, int] = {}
    first: dict[int, str] = {}             # bytes of that, while all of it is to be sent
    for call in _calls(raw):
        fd, result = call["fd"], max(0, call["result"])
        if call["call"] == "accept":
            owed[result] = 0
        elif call["call"] == "recv":
            if result and not owed[fd]:
                first[fd] = call["data"]
            owed[fd] += result
        elif call["call"] == "send":
            if call["with"][0] != owed[fd]:
                yield f"send() on {fd} offers {call['with'][0]}; {owed[fd]} were to be sent"
            if not call["data"].startswith(first.get(fd, "")):
                yield f"send() on {fd} offers {call['data']}; {first[fd]} was received"
            if result:
                first[fd] = ""
            owed[fd] -= result


def _proc(raw: Raw) -> Iterator[str]:
    """The recorder, inside, and /proc, outside, say the same."""
    names = NUMBERS.get(platform.machine(), {})
    interest, at = list(_interest(raw)), 0
    for step in raw["steps"]:
        rest, sleeper = step["rest"], step["rest"]["asleep"]
        while at < len(interest) and interest[at][0]["t1"] <= rest["at"]:
            at += 1
        number, *given = rest["syscall"].split() or [""]     # it may not be read everywhere
        if sleeper and number.isdigit() and names:
            inside = (sleeper["call"], sleeper["fd"])
            outside = (names.get(int(number)), int(given[0], 16) if sleeper["fd"] >= 0 else -1)
            if inside != outside:
                yield f"asleep in {inside}, and /proc says {outside}"
        if rest["epoll"] is not None:
            watched = _after(raw, rest["at"])
            mask = READ | WRITE | URGENT | EDGE
            if {fd: events & mask for fd, events in rest["epoll"]} != {
                    fd: events & mask for fd, events in watched.items()}:
                yield f"epoll watches {rest['epoll']}, and was told {watched}"
        yield from _queues(raw, step)


def _after(raw: Raw, at: float) -> dict[int, int]:
    done = {**raw, "calls": [call for call in _calls(raw) if call["t1"] <= at]}
    # One more, so that the last is seen, too.
    done["calls"].append({"call": "", "fd": -1})
    return [watched for _, watched in _interest(done)][-1]


def _queues(raw: Raw, step: Raw) -> Iterator[str]:
    rest, sleeper = step["rest"], step["rest"]["asleep"]
    look = {row[0]: row for row in rest["sockets"]}
    holders = {port: fd for port, (fd, _, _) in totals(
        [call for call in _calls(raw) if call["t1"] <= rest["at"]]).items() if fd >= 0}
    for own, peer, state, out, into, inode in rest["tcp"]:
        fd = holders.get(peer)
        if fd in look and inode and not 0 <= into - look[fd][2] <= (state == CLOSE_WAIT):
            yield f"fd {fd} has {look[fd][2]} to be read, and /proc says {into}"
        if fd in look and inode and out != look[fd][3]:
            yield f"fd {fd} has {look[fd][3]} in its send queue, and /proc says {out}"
        if not peer and look and [row[2] for row in look.values() if row[1] == "l"] != [into]:
            yield f"{into} wait to be accepted, says /proc; there are {look}"
    # While it sleeps a queue can only grow; and one that it is woken by cannot even do that.
    wakes = dict(sleeper.get("watched", ())) or _after(raw, rest["at"]) if sleeper else {}
    if sleeper and sleeper["call"] in ("accept", "recv"):
        wakes = {sleeper["fd"]: READ}
    for fd, _, into, _, ready, peeked in sleeper["before"] if sleeper and look else ():
        outside = look.get(fd, [fd, "", into, 0, ready, peeked])
        grown = outside[2] > into and not wakes.get(fd, 0) & READ
        same = outside[2] == into and outside[5] == peeked
        if not (grown or same) or ready & ~outside[4] & ~WRITE:
            yield f"the recorder saw {into} at {fd}, and from outside there is {outside}"


def _lines(raw: Raw, program: Program) -> Iterator[str]:
    """The line that a call is said to stand in has it."""
    for call in [*_calls(raw), *(step["rest"]["asleep"] for step in raw["steps"]
                                 if step["rest"]["asleep"])]:
        frames = [frame for frame in call["stack"] if frame[2]]
        own = [frame for frame in frames if frame[1] == "server.cpp"]
        for _, name, number in frames[:1] + own[:1]:
            text = program.line(name, number)
            urgent = call["call"] == "recv" and call["with"][1]
            wanted = ["recv_urgent(" if urgent and name == "server.cpp" else call["call"] + "("]
            if name == "server.cpp" and program.variant.stage == 6:
                wanted += BY_SELECTOR.get(call["call"], ())
            if not any(word in text for word in wanted):
                yield f"{call['call']}() is not in {name}:{number}: {text.strip()}"


def _narration(raw: Raw) -> Iterator[str]:
    """The server says what it did: one line for each of these calls. Of calls for nothing there
    are as many."""
    lines = [line for line, count in raw["narration"] for _ in range(count)]
    more = sum(sum(call.get("more", {}).values()) for call in raw["calls"])
    seen = [line for line in (_said(raw, *each) for each in _interest(raw)) if line]
    ignored = []
    if raw["stage"] == 2:                  # says nothing of calls for nothing
        seen = [line for line in seen if not line.endswith(" EAGAIN")]
    elif more:                             # only counted: so many, and some until the stop
        if not 0 <= len(lines) - len(seen) - more <= 8:
            yield f"{len(seen)} calls and {more} more, and {len(lines)} lines"
        ignored.append("wait")
    if not raw["column"].isdigit() or not any(line.startswith("watch") for line in seen):
        ignored.append("watch")            # its own list; a variant may change it without a word
    lines, seen = ([line for line in all_ if line.split()[0] not in ignored]
                   for all_ in (lines, seen))
    for at, line in enumerate(seen):
        if at >= len(lines) or lines[at] != line:
            yield f"call {at + 1} is {line!r}, and the server says {lines[at:at + 1]}"
            return
    if len(lines) - len(seen) > bool(more):            # the wait that the stop ended
        yield f"the server says more: {lines[len(seen):][:3]}"


def _watched(raw: Raw) -> Iterator[str]:
    """select() and poll() are handed just what the server says that it watches."""
    if not raw["column"].isdigit() or any("more" in call for call in raw["calls"]):
        return                             # a variant may change its list without a word
    waits = (call for call in _calls(raw) if call["call"] in WAITS)
    watched: dict[str, str] = {}
    for line, count in raw["narration"]:
        verb, *words = line.split()
        if verb == "watch":
            watched[words[0]] = words[1]
        for call in islice(waits, count if verb == "wait" else 0):
            given = {str(fd): letters(events) for fd, events in call.get("watched", ())}
            if given and given != {fd: how for fd, how in watched.items() if how != "-"}:
                yield f"{call['call']}() was handed {given}, and is said to watch {watched}"


def _said(raw: Raw, call: Raw, interest: dict[int, int]) -> str:
    """The line for a call; "" for one that is not told."""
    name, fd, result = call["call"], call["fd"], call["result"]
    error = errno.errorcode[call["errno"]] if call["errno"] else ""
    if name in WAITS:
        watched = dict(call.get("watched", [])) or interest
        selects = raw["stage"] == 6        # where what is broken counts as all that it wants
        found = ",".join(
            f"{fd}:{letters(watched[fd] if selects and events & (ERROR | HANGUP) else events)}"
            for fd, events in call["found"])
        return f"wait {name} {error or found or '-'}"
    if name == "epoll_ctl":
        return f"watch {fd} {letters(call['with'][1]) * (call['with'][0] != 2) or '-'}"
    if name == "accept":
        return f"accept {fd} {error}" if error else f"accept {result} {call['peer']}"
    if name == "recv" and call["with"][1]:
        return "" if error else f"urgent {fd}"
    if name in ("recv", "send"):
        data = call["data"][:16] if name == "recv" and result > 0 else ""
        return f"{name} {fd} {error or result} {data}".rstrip()
    return f"close {fd}" if any(row[0] == fd and row[1] == "c" for row in call["before"]) else ""
