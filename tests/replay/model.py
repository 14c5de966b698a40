"""What is shown of a recording: for each step of a story, and for each server, one picture.

    model(story, recordings, programs)   -> {"steps": [...], "columns": [...]}, fit for JSON

Servers are aligned by what they do: a row is a call that some of them make, and who does not
make it stays as it was. Calls that end a sleep are one row, and so is the rest after a step.
"""

from __future__ import annotations

import errno
import socket
from difflib import SequenceMatcher
from typing import Any, Callable, Iterator, Optional

from tests.replay.programs import Program
from tests.replay.record import Raw
from tests.replay.stories import Story

READ, URGENT, WRITE, ERROR, HANGUP = 0x1, 0x2, 0x4, 0x8, 0x10
LETTERS = ((READ, "r"), (WRITE, "w"), (URGENT, "x"), (ERROR | HANGUP, "h"))
EDGE, ONE_SHOT = 1 << 31, 1 << 30
WAITS = ("select", "poll", "epoll_wait")
CONTROL = {1: "EPOLL_CTL_ADD", 2: "EPOLL_CTL_DEL", 3: "EPOLL_CTL_MOD"}

Picture = dict[str, Any]
Row = tuple[Any, Picture, Picture, bool]       # what it is aligned by, before, after, if it matters


def letters(events: int) -> str:
    return "".join(letter for bits, letter in LETTERS if events & bits)


def words(events: int) -> str:
    """What it is watched for, or ready for."""
    named = [name for bits, name in ((READ, "reading"), (WRITE, "writing"), (URGENT, "urgent data"))
             if events & bits]
    return " and ".join(named) or "nothing"


def size(count: int) -> str:
    return f"{count:,} byte{'s' * (count != 1)}"


def printable(data: str) -> str:
    """The first bytes, from hexadecimal digits."""
    text = bytes.fromhex(data).decode("latin-1").encode("unicode_escape").decode()
    return text if len(data) < 24 else text + "..."


