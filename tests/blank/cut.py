"""Cuts holes into a stage. The source is the stage's own server.cpp: a step is found by its
signature, its body by matching braces. So there is no second copy that could fall behind."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from tests.harness import FOLDERS, ROOT

WIDTH = 100
LEVELS = {1: "how the next socket is found (in stage 1: how a client is served)", 2: "each step",
          3: "all of it"}
FOUND_BY = {1: ["serve"], 2: ["try_all"]}          # level 1; stages 3 to 6: watch() and wait()
# A compiler complains of a member that nobody uses, if it is as simple as these.
SIMPLE = re.compile(r"\b(?:buffer_|watching_)\b")
RUN = re.compile(r"^(?: +try \{\n)? +Server\(narration\)\.run\(\);\n(?: +\} catch .*\n.*\n +\}\n)?",
                 re.M)


@dataclass
class Hole:
    name: str
    steps: list[str] = field(default_factory=list)
    read: str = ""                         # manual pages
    rung: str = ""                         # of make try: "one_byte, whole", "one_line for greet"
    scenario: str = ""                     # of make test, where no rung sees it
    hand: str = ""                         # what there is already

    def proof(self, stage: int) -> str:
        if self.scenario:
            return (f"make try BLANK={stage}, then: make test STAGE={stage} "
                    f"SERVER=my/{FOLDERS[stage - 1]}/server ARGS=\"-k {self.scenario}\"")
        service = self.rung.partition(" for ")[2]
        return (f"make try BLANK={stage} " + f"SERVICE={service} " * bool(service)
                + ", and ".join(f"RUNG={rung}" for rung in self.rungs))

    @property
    def rungs(self) -> list[str]:
        return self.rung.partition(" for ")[0].split(", ") if self.rung else []

    def comment(self, stage: int, indent: int) -> str:
        lines = ["YOURS. What has to happen here:"]
        for number, step in enumerate(self.steps, 1):
            lines += _wrapped(f"{number}. {step}", indent, "   ")
        for text in (f"At hand: {self.hand}." * bool(self.hand), f"Read: {self.read}.",
                     f"It works when this passes: {self.proof(stage)}"):
            lines += _wrapped(text, indent)
        return "".join(f"{'':{indent}}// {line}\n" for line in lines)


def _wrapped(text: str, indent: int, further: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH - indent - 3, subsequent_indent=further,
                         break_on_hyphens=False, break_long_words=False)


def holes(stage: int) -> dict[str, Hole]:
    """The words for that stage. A line that begins with [34] is for stages 3 and 4 alone."""
    found: dict[str, Hole] = {}
    words = (Path(__file__).parent / "holes.txt").read_text(encoding="utf-8")
    words = re.sub(r"\n  +", " ", re.sub(r"^#.*\n", "", words, flags=re.M))
    for only, text in re.findall(r"^(?:\[(\d+)\] )?(.+)$", words, re.M):
        key, _, value = text.partition(": ")
        if text.startswith("== "):
            hole = found.setdefault(text[3:], Hole(text[3:]))
        elif only and str(stage) not in only:
            continue
        elif key in ("read", "rung", "scenario", "hand"):
            setattr(hole, key, value)
        else:
            hole.steps.append(text)
    return found


def body(text: str, name: str) -> Optional[re.Match[str]]:
    """The signature of that step; after it, up to end(), is its body."""
    return re.search(rf"^    [\w:&<> ]+ {name}\((?P<words>.*)\) \{{\n", text, re.M)


def end(text: str, start: int) -> int:
    """Where the block ends that begins at `start`: its closing brace's line."""
    depth = 1
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text.rindex("\n", 0, at) + 1
    raise ValueError("a brace is not closed")


def steps(text: str, stage: int, level: int) -> list[str]:
    """The names of the steps that are cut out, in the order of the source."""
    names = FOUND_BY.get(stage, ["watch", "wait"]) if level == 1 else list(holes(stage))
    places = {name: found.start() for name in names if (found := body(text, name))}
    return sorted(places, key=places.__getitem__)


def blank(stage: int, level: int) -> str:
    """The stage's server.cpp with holes."""
    text = (ROOT / FOLDERS[stage - 1] / "server.cpp").read_text(encoding="utf-8")
    words = holes(stage)
    if level == 3:
        head, tail = text.index("namespace {\n"), text.index("int main(")
        main = RUN.sub(lambda _: words["main"].comment(stage, 4), text[tail:])
        return noted(text[:head] + main, stage, level)
    for name in steps(text, stage, level):
        signature = body(text, name)
        stop = end(text, signature.end())
        old = text[signature.end():stop]
        text = text[:signature.end()] + _filling(
            words[name], stage, signature["words"], old) + text[stop:]
    return noted(text, stage, level)


def _filling(hole: Hole, stage: int, parameters: str, old: str) -> str:
    """What stands in a hole: the words, and what it takes to compile without a warning."""
    unused = [part.partition(" = ")[0].split()[-1] for part in parameters.split(", ") if part]
    unused += sorted(set(SIMPLE.findall(old)))
    lines = [hole.comment(stage, 8)]
    if unused:
        lines.append(f"{'':8}" + ", ".join(f"(void){name}" for name in unused)
                     + f";  // until you use {'them' if unused[1:] else 'it'}\n")
    if hole.name in ("wait", "try_all"):
        lines.append(f"{'':8}signals::rest(1);  // until you write it: an empty loop would spin\n")
    if hole.name == "wait":
        lines += re.findall(r"^ {8}return \S+;\n", old, re.M)[-1:]
    return "".join(lines)


def noted(text: str, stage: int, level: int) -> str:
    """Below the opening comment: what this file is."""
    opening, rest = text.split("\n\n", 1)
    return f"{opening}\n{note(stage, level)}\n{rest}"


def note(stage: int, level: int) -> str:
    lines = _wrapped(f"A blank of level {level}: {LEVELS[level]} is yours to write, where it says "
                     f"YOURS. make try BLANK={stage} builds it, and says how far it comes. The "
                     f"finished one: {FOLDERS[stage - 1]}/server.cpp.", 0)
    return "//\n" + "".join(f"// {line}\n" for line in lines)
