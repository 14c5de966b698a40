"""The servers' narration: how a line is read, and what a right narration looks like.

    parse(line)      -> Event(time, verb, fields, line); Malformed when it breaks the grammar
    complaints(...)  -> what is wrong with a whole narration, [] when nothing is

A line is `%8.3f %-7s key=value ...`: seconds since the start, a verb, and the verb's keys in
a fixed order. A value is a bare word, or a quoted string in which nothing but printable ASCII
stands; `+N` behind the closing quote says that N more bytes were not shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Iterable, Optional


class Malformed(ValueError):
    """A line that is no narration."""


@dataclass(eq=False)                             # two lines that read the same are two events
class Event:
    time: float                # seconds since the server's start
    verb: str
    fields: dict[str, Any]     # numbers as int or float, data= as bytes, on= as {fd: "rw"}
    line: str

    def __getitem__(self, key: str) -> Any:
        return self.fields[key]

    def get(self, key: str, default: Any = None) -> Any:
        return self.fields.get(key, default)

    def matches(self, verb: str, wanted: dict[str, Any]) -> bool:
        """True if it has that verb and those fields; a wanted value may be a function."""
        if self.verb != verb:
            return False
        for key, want in wanted.items():
            have = self.fields.get(key)
            if not (want(have) if callable(want) else have == want):
                return False
        return True


# Per verb the keys, in order; [key] may be missing. A verb can have several forms.
# "more" is no key of its own: it is the +N behind data="...".
COUNTERS = ("waits ready watch scanned accept recv send would_block"
            " bytes_in bytes_out clients max_clients").split()
GRAMMAR: dict[str, list[str]] = {
    "start": ["stage pid clock [selector]"],
    "limit": ["descriptors"],
    "listen": ["fd service address"],
    "note": ["text"],
    "wait": ["call watching ready on slept", "call watching error slept",
             "call watching ready error slept"],
    "spin": ["rounds would_block slept"],
    "accept": ["fd service peer clients [slept]", "fd error [slept]"],
    "recv": ["fd bytes [data] [slept]", "fd error [slept]"],
    "urgent": ["fd data"],
    "send": ["fd bytes [left] [slept]", "fd error [slept]"],
    "watch": ["fd for"],
    "close": ["fd reason clients"],
    "pause": ["reason clients"],
    "resume": ["clients"],
    "lost": ["lines"],
    "probe": ["call result errno text"],
    "stop": ["signal"],
    "stats": [" ".join(COUNTERS)],
}
WHOLE = set("pid descriptors fd watching ready rounds would_block bytes left clients"
            " lines".split()) | set(COUNTERS)
REAL = {"clock": r"\d+\.\d{6}", "slept": r"\d+\.\d{3}"}
QUOTED = {"data", "text"}
QUIET_VERBS = {"start", "listen", "stats"}       # all that -q leaves
LOUD_VERBS = {"call", "watch"}                   # only with -v

LINE = re.compile(r"( *(?:0|[1-9]\d*)\.\d{3}) (([a-z]+) *)(?: (.*))?")
FIELD = re.compile(r'([a-z_]+)=("(?:[ !#-\[\]-~]|\\[nrt"\\]|\\x[0-9a-f]{2})*"(?:\+[1-9]\d*)?'
                   r'|[!#-~]+)(?: |$)')
ESCAPE = re.compile(r'\\(?:x([0-9a-f]{2})|(.))')
PLAIN = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}
ON = re.compile(r"-|(?:\d+:[rwxh]+,)*(?:\d+:[rwxh]+|\+\d+)")


def parse(line: str) -> Event:
    """Reads one line, without its newline."""
    match = LINE.fullmatch(line)
    if not match:
        raise Malformed(f"no narration: {line!r}")
    seconds, padded, verb, rest = match.groups()
    if (len(seconds) != max(8, len(seconds.lstrip()))
            or len(padded) != (max(7, len(verb)) if rest else len(verb))):
        raise Malformed(f"badly aligned: {line!r}")
    return Event(float(seconds), verb, _fields(verb, rest or ""), line)


@lru_cache(maxsize=1000)                         # stage 2 with -v says the same again and again
def _fields(verb: str, rest: str) -> dict[str, Any]:
    line = f"{verb} {rest}"
    fields: dict[str, Any] = {}
    at = 0
    while at < len(rest):
        found = FIELD.match(rest, at)
        if not found:
            raise Malformed(f"no key=value at {rest[at:]!r} in {line!r}")
        if found[1] in fields:
            raise Malformed(f"{found[1]} twice in {line!r}")
        _store(fields, found[1], found[2], line)
        at = found.end()
    if rest.endswith(" "):
        raise Malformed(f"a blank at the end of {line!r}")
    wrong = _form(verb, fields)
    if wrong:
        raise Malformed(f"{wrong} in {line!r}")
    return fields


def _store(fields: dict[str, Any], key: str, value: str, line: str) -> None:
    if key in QUOTED and not value.startswith('"'):
        raise Malformed(f"{key} without quotes in {line!r}")
    if value.startswith('"'):
        text, _, more = value[1:].rpartition('"')
        text = ESCAPE.sub(lambda m: chr(int(m[1], 16)) if m[1] else PLAIN[m[2]], text)
        fields[key] = text.encode("latin-1") if key == "data" else text
        if more:
            fields["more"] = int(more)
    elif key == "on":
        if not ON.fullmatch(value):
            raise Malformed(f"on={value} in {line!r}")
        fields[key] = {int(fd): ways for fd, ways in re.findall(r"(\d+):([rwxh]+)", value)}
        fields["more"] = int(value.rpartition("+")[2]) if "+" in value else 0
    elif key in WHOLE or key in REAL:
        if not re.fullmatch(REAL.get(key, r"-?\d+"), value):
            raise Malformed(f"{key}={value} in {line!r}")
        fields[key] = float(value) if key in REAL else int(value)
    else:
        fields[key] = value


def _form(verb: str, fields: dict[str, Any]) -> str:
    """'' if the keys are those of the verb, in order; else what is wrong."""
    if verb == "call":                           # call name=... and whatever it was called with
        return "" if next(iter(fields), "") == "name" else "call without name="
    forms = GRAMMAR.get(verb)
    if forms is None:
        return f"unknown verb {verb}"
    keys = [key for key in fields if key != "more"]
    for form in forms:
        left = list(keys)
        for key in form.split():
            if left and left[0] == key.strip("[]"):
                left.pop(0)
            elif not key.startswith("["):
                break
        else:
            if not left:
                return ""
    return f"keys of {verb} are {' '.join(keys)}"


def complaints(events: Iterable[Event], *, stage: int, arguments: Iterable[str] = (),
               ended: bool = True) -> list[str]:
    """What is wrong with a server's whole narration, as sentences; [] when nothing is.

    Beyond the grammar: who speaks is open, counts of clients go up and down by one, and
    the counters of every stats line are the sums of the lines before it.
    """
    events = list(events)
    wrong: list[str] = []
    quiet, loud = "-q" in arguments, "-v" in arguments
    lost = any(event.verb == "lost" for event in events)
    if "-p" in arguments:                        # a probe serves nobody and counts nothing
        return [] if events and events[0].verb == "start" else ["the first line is not start"]
    if not events or events[0].verb != "start":
        wrong.append("the first line is not start")
    if ended and (not events or events[-1].verb != "stats"):
        wrong.append("the last line is not stats")
    tally = Tally(stage)
    before = 0.0
    for event in events:
        if event.time < before:
            wrong.append(f"time runs backwards: {event.line}")
        before = event.time
        if quiet and event.verb not in QUIET_VERBS:
            wrong.append(f"narrated in spite of -q: {event.line}")
        if not loud and (event.verb in LOUD_VERBS or event.get("error") == "EAGAIN"):
            wrong.append(f"narrated without -v: {event.line}")
        if ("slept" in event.fields and event.verb in ("accept", "recv", "send")
                and stage != 1):
            wrong.append(f"slept, though only stage 1 sleeps in {event.verb}: {event.line}")
        if not quiet and not lost:
            problem = tally.take(event, loud)
            if problem:
                wrong.append(f"{problem}: {event.line}")
    return wrong


class Tally:
    """Adds up what is narrated, to be held against the stats lines."""

    def __init__(self, stage: int) -> None:
        self.stage = stage
        self.listeners: set[int] = set()
        self.clients: set[int] = set()
        self.sums = dict.fromkeys(COUNTERS, 0)
        self.pipe: Optional[int] = None      # the one descriptor watched that is no socket

    def take(self, event: Event, loud: bool) -> str:
        fd, sums = event.get("fd"), self.sums
        if event.verb == "listen":
            self.listeners.add(fd)
        elif event.verb == "accept":
            return self._accept(event)
        elif event.verb == "watch":
            return self._watch(fd)
        elif event.verb == "call" and event["name"] == "recv":
            sums["recv"] += 1              # for an urgent byte, and there was none
        elif event.verb in ("recv", "send", "urgent"):
            if fd not in self.clients:
                return "nobody has that descriptor"
            if event.verb == "recv" or event.verb == "urgent":
                sums["recv"] += 1
                sums["bytes_in"] += event.get("bytes", 0)
                data = event.get("data", b"")
                if event.get("bytes", len(data)) != len(data) + event.get("more", 0):
                    return "data and bytes disagree"
            else:
                sums["send"] += 1
                sums["bytes_out"] += event.get("bytes", 0)
            sums["would_block"] += event.get("error") == "EAGAIN"
        elif event.verb == "close":
            if fd not in self.clients:
                return "nobody has that descriptor"
            self.clients.discard(fd)
            sums["clients"] -= 1
            if event["clients"] != sums["clients"]:
                return f"{sums['clients']} clients are left"
        elif event.verb == "wait":
            return self._wait(event)
        elif event.verb == "stats":
            return self._stats(event, loud)
        return ""

    def _accept(self, event: Event) -> str:
        sums, fd = self.sums, event["fd"]
        sums["accept"] += 1
        if "error" in event.fields:
            sums["would_block"] += event["error"] == "EAGAIN"
            return "" if fd in self.listeners else "no listener has that descriptor"
        if fd in self.clients or fd in self.listeners:
            return "somebody has that descriptor already"
        self.clients.add(fd)
        sums["clients"] += 1
        sums["max_clients"] = max(sums["max_clients"], sums["clients"])
        if event["clients"] != sums["clients"]:
            return f"{sums['clients']} clients are in"
        return ""

    def _watch(self, fd: int) -> str:
        self.sums["watch"] += 1
        if fd in self.clients or fd in self.listeners:
            return ""
        if self.pipe is None:
            self.pipe = fd
        return "" if fd == self.pipe else "nobody has that descriptor"

    def _wait(self, event: Event) -> str:
        self.sums["waits"] += 1
        ready = event.get("ready", 0)
        self.sums["ready"] += ready
        if "on" in event.fields:
            if len(event["on"]) + event["more"] != ready:
                return "ready and on disagree"
            if len(event["on"]) > 16:
                return "more than sixteen are listed"
        if ready > event["watching"]:
            return "more ready than watched"
        return ""

    def _stats(self, event: Event, loud: bool) -> str:
        """Without -v the calls that came back empty are not narrated, so the rest must agree."""
        same = ["clients", "max_clients", "bytes_in", "bytes_out", "waits", "ready"]
        if loud:
            same += ["accept", "recv", "send", "would_block", "watch"]
        for key in same:
            if event[key] != self.sums[key]:
                return f"{key}={self.sums[key]} is what was narrated before"
        return ""