class Teller:
    """Follows one server from call to call, and draws a picture after each."""

    def __init__(self, story: Story, raw: Raw, program: Program) -> None:
        self.story, self.raw, self.program = story, raw, program
        self.ports = {port: name for name, port in raw["clients"].items()}
        self.names: dict[int, str] = {}            # by descriptor
        self.watched: dict[int, int] = {}
        self.told: dict[int, int] = {}             # by the last wait
        self.whose: dict[int, str] = {}            # the numbers that it told of
        self.once: dict[int, int] = {}             # what was last told of each
        self.outbox: dict[int, int] = {}
        self.reset: set[int] = set()               # a call on them has failed with that
        self.kernel: list[list[Any]] = []          # sockets, as the recorder has them
        self.clients: dict[str, Raw] = {}
        self.asked: dict[str, int] = {}            # since which step a client waits
        self.since = 0
        self.round: list[Raw] = []                 # calls for nothing, one of each
        self.last: Optional[Raw] = None
        self.cost, self.kind = "", "none"

    # --- what happens -----------------------------------------------------------------------

    def steps(self) -> Iterator[tuple[Raw, list[Row], Picture]]:
        """Each step of the story: the calls in it, then the rest."""
        calls = [call for call in self.raw["calls"] if "call" in call]
        counted, at, who_sleeps = 0, 0, None
        for number, step in enumerate(self.raw["steps"]):
            rest, rows, vain, fresh = step["rest"], [], 0, False
            self.since = number
            self.clients = {name: self.not_yet(name, seen)
                            for name, seen in rest["clients"].items()}
            self.note_waiting(number)
            while at < len(calls) and calls[at]["t1"] <= rest["at"]:
                call = calls[at]
                at += 1
                woke = who_sleeps is not None and call["t0"] == who_sleeps["t0"]
                fresh = True
                if repeats(call):
                    self.round.append(call)
                if call["errno"] == errno.EAGAIN and self.raw["stage"] == 2:
                    vain += 1
                    continue
                if not repeats(call):
                    self.round = []
                row = self.row(call, woke)
                before = self.picture({"before": self.kernel, **call}, "calls")
                after = self.picture(call, "woke" if woke else "returned", vain)
                rows.append((row, before, after, matters(call)))
                vain = 0
            self.clients = rest["clients"]
            self.note_waiting(number)
            who_sleeps = rest["asleep"]
            more = rest["counted"] if fresh else rest["counted"] - counted
            counted = rest["counted"]
            yield step, rows, self.at_rest(rest, more)

    def not_yet(self, name: str, seen: Raw) -> Raw:
        """A client when the step begins. What it will have got is known, and not yet so."""
        before = self.clients.get(name, {"received": 0, "ended": ""})
        ended = seen["ended"] if seen["ended"] == "closed" else before["ended"]
        return {**seen, "received": before["received"], "ended": ended, "unread": 0}

    def row(self, call: Raw, woke: bool) -> Any:
        """The same for calls that stand side by side."""
        name = call["call"]
        if woke:
            return "woke"
        return "wait" if name in WAITS else (name, self.name(call["fd"]), call["errno"])

    def follow(self, call: Raw) -> None:
        name, fd, result = call["call"], call["fd"], call["result"]
        self.last, self.kernel = call, call["after"]
        if call["errno"] in (errno.ECONNRESET, errno.EPIPE):
            self.reset.add(fd)
        if name == "accept" and result >= 0:
            self.names[result] = self.ports.get(call["peer"], "?")
            self.outbox[result] = 0
        elif name == "close" and fd in self.names:
            del self.names[fd]
            self.reset.discard(fd)
            for kept in (self.watched, self.outbox, self.once):
                kept.pop(fd, None)
        elif name == "recv" and result > 0 and self.story.service == "echo":
            self.outbox[fd] = self.outbox.get(fd, 0) + result
        elif name == "send":
            failed = call["errno"] not in (0, errno.EAGAIN, errno.EINTR)
            self.outbox[fd] = (call["with"][0] - max(0, result)) * (not failed)
        elif name == "epoll_ctl":
            self.kind = "epoll"
            self.watched.pop(fd, None)
            if call["with"][0] != 2:
                self.watched[fd] = call["with"][1]
        elif name in WAITS:
            self.kind = name.partition("_")[0]
            self.watched = dict(call["watched"]) if "watched" in call else self.watched
            self.told = dict(call["found"])
            self.whose = {fd: self.name(fd) for fd in self.told}
            self.once.update(self.told)
            self.cost = cost(call, len(self.watched))

    def note_waiting(self, number: int) -> None:
        for name, seen in self.clients.items():
            waits = (self.story.service == "echo" and seen["received"] < seen["sent"]
                     and not seen["ended"])
            if waits:
                self.asked.setdefault(name, number)
            else:
                self.asked.pop(name, None)

    # --- the picture ------------------------------------------------------------------------

    def name(self, fd: int) -> str:
        if fd in self.names:
            return self.names[fd]
        kinds = {row[0]: row[1] for row in self.kernel}
        return {"l": "listener", "p": "signals"}.get(kinds.get(fd, ""), f"fd {fd}")

    def picture(self, call: Raw, state: str, vain: int = 0) -> Picture:
        """state: calls (it is about to), returned, woke (returned, after a sleep)."""
        text = self.call_text(call)
        if state == "calls":
            self.kernel = call["before"]
            return {**self.state(), "state": state, "say": f"It is about to call {text}.",
                    "call": arguments(call), "result": "", **self.where(call)}
        lost = self.outbox.get(call["fd"], 0) * (call["call"] == "close")
        self.follow(call)
        say = self.said(call, text)
        whose, name = self.whose.get(call["fd"]), self.name(call["fd"])
        if call["call"] == "recv" and whose not in (None, name):
            say += f" (The wait reported {call['fd']} when that was {whose}. Now it is {name}" + (
                ", which has nothing to read: a blocking socket would sleep here.)"
                if call["errno"] == errno.EAGAIN else ".)")
        if lost:
            say = f"{say[:-1]}; {size(lost)} that were to be sent are lost."
        if vain:
            say += f" (After {vain} call{'s' * (vain > 1)} for nothing.)"
        return {**self.state(), "state": state, "say": say, "call": arguments(call),
                "result": self.result_text(call), **self.where(call)}

    def at_rest(self, rest: Raw, more: int) -> Picture:
        sleeper = rest["asleep"]
        known = sleeper["before"] if sleeper else self.kernel
        self.kernel = [row for row in known if row[1] == "p" or not rest["sockets"]]
        self.kernel += rest["sockets"]
        if sleeper and sleeper["call"] in WAITS:
            self.follow_entry(sleeper)
        if not sleeper and self.round:
            calls = ", ".join(self.in_order(self.call_text))
            none = "nobody is ready" if self.round[-1]["call"] not in WAITS else \
                f"{self.found_text(self.round[-1])}, and nothing is done"
            say = f"It spins: {calls}: {none}; and {more:,} more such calls until the next step."
            return {**self.state(), "state": "spins", "say": say,
                    "call": ", ".join(self.in_order(arguments)),
                    "result": f"{more:,} more", **self.where(self.round[-1])}
        call = sleeper or self.last or {"call": "", "fd": -1, "stack": []}
        text = self.call_text(call) if sleeper else "a rest, until there is room again"
        return {**self.state(), "state": "asleep", "result": "",
                "call": arguments(call) if sleeper else text,
                "say": f"It sleeps in {text}{self.neglected(sleeper)}.", **self.where(call)}

    def in_order(self, text: Callable[[Raw], str]) -> list[str]:
        """The calls of a round; a round of stage 2 begins with accept()."""
        said = list(dict.fromkeys(text(call) for call in self.round))
        first = next((at for at, each in enumerate(said) if each.startswith("accept(")), 0)
        return said[first:] + said[:first]

    def follow_entry(self, call: Raw) -> None:
        """A wait that has not returned: what it watches, and has not been told yet."""
        self.kind = call["call"].partition("_")[0]
        if "watched" in call:
            self.watched = dict(call["watched"])
        self.told = {}
        self.cost = cost(call, len(self.watched))

    def state(self) -> Picture:
        ready = {row[0]: row[4] for row in self.kernel}
        own = {row[0] for row in self.kernel}
        sockets = []
        for fd, kind, into, out, events, peeked in self.kernel:
            few = printable(peeked) if into <= 12 else ""
            sockets.append([self.name(fd), fd, kind, into, out, few, letters(events),
                            self.outbox.get(fd, 0)])
        for name, into in self.waiting():
            sockets.append([name, -1, "n", into, 0, "", "", 0])
        watched = []
        for fd, events in sorted(self.watched.items()):
            told = self.told.get(fd, 0) if self.whose.get(fd) == self.name(fd) else 0
            if events & EDGE:                      # what is told is told once: the last time
                told = self.once.get(fd, 0)
            now = ready.get(fd, 0) & (events | HANGUP | ERROR)
            if fd in own:
                watched.append([fd, self.name(fd), letters(events), letters(told), letters(now),
                                int(bool(events & EDGE))])
        people = [[name, seen["sent"], seen["received"], seen["ended"], self.asked.get(name, -1),
                   seen["unread"]]
                  for name, seen in self.clients.items()]
        told = [f"{self.whose[fd]}:{letters(events)}" + (
            f" (now {self.name(fd)})" if self.name(fd) != self.whose[fd] and fd in own else "")
            for fd, events in self.told.items()]
        return {"kind": self.kind, "watched": watched, "told": told, "cost": self.cost,
                "sockets": sockets, "people": people}

    def waiting(self) -> list[tuple[str, int]]:
        """Clients that the kernel has connected and nobody has accepted: name, bytes to be read."""
        known = set(self.names.values())
        return [(name, seen["sent"]) for name, seen in self.clients.items()
                if name not in known and not self.served(name) and any(
                    row[1] == "l" and row[2] for row in self.kernel)]

    def served(self, name: str) -> bool:
        """It has been accepted before, and is gone."""
        port, done = self.raw["clients"][name], self.last["t1"] if self.last else 0
        return any(call.get("peer") == port and call["t1"] <= done for call in self.raw["calls"]
                   if "call" in call)

    def where(self, call: Raw) -> Picture:
        """The line that the student steps on: of server.cpp, or the selector beside it."""
        frames = [frame for frame in call["stack"] if frame[0] != "_start"]
        own = next((frame for frame in frames if frame[1] == "server.cpp"), None)
        named = [("callback" if "<" in name else name.split("::")[-1], file, line)
                 for name, file, line in frames              # not within std::function
                 if not line or file.endswith((".hpp", "server.cpp"))]
        return {"line": own[2] if own else 0, "stack": [
            f"{name}()" + (f" {file}:{line}" if line else "") for name, file, line in named[:6]]}

    # --- in words ---------------------------------------------------------------------------

    def call_text(self, call: Raw) -> str:
        name, fd = call["call"], call["fd"]
        if name in WAITS:
            limit = call["with"][1]
            return f"{name}()" + (f" with a limit of {limit:,} ms" if limit > 0 else "")
        if name == "epoll_ctl":
            how, events = call["with"]
            edge = ", edge-triggered" if events & EDGE else ""
            for_ = f", for {words(events)}{edge}" if how != 2 else ""
            return f"epoll_ctl({CONTROL[how]}) of {self.name(fd)}{for_}"
        return name + "()" + {"accept": "", "send": " to "}.get(name, " on ") + (
            self.name(fd) if name != "accept" else "")

    def found_text(self, call: Raw) -> str:
        def one(name: str, events: int) -> str:
            if name == "listener":
                return "somebody waits to be accepted"
            return f"{name} is ready for {words(events)}" + (
                " (hung up)" if events & (HANGUP | ERROR) else "")
        return ", ".join(one(self.name(fd), events) for fd, events in call["found"]) or \
            "nothing is ready"

    def result_text(self, call: Raw) -> str:
        name, result = call["call"], call["result"]
        if call["errno"]:
            return f"-1, {errno.errorcode[call['errno']]}"
        if name in WAITS:
            return f"{result}: {self.found_text(call)}"
        if name == "accept":
            return f"{result}: {self.name(result)}"
        if name == "recv":
            return f"{result:,}: {printable(call['data'])}" if result else "0"
        if name == "send":
            left = call["with"][0] - result
            return f"{result:,}" + (f" of {call['with'][0]:,}" if left else "")
        return str(result)

    def said(self, call: Raw, text: str) -> str:
        name, result = call["call"], call["result"]
        if name == "accept" and result >= 0:
            return f"accept() returns {result}: that is {self.name(result)}."
        if name == "recv" and result >= 0:
            return f'{text} returns {size(result)}: "{printable(call["data"])}".' if result else \
                f"{text} returns 0: {self.end(call)}."
        if name == "send" and result >= 0:
            left = call["with"][0] - result
            return f"{text} takes {size(result)}" + (
                f" of {call['with'][0]:,}; {left:,} wait in the outbox." if left else ": all.")
        if call["errno"]:
            more = {errno.EINTR: ": the server was stopped and continued, and Linux ends "
                    "epoll_wait() then; select() and poll() would go on sleeping (signal(7))",
                    errno.EMFILE: ": nobody waits, but Linux looks for a free descriptor first"
                    * (not any(row[1] == "l" and row[2] for row in call["after"]))}.get(
                        call["errno"], "")
            return f"{text} fails with {errno.errorcode[call['errno']]}{more}."
        return f"{text} returns: {self.found_text(call)}." if name in WAITS else f"{text}."

    def end(self, call: Raw) -> str:
        """Why recv() returns 0. Linux reports a reset once, as an error; then recv() returns 0."""
        name = self.name(call["fd"])
        return f"{name}'s connection was reset, and a call has reported that already" \
            if call["fd"] in self.reset else f"{name} has ended its input"

    def neglected(self, sleeper: Optional[Raw]) -> str:
        """What is ready, or queued, and does not wake it."""
        said = []
        waiting = [f"{name}'s {size(into)}" if into else name for name, into in self.waiting()]
        if waiting:
            one = len(waiting) == 1
            said.append(" and ".join([", ".join(waiting[:-1])] * (not one) + waiting[-1:])
                        + (" waits" if one and "'" not in waiting[0] else " wait")
                        + f" in the kernel, on {'a connection' if one else 'connections'} that "
                        "nobody has accepted")
        for fd, kind, into, out, events, _ in self.kernel:
            if kind == "c" and into and not self.wakes(fd, events):
                edge = " (epoll has reported them, once)" if self.watched.get(fd, 0) & EDGE else ""
                said.append(f"{size(into)} of {self.name(fd)} wait in the kernel, and wake "
                            f"nobody{edge}")
            if sleeper and sleeper["call"] == "send" and sleeper["fd"] == fd:
                said.append(f"it was given {size(sleeper['with'][0])}, and a part of them is in "
                            "the send queue already")
            elif self.outbox.get(fd):
                said.append(f"{size(self.outbox[fd])} for {self.name(fd)} wait in the outbox")
        return "; " + "; ".join(said) if said else ""

    def wakes(self, fd: int, events: int) -> bool:
        return bool(self.watched.get(fd, 0) & events & (READ | URGENT)) and not (
            self.watched[fd] & EDGE)


