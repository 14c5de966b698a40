"""The same steps as text."""

from __future__ import annotations

import textwrap
from typing import Iterator

from tests.replay.model import Picture
from tests.replay.record import Raw

KINDS = {"none": "no watched set: one call at a time", "select": "three sets, in the program",
         "poll": "an array, in the program", "epoll": "a list, in the kernel"}

LETTERS = ("r reading, w writing, x urgent data, h hung up or an error; told: what the last wait "
           "reported")


def lines(shown: Raw, width: int = 100) -> Iterator[str]:
    """A story, step by step; for each server what it does, and how its sockets are."""
    yield f"{shown['name']}: {shown['title']}"
    yield from textwrap.wrap(shown["about"], width)
    yield LETTERS
    for at, step in enumerate(shown["steps"]):
        yield ""
        yield f"{at:3}  {step['text']}" + (f"  ({step['part']} of {step['parts']})"
                                           if step["parts"] > 1 else "")
        for column in shown["columns"]:
            picture = column["pictures"][at]
            before = column["pictures"][at - 1] if at else {}
            if picture == before or not picture.get("moves", True):
                continue
            head = f"     {column['id']}: "
            yield from textwrap.wrap(picture["say"], width, initial_indent=head,
                                     subsequent_indent=" " * 8)
            yield from (" " * 8 + line for line in details(picture))


def details(picture: Picture) -> Iterator[str]:
    """What is drawn on the page, in a line each."""
    if picture["stack"]:
        yield "at       " + " < ".join(picture["stack"][:4])
    yield from watched(picture)
    for name, fd, kind, into, out, peeked, ready, outbox in picture["sockets"]:
        if kind == "l":
            yield f"kernel   {name} (fd {fd}): {into} of {out} wait to be accepted"
        elif kind == "n":
            yield f"kernel   {name} (not accepted): {into:,} to be read"
        elif kind == "c":
            yield (f"kernel   {name} (fd {fd}): {into:,} to be read"
                   + (f" ({peeked})" if peeked else "")
                   + " (its end of input)" * (into == 0 and "r" in ready and "h" not in ready)
                   + f", {out:,} in the send queue" + (f", ready: {ready}" if ready else ""))
            if outbox:
                yield f"program  {name}: {outbox:,} to be sent"
    for name, sent, got, ended, since, unread in picture["people"]:
        yield (f"client   {name}: sent {sent:,}, got {got:,}"
               + (f", {unread:,} more in its receive queue" if unread else "")
               + (f", {ended}" if ended else "")
               + (f", waits since step {since}" if since >= 0 else ""))


def watched(picture: Picture) -> Iterator[str]:
    if picture["kind"] == "none":
        return
    entries = " ".join(f"{name}:{want}" + (f" ({'last ' * edge}told {told})" if told else "")
                       + (f" (ready now: {ready})" if edge and ready else "")
                       for _, name, want, told, ready, edge in picture["watched"])
    yield f"watched  {entries}  [{KINDS[picture['kind']]}; {picture['cost']}]"
