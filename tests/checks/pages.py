"""NOTES.md and README.md as something to check: what in them can be wrong, and how that is seen.

Links and their anchors, folded answers, the glossary, what commands and lists name, diagrams.
Fenced blocks: `console` is run (console.py); `sh` is typed by hand, in several terminals, and what
it names has to exist; `mermaid` is a diagram.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Iterator

from tests.harness import DEADLINE, ROOT
from tests.scenarios import scenarios

Told = tuple[int, str]                     # a line's number, and what is wrong with it


@dataclass(frozen=True)
class Block:
    kind: str                              # "run" if the fence says ```sh run
    line: int                              # that of its fence
    lines: tuple[str, ...]
    answer: tuple[str, ...] = ()           # of a "run": the block of the kind "text" that follows


class Page:
    def __init__(self, text: str, path: Path = ROOT / "NOTES.md") -> None:
        self.path = path
        self.blocks: list[Block] = []
        self.text: list[Told] = []         # what stands outside of blocks
        self.unclosed: list[Told] = []
        lines = iter(enumerate(text.splitlines(), 1))
        for number, line in lines:
            fence = re.match(r"( *)(```+)\s*(?:sh (?=run$))?(\S*)", line)
            if not fence:
                self.text.append((number, line))
                continue
            indent, ticks, kind = fence.groups()
            inside = []
            for _, line in lines:
                if line.strip() == ticks:
                    break
                inside.append(line[len(indent):] if line.startswith(indent) else line.lstrip())
            else:
                self.unclosed.append((number, "this block has no end"))
            if kind == "text" and self.blocks and self.blocks[-1].kind == "run":
                self.blocks[-1] = replace(self.blocks[-1], answer=tuple(inside))
            else:
                self.blocks.append(Block(kind, number, tuple(inside)))

    def of(self, kind: str) -> list[Block]:
        return [block for block in self.blocks if block.kind == kind]

    def spans(self) -> Iterator[re.Match[str]]:
        """`Code` in the text; it may begin in one line and end in the next."""
        return re.finditer(r"(?<!`)(`+)(?!`)((?:[^\n]|\n(?!\n))+?)(?<!`)\1(?!`)", self.joined())

    def joined(self) -> str:
        return "\n".join(line for _, line in self.text)

    def line_at(self, place: int) -> int:
        """The number of the line at that place of joined()."""
        return self.text[self.joined().count("\n", 0, place)][0]

    def prose(self) -> Iterator[Told]:
        """The text without `spans` and without indented blocks."""
        text = self.joined()
        for span in self.spans():
            hidden = re.sub(r"[^\n]", " ", span[0])
            text = text[:span.start()] + hidden + text[span.end():]
        for (number, line), shown in zip(self.text, text.split("\n")):
            if not line.startswith("    ") or re.match(r"\s+([-*]|\d+\.) ", line):
                yield number, shown

    def code(self) -> Iterator[Told]:
        """What is in `spans`, in indented blocks and in those for a shell."""
        for number, line in self.text:
            if line.startswith("    "):
                yield number, line.strip()
        for span in self.spans():
            # A table's cell escapes its bars.
            yield self.line_at(span.start()), " ".join(span[2].split()).replace(r"\|", "|")
        for block in self.of("sh"):
            yield from enumerate(block.lines, block.line + 1)
        for block in self.of("console"):
            for number, line in enumerate(block.lines, block.line + 1):
                if line.startswith("$ "):
                    yield number, line[2:]


# --- links, folded answers, the glossary --------------------------------------------------------

def headings(page: Page) -> list[tuple[int, str, str]]:
    """Level, text and anchor of each, as GitHub makes it: lower case, no punctuation, hyphens for
    blanks; the second of the same name gets -1."""
    found, seen = [], {}
    for _, line in page.text:
        heading = re.match(r"(#{1,6}) +(.+?)(?: +#+)?$", line)
        if heading:
            shown = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading[2])
            anchor = re.sub(r"[^\w -]", "", shown.lower()).replace(" ", "-")
            again = seen[anchor] = seen.get(anchor, -1) + 1
            found.append((len(heading[1]), shown, f"{anchor}-{again}" if again else anchor))
    return found


def links(page: Page) -> Iterator[Told]:
    for number, line in page.prose():
        for target in re.findall(r"\]\(\s*<?([^)>\s]*)", line):
            yield number, target


def wrong_links(page: Page) -> Iterator[Told]:
    for number, target in links(page):
        if re.match(r"[a-z]+:", target):   # elsewhere: a test asks nobody outside of this machine
            continue
        name, _, anchor = target.partition("#")
        path = Path(os.path.normpath(page.path.parent / name)) if name else page.path
        there = page if path == page.path else None
        if not target or not (there or path.exists()):
            yield number, f"({target}): there is no such file"
        elif ROOT not in path.parents or path.relative_to(ROOT).parts[0] in ("build", "my"):
            yield number, f"({target}): not a file of this repository"
        elif anchor and path.suffix == ".md":
            there = there or Page(path.read_text(encoding="utf-8"), path)
            if anchor not in [found for _, _, found in headings(there)]:
                yield number, f"({target}): there is no such heading"
        elif anchor:
            last = re.fullmatch(r"(?:L\d+-)?L(\d+)", anchor)
            if not last or int(last[1]) > len(path.read_text(encoding="utf-8").splitlines()):
                yield number, f"({target}): there is no such line"


def missing_in_contents(page: Page) -> Iterator[Told]:
    linked = {target for _, target in links(page)}
    for level, shown, anchor in headings(page):
        if level == 2 and f"#{anchor}" not in linked and shown != "Contents":
            yield 1, f'nothing links to the section "{shown}"'


def wrong_details(page: Page) -> Iterator[Told]:
    """GitHub renders what is folded away as Markdown only between blank lines."""
    lines = dict(page.text)
    opened = 0
    for number, line in page.text:
        if "<details" in line:
            if opened:
                yield opened, "<details> within <details>, or it is not closed"
            opened = number
            rest = line.strip()
            if rest == "<details>":
                number, rest = number + 1, rest + lines.get(number + 1, "")
            if not re.fullmatch(r"<details>\s*<summary>.+</summary>", rest):
                yield opened, "<details> without <summary>...</summary> in its line or the next"
            elif lines.get(number + 1, "x").strip():
                yield number, "no blank line behind <summary>"
        if "</details>" in line:
            if not opened:
                yield number, "</details> that nothing has opened"
            elif line.strip() != "</details>" or lines.get(number - 1, "x").strip():
                yield number, "no blank line before </details>, or not alone in its line"
            opened = 0
    if opened:
        yield opened, "<details> is not closed"


TERMS = ("listener", "peer", "backlog", "accept queue", "descriptor", "readiness",
         "level-triggered", "edge-triggered", "watched set", "ready list", "outbox", "half-close",
         "reset", "backpressure", "EAGAIN")


def wrong_glossary(page: Page) -> Iterator[Told]:
    seen: dict[str, int] = {}
    within = False
    for number, line in page.text:
        if line.startswith("## "):
            within = line == "## Glossary"
        term = re.match(r"[-*|] *\*\*(.+?)\*\*", line)
        if within and term:
            if term[1] in seen:
                yield number, f"{term[1]}: stands in the glossary already, line {seen[term[1]]}"
            seen[term[1]] = number
    for term in TERMS:
        if term not in seen:
            yield 1, f'"## Glossary" has no "- **{term}**: ..."'


# --- what is named has to exist -----------------------------------------------------------------

@lru_cache(None)
def targets() -> frozenset[str]:
    """All that the Makefile has a rule for, but for those that only say what there is instead
    (run-%): from the data base that make prints."""
    unset = [word for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "SAN", "BUILD", "BLANK")
             for word in ("-u", name)]
    done = subprocess.run(["env", *unset, "LC_ALL=C", "make", "-pqr", "help"], cwd=ROOT, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE)
    return frozenset(re.findall(r"(?<!# Not a target:)\n([\w./-]+):(?!=)", done.stdout))


@lru_cache(None)
def tests() -> str:
    """The names of all tests, one a line."""
    return "\n".join(name for path in (ROOT / "tests").rglob("test_*.py")
                     for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.M))


def words_of(command: str) -> list[str]:
    try:
        return shlex.split(command, comments=True)
    except ValueError:                     # a part of a command
        return command.split()


def wrong_words(words: list[str]) -> Iterator[str]:
    """Of one `make ...`: its targets, and what is said to them. N and NAME stand for any."""
    for word in words:
        name, equals, value = word.partition("=")
        if not equals and re.fullmatch(r"[a-z][\w./-]*", word):
            target = re.sub(r"-N$", "-3", word)
            if not target.endswith("-NAME") and target not in targets():
                yield f"make {word}: there is no such target"
        elif re.search(r"\bNAME\b", value):
            continue
        elif name == "SERVICE" and value not in ("echo", "greet", "chat"):
            yield f"{word}: there is no such service"
        elif name == "SCENARIO" and value not in scenarios():
            yield f"{word}: there is no such scenario"
        elif name == "ARGS":
            chosen = re.search(r"-k\s*(.*)", value)
            for part in re.findall(r"\w+", chosen[1]) if chosen else ():
                if part not in ("or", "and", "not") and part not in tests() and not any(
                        part in known for known in scenarios()):
                    yield f"{word}: neither a scenario nor a test is called {part}"
            for path in re.findall(r"tests/[\w/.]*", value):
                if not (ROOT / path).exists():
                    yield f"{word}: there is no {path}"


# What only a run brings into build/.
WRITTEN = re.compile(r"build/(notes\.|[\w-]+\.(html|json|log)$|(san|debug)?/?$)")


def wrong_path(word: str) -> str:
    path = word[2:] if word.startswith("./") else word
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)+/?|\w+\.md", path) or path.startswith("my/"):
        return ""
    bug = re.fullmatch(r"build/bugs/(\w+)/server", path)
    if bug:
        there = {f"bug-{bug[1]}", f"variant-{bug[1]}"} & targets()
    elif path.startswith("build/"):
        there = path in targets() or WRITTEN.match(path)
    else:
        there = (ROOT / path).exists()
    return "" if there else f"there is no {path}"


def wrong_commands(page: Page) -> Iterator[Told]:
    """Every `make ...` of the page."""
    for number, line in page.code():
        if re.match(r"(\w+=\S+ )*make( |$)", line) or " make " in line:
            without = re.sub(r"\d?[<>]+&?\s*\S+", "", line)      # where its output goes
            for command in re.split(r"[;|&]+", without):
                words = words_of(command)
                if "make" in words and "install" not in words:
                    for what in wrong_words(words[words.index("make") + 1:]):
                        yield number, what


def wrong_paths(page: Page) -> Iterator[Told]:
    """Those in what is typed by hand; in a console block the run sees to that."""
    for block in page.of("sh"):
        for number, line in enumerate(block.lines, block.line + 1):
            for word in words_of(line):
                told = wrong_path(word.lstrip("<>").rstrip(";&"))
                if told:
                    yield number, told


NAMES = r"`[^`]+`(?:(?:,|,? and)\s+`[^`]+`)*"


def wrong_scenarios(page: Page) -> Iterator[Told]:
    """Behind "Shown by" or "*Scenarios:*", and in a table's column of scenarios."""
    named: list[Told] = []
    for list_ in re.finditer(rf"(?:[Ss]hown by|\*Scenarios?:\*):?\s+({NAMES})", page.joined()):
        number = page.line_at(list_.start())
        named += [(number, name) for name in re.findall(r"`([^`]+)`", list_[1])]
    column = False
    for number, line in page.text:
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)][1:-1]
        if not line.startswith("|"):
            column = False
        elif cells and re.match(r"scenario", cells[-1]):
            column = True
        elif column:
            named += [(number, name) for name in re.findall(r"`([^`]+)`", cells[-1])]
    for number, name in named:
        if not re.match(r"make |tests/", name) and name not in scenarios():
            yield number, f"there is no scenario {name}"