def repeats(call: Raw) -> bool:
    """It came back with nothing that is done: EAGAIN, or a wait."""
    return call["errno"] == errno.EAGAIN or call["call"] in WAITS


def matters(call: Raw) -> bool:
    """It failed, or did only a part."""
    return call["call"] == "send" and call["result"] < call["with"][0] or call["errno"] not in (
        0, errno.EINTR)


def arguments(call: Raw) -> str:
    """The call as the manual pages write it; what a pointer points to is shown elsewhere."""
    name, fd, given = call["call"], call["fd"], call.get("with", [])
    if name == "select":
        return f"select({given[0]}, readable, writable, exceptions, {limit_text(given[1])})"
    if name == "poll":
        return f"poll(array, {given[0]}, {limit_text(given[1])})"
    if name == "epoll_wait":
        return f"epoll_wait({fd}, found, {given[0]}, {limit_text(given[1])})"
    if name == "epoll_ctl":
        return f"epoll_ctl(epoll, {CONTROL[given[0]]}, {fd}, entry)"
    if name in ("recv", "send"):
        return f"{name}({fd}, bytes, {given[0]}, {'MSG_OOB' if given[1] & socket.MSG_OOB else 0})"
    return f"{name}({fd})"


def limit_text(limit: int) -> str:
    return f"{limit:,} ms" if limit >= 0 else "no limit"


