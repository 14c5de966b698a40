"""A scenario's timeline, made small enough to be looked at: what timeline.py draws.

    picture(record.timeline, stage) -> a dict, fit for JSON; all times are seconds since its start
      seconds, cpu, counters     how long, CPU used, the sums of the last stats lines
      said        [[at, text]]
      lanes       one for each of the first clients, and one for all the others together:
                  name, count, marks, waits [[from, to, answered]] (single clients), or
                  waiting [[at, how many]] (of the others)
      spans       [[from, to, "asleep" or "hot", call]] of the server
      asleep      {call: seconds}
      marks       [[at, verb, how many, text]] of the server; many in one place become one
      narration   [[at, line, matters, client]]; a number in its place: so many are left out
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import accumulate
from typing import Any, Iterable, Iterator

LANES = 6                      # so many clients get a lane of their own; of more, the first three
PLACES = 240                   # marks closer than a 240th of the whole become one
LINES = (12, 8)                # of a long narration: so many first ones, so many last ones
LONG = 0.05                    # a sleep that shows, in seconds
SERVER_VERBS = ("accept", "recv", "urgent", "send", "close", "pause", "resume", "stop")


def picture(timeline: dict[str, Any], stage: int) -> dict[str, Any]:
    servers, clients = timeline["servers"], timeline["clients"]
    events = sorted((event for server in servers for event in server["events"]),
                    key=lambda event: event["at"])
    start = min([server["clock"] for server in servers] or [timeline["began"]])
    if timeline["said"]:                           # a story begins with its first sentence
        start = min(start, timeline["said"][0]["at"])
    _name_the_clients(servers, clients)
    ends = [event["at"] for event in events] + [
        mark["at"] for client in clients for mark in client["marks"]]
    seconds = max(0.001, max(ends, default=start) - start)

    def since(at: float) -> float:
        return round(max(0.0, at - start), 5)

    asleep = list(_sleeps(events))
    slept: dict[str, float] = defaultdict(float)
    for begin, woke, call in asleep:
        slept[call] += woke - begin
    spans = [[since(begin), since(woke), "asleep", call]
             for begin, woke, call in _merged(asleep, seconds / 400)]
    if stage == 2:             # never asleep: hot from the first line to the last
        spans = [[since(server["clock"]), since(server["events"][-1]["at"]), "hot", "every call"]
                 for server in servers if server["events"]]
    own = len(clients) if len(clients) <= LANES else 3
    lanes = [_lane(client, since, seconds) for client in clients[:own]]
    if clients[own:]:
        lanes.append(_crowd_lane(clients[own:], since, seconds))
    return {
        "seconds": round(seconds, 5), "cpu": round(sum(s["cpu"] for s in servers), 3),
        "counters": _counters(servers),
        "said": [[since(said["at"]), said["text"]] for said in timeline["said"]],
        "lanes": lanes, "spans": spans,
        "asleep": {call: round(total, 3) for call, total in slept.items()},
        "marks": _thinned(((since(e["at"]), e["verb"], e["line"][17:]) for e in events
                           if e["verb"] in SERVER_VERBS), seconds),
        "narration": _narration(events, since, seconds),
    }


def _name_the_clients(servers: list[dict[str, Any]], clients: list[dict[str, Any]]) -> None:
    """Adds to each event of a connection whose it was: descriptors are handed out again."""
    names = {(client["service"], client["peer"]): client["name"] for client in clients}
    for server in servers:
        holders: dict[int, str] = {}
        for event in server["events"]:
            fields, fd = event["fields"], event["fields"].get("fd")
            if "peer" in fields:
                holders[fd] = names.get((fields["service"], fields["peer"]), "")
            event["who"] = holders.get(fd, "")
            if event["verb"] == "close":
                holders.pop(fd, None)


def _sleeps(events: Iterable[dict[str, Any]]) -> Iterator[tuple[float, float, str]]:
    for event in events:
        slept = event["fields"].get("slept", 0)
        if slept:
            yield event["at"] - slept, event["at"], event["fields"].get("call", event["verb"])


def _merged(sleeps: list[tuple[float, float, str]], gap: float) -> list[tuple[float, float, str]]:
    """Short sleeps that could not be told apart in a picture become one."""
    merged: list[tuple[float, float, str]] = []
    for begin, woke, call in sleeps:
        near = merged and merged[-1][2] == call and begin - merged[-1][1] < gap
        if near and min(woke - begin, merged[-1][1] - merged[-1][0]) < 8 * gap:
            merged[-1] = (merged[-1][0], woke, call)
        else:
            merged.append((begin, woke, call))
    return [span for span in merged if span[1] - span[0] > gap / 2]


def _thinned(marks: Iterable[tuple[float, str, str]], seconds: float) -> list[list[Any]]:
    """[at, what, how many, text of the first]; those in the same place become one."""
    found: dict[tuple[int, str], list[Any]] = {}
    for at, what, text in marks:
        found.setdefault((int(at / seconds * PLACES), what), [at, what, 0, text[:120]])[2] += 1
    return list(found.values())


def _waits(client: dict[str, Any]) -> list[tuple[float, float, bool]]:
    """From each question to the next answer; from the connection, if the service speaks first."""
    waits, asked = [], 0.0
    for mark in client["marks"]:
        if mark["what"] in ("recv", "eof", "reset", "close"):
            if asked:
                waits.append((asked, mark["at"], mark["what"] == "recv"))
            asked = 0.0
        elif mark["what"] == "send" or mark["what"] == "connect" and client["service"] != "echo":
            asked = asked or mark["at"]
    return waits


def _lane(client: dict[str, Any], since: Any, seconds: float) -> dict[str, Any]:
    marks = [mark for mark in client["marks"] if mark["what"] not in ("wait", "note")]
    waits = [[since(asked), since(got), answered] for asked, got, answered in _waits(client)
             if got - asked > seconds / 200]
    return {"name": client["name"], "service": client["service"], "count": 1, "waits": waits,
            "marks": _thinned(((since(m["at"]), m["what"], _text(m)) for m in marks), seconds)}


def _crowd_lane(clients: list[dict[str, Any]], since: Any, seconds: float) -> dict[str, Any]:
    changes: Counter[int] = Counter()
    for client in clients:
        for asked, got, _ in _waits(client):
            changes[round(since(asked) / seconds * PLACES)] += 1
            changes[round(since(got) / seconds * PLACES)] -= 1
    places = sorted(changes)
    waiting = [[0.0, 0], *([round(place * seconds / PLACES, 5), count] for place, count in zip(
        places, accumulate(changes[place] for place in places)))]
    marks = sorted((since(mark["at"]), mark["what"], client["name"]) for client in clients
                   for mark in client["marks"] if mark["what"] in ("connect", "close", "reset"))
    return {"name": f"{clients[0]['name']} to {clients[-1]['name']}", "count": len(clients),
            "service": clients[0]["service"], "waiting": waiting,
            "marks": _thinned(marks, seconds)}


def _text(mark: dict[str, Any]) -> str:
    text = mark["text"].encode("unicode_escape").decode()
    return f"{mark['bytes']} bytes: {text}" if mark["bytes"] else text


def _counters(servers: list[dict[str, Any]]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for server in servers:
        if server["events"] and server["events"][-1]["verb"] == "stats":
            sums.update(server["events"][-1]["fields"])
    return dict(sums)


def _narration(events: list[dict[str, Any]], since: Any, seconds: float) -> list[Any]:
    """All of it if it is short; else the beginning, the end, and the first that matter."""
    first, last = LINES
    kept: list[Any] = []
    shown: Counter[str] = Counter()
    for index, event in enumerate(events):
        why = _matters(event, seconds)
        shown[why] += 1
        near_an_end = index < first or index >= len(events) - last
        if len(events) <= 2 * (first + last) or near_an_end or why and shown[why] <= 4:
            kept.append([since(event["at"]), event["line"], bool(why), event["who"]])
        elif kept and isinstance(kept[-1], int):
            kept[-1] += 1
        else:
            kept.append(1)
    return kept


def _matters(event: dict[str, Any], seconds: float) -> str:
    """Why that line is one to look at; "" if it is not."""
    fields, verb = event["fields"], event["verb"]
    if fields.get("slept", 0) > min(LONG, seconds / 4):
        return f"slept in {fields.get('call', verb)}"
    if verb in ("spin", "note", "pause", "resume", "urgent", "stop", "limit"):
        return verb
    if verb == "close" and fields["reason"] not in ("eof", "stop"):
        return f"close {fields['reason']}"
    if verb == "send" and "left" in fields:
        return "a short send"
    return f"{verb} {fields['error']}" if "error" in fields and verb != "wait" else ""