# --- diagrams -----------------------------------------------------------------------------------

# Code hosts draw them with Mermaid, and where it meets something that it does not understand, the
# reader gets an error in place of the diagram. Nothing here can draw one. So what is allowed is so
# little that it cannot go wrong: every text in quotes or without what has a meaning in Mermaid (a
# semicolon ends a line, # begins an entity, "end" ends a block, "1. " is taken for a list).
TEXT = r'"(?!\s*(?:\d+\.|[-*+#>]) )(?:<br/?>|#quot;|[^"<>&#;`])+"'
ID = r"(?!end\b)[A-Za-z]\w*"
SHAPE = rf"(?:\[{TEXT}\]|\{{{TEXT}\}}|\(\[{TEXT}\]\))"
EDGE = rf"({ID})({SHAPE})? -->(?:\|{TEXT}\|)? ({ID})({SHAPE})?"
FREE = r"(?!.*\bend\b)[^\s\";#<>&:][^\";#<>&:]*"
STATE = rf"(?:\[\*\]|{ID})"
GRAMMAR = {
    "flowchart TD": [rf"({ID})({SHAPE})", EDGE],
    "flowchart LR": [rf"({ID})({SHAPE})", EDGE],
    "stateDiagram-v2": [rf"state {TEXT} as {ID}", rf"{STATE} --> {STATE}(?: ?: {FREE})?"],
    "sequenceDiagram": [rf"participant {ID} as {FREE}", rf"{ID}--?>>{ID}: {FREE}",
                        rf"Note over {ID}(?:,{ID})?: {FREE}"],
}


def wrong_diagram(block: Block) -> Iterator[Told]:
    lines = [(number, line.strip()) for number, line in enumerate(block.lines, block.line + 1)
             if line.strip()]
    if not lines or lines[0][1] not in GRAMMAR:
        yield block.line, f"the first line has to be one of: {', '.join(GRAMMAR)}"
        return
    if len(lines) == 1:
        yield block.line, "an empty diagram"
    named, drawn = {}, set()
    flowchart = lines[0][1].startswith("flowchart")
    for number, line in lines[1:]:
        found = [match for rule in GRAMMAR[lines[0][1]] for match in [re.fullmatch(rule, line)]
                 if match]
        if not found:
            yield number, f"not in the part of Mermaid that is allowed here: {line}"
        elif flowchart:
            words = found[0].groups()
            for name, shape in zip(words[::2], words[1::2]):
                named.setdefault(name, number)
                if shape and name in drawn:
                    yield number, f"{name} has got its text already"
                drawn.update([name] if shape else [])
    for name, number in named.items():
        if name not in drawn:
            yield number, f"{name} has no text"