def cost(call: Raw, entries: int) -> str:
    """What this wait makes the kernel and the program carry and walk."""
    found = len(call.get("found", ()))
    back = "result" in call
    if call["call"] == "select":
        bits = call["with"][0]
        return f"3 sets of {bits} bits copied in and walked by the kernel" + (
            f"; 3 sets copied out, {entries} entries walked by the program" * back)
    if call["call"] == "poll":
        return f"{entries} entries copied in and walked by the kernel" + (
            f"; {entries} copied out and walked by the program" * back)
    return "nothing copied in" + f"; {found} copied out and walked by the program" * back


# --- side by side -------------------------------------------------------------------------------

def merged(columns: list[list[Any]]) -> list[list[Optional[int]]]:
    """Rows: for each column the place in it that stands there, or None."""
    rows: list[tuple[Any, dict[int, int]]] = []
    for number, keys in enumerate(columns):
        matcher = SequenceMatcher(None, [key for key, _ in rows], keys, autojunk=False)
        new: list[tuple[Any, dict[int, int]]] = []
        for _, low, high, first, last in matcher.get_opcodes():
            same = [key for key, _ in rows[low:high]] == keys[first:last]
            for offset, (key, places) in enumerate(rows[low:high]):
                new.append((key, {**places, number: first + offset} if same else places))
            if not same:
                new += [(keys[at], {number: at}) for at in range(first, last)]
        rows = new
    for number in range(len(columns)):             # each as early as it can stand
        free = 0
        for at, (key, places) in enumerate(rows):
            if number in places:
                free = next(row for row in range(free, at + 1) if rows[row][0] == key)
                rows[free][1][number] = places.pop(number)
                free += 1
    return [[places.get(number) for number in range(len(columns))] for _, places in rows if places]


