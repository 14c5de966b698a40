"""What was done and what was told in one stage, in order; and the stages' stories side by side."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, Iterator, Optional

from tests.harness.narration import parse

Deed = tuple[str, str, int]                # who did what, and for the how many-th time
Span = tuple[float, float, str, str]       # as in a picture: from, to, "asleep" or "hot", call


@dataclass
class Item:
    at: float
    verb: str                              # the server's verb, or "client send"
    who: str
    text: str
    deed: Optional[Deed] = None            # what a client, or the story, did by itself
    told: bool = False                     # by the server
    sleep: Optional[Span] = None           # until it told that


def side_by_side(stories: list[list[Item]],
                 near: float) -> Iterator[tuple[float, str, list[Optional[Item]]]]:
    """(when, what the clients did, what is told in each column), in order.

    Every stage was played by itself, but the clients did the same everywhere: what they did
    cuts each stage's column into pieces, and pieces of the same number stand side by side.
    """
    done = [{item.deed for item in story} for story in stories]
    common = [item.deed for item in stories[0] if item.deed and all(
        item.deed in deeds for deeds in done)]
    pieces = [_cut(story, common) for story in stories]
    if not all(pieces):                            # not in the same order everywhere
        pieces = [[story] for story in stories]
    for index, heads in enumerate(zip(*pieces)):
        if index:
            deeds = [head.pop(0) for head in heads]
            yield min(deed.at for deed in deeds), deeds[0].text, [None] * len(heads)
        while any(heads):
            at = min(head[0].at for head in heads if head)
            yield at, "", [head.pop(0) if head and head[0].at < at + max(0.004, near) else None
                           for head in heads]


def _cut(story: list[Item], common: list[Deed]) -> list[list[Item]]:
    """A story in pieces, each but the first beginning with a common deed; [] if it cannot be."""
    pieces: list[list[Item]] = [[]]
    for item in story:
        if item.deed in common:
            if common[len(pieces) - 1] != item.deed:
                return []
            pieces.append([])
        pieces[-1].append(item)
    return pieces


def story(shown: dict[str, Any]) -> list[Item]:
    told: list[Item] = []
    for entry in shown["narration"]:
        if isinstance(entry, int):
            told.append(Item(told[-1].at, "", "", f"... {entry} lines more", told=True))
        else:
            told += _told(entry)
    said = [Item(at, "story", "", text, ("story", text, 0)) for at, text in shown["said"]]
    return list(_in_order([said, *map(_done, shown["lanes"]), told]))


def _done(lane: dict[str, Any]) -> list[Item]:
    """What that client did and got."""
    marks, counts, name = [], Counter(), lane["name"]
    for at, what, count, text in lane["marks"]:
        counts[what] += 1
        said, many = text.partition(": ")[2], f" ({count} times)" * (count > 1)
        if what in ("recv", "eof"):
            waited = [f" after {got - asked:.3f} s" for asked, got, _ in lane.get("waits", ())
                      if abs(got - at) < 0.001]
            marks.append(Item(at, f"client {what}", name, "".join(
                [f"> {name} gets {said or 'the end'}", many, *waited[:1]])))
        else:
            did = {"connect": "connects", "send": f"sends {said}", "close": "closes",
                   "reset": "resets", "half_close": "half-closes",
                   "urgent": f"sends {said} as urgent"}.get(what, what)
            marks.append(Item(at, f"client {what}", name, f"{name} {did}{many}",
                              (name, what, counts[what])))
    return marks


# What must have been before: the servers tell milliseconds, which is not enough to see it.
AFTER = {"accept": ("client connect",), "recv": ("client send",), "client recv": ("send",),
         "recv end": ("client close", "client half_close", "client reset"),
         "client eof": ("close",)}


def _in_order(queues: list[list[Item]]) -> Iterator[Item]:
    """Merges them by time; but who asked comes before who was asked."""
    def too_early(item: Item) -> bool:
        if item.verb == "wait":                    # something must have ended it
            return not woken and any(queue[0].deed and queue[0].at < item.at + 0.001
                                     for queue in queues)
        for queue in queues:
            for other in queue:
                heard = other.verb in ("client recv", "client eof")
                if other.at > item.at + 0.002 or heard and item.verb != "recv end":
                    break
                if other.who == item.who and other.verb in AFTER.get(item.verb, ()):
                    return True
        return False

    woken = False                                  # a client has, since the server's last line
    while queues := [queue for queue in queues if queue]:
        ready = [queue for queue in queues if not too_early(queue[0])] or queues
        item = min(ready, key=lambda queue: queue[0].at).pop(0)
        if item.told or item.verb.startswith("client "):
            woken = not item.told
        yield item


def _told(entry: list[Any]) -> Iterator[Item]:
    """A line of the narration in few words, and before it how long it slept."""
    at, line, _, who = entry
    event = parse(line)
    name, error = who or f"fd {event.get('fd')}", event.get("error")
    data = event.get("data", b"").decode("latin-1").encode("unicode_escape").decode()
    left = f", {event['left']} left" if "left" in event.fields else ""
    text = {"accept": name if "peer" in event.fields else error,
            "recv": f"{name} {error or data or 'end of input'}",
            "send": f"{name} {error or str(event.get('bytes')) + ' bytes' + left}",
            "close": f"{name} {event.get('reason')}", "spin": f"{event.get('rounds', 0):,} rounds",
            "stop": event.get("signal")}.get(event.verb, "")
    if text:
        text = f"{event.verb:6} {text}"
    elif event.verb not in ("start", "limit", "listen", "stats", "wait"):
        text = line[9:]
    verb = "recv end" if event.verb == "recv" and event.get("bytes") == 0 else event.verb
    slept, call = event.get("slept", 0), event.get("call", event.verb)
    if slept >= 0.01:
        yield Item(at, verb, who, f"slept {slept:.3f} s in {call}()", told=True,
                   sleep=(at - slept, math.inf, "asleep", call))
    if text:
        yield Item(at, verb, who, text, told=True)