def model(story: Story, recordings: list[Raw], programs: list[Program]) -> Raw:
    tellers = [list(Teller(story, raw, program).steps())
               for raw, program in zip(recordings, programs)]
    steps: list[Raw] = []
    firsts: list[int] = []                         # of each step of the story
    pictures: list[list[Picture]] = [[] for _ in programs]
    for parts in zip(*tellers):
        step = parts[0][0]
        if step["brief"]:                          # only what is out of the ordinary
            parts = [(_, [row for row in calls if row[3]], rest) for _, calls, rest in parts]
        rows = merged([[row[0] for row in calls] for _, calls, _ in parts])
        for at, row in enumerate([*rows, None]):
            steps.append({"text": step["text"], "part": at + 1, "parts": len(rows) + 1})
            if at == 0:
                firsts.append(len(steps) - 1)
            for column, (_, calls, rest) in enumerate(parts):
                if row is None or not calls:
                    shown = rest
                else:
                    done = [each[column] for each in rows[:at + 1] if each[column] is not None]
                    shown = calls[done[-1]][2] if done else calls[0][1]
                    fresh = shown["say"] not in [last["say"] for last in pictures[column][-1:]]
                    shown = {**shown, "moves": row[column] is not None or fresh}
                people = [[*seen[:4], firsts[seen[4]] if seen[4] >= 0 else -1, *seen[5:]]
                          for seen in shown["people"]]
                pictures[column].append({**shown, "people": people})
    return {"name": story.name, "title": story.title, "about": story.about, "steps": steps,
            "columns": [{"id": program.id, "title": program.title, "pictures": shown}
                        for program, shown in zip(programs, pictures)]}
