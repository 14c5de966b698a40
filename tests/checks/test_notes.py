"""NOTES.md and README.md: every link leads somewhere, every command prints what stands below it,
everything that is named exists.

How the pages are read: pages.py. How commands are run and compared: console.py.
"""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.checks import console, pages
from tests.checks.console import as_pattern, commands_of, fits, missing_for, wrong_output
from tests.checks.pages import Block, Page, Told
from tests.harness import BUILD, DEADLINE, ROOT

pytestmark = pytest.mark.sources

AT_ONCE = 4                                # blocks: most of one is waiting
FILES = {name: Page((ROOT / name).read_text(encoding="utf-8"), ROOT / name)
         for name in ("NOTES.md", "README.md")}
KINDS = ("console", "run", "sh", "mermaid", "")   # without a name: shown, and not checked


def _blocks(*kinds: str):
    found = [(name, block) for name, page in FILES.items() for block in page.blocks
             if block.kind in kinds]
    return pytest.mark.parametrize("name, block", found,
                                   ids=[f"{name}:{block.line}" for name, block in found])


EACH = pytest.mark.parametrize("name", FILES)
CHECKS = (pages.wrong_links, pages.wrong_details, pages.wrong_commands, pages.wrong_paths,
          pages.wrong_scenarios)


def _holds(name: str, wrong) -> None:
    found = [f"{name}:{number}: {what}" for number, what in wrong]
    assert not found, "\n" + "\n".join(found)


@EACH
@pytest.mark.parametrize("check", CHECKS, ids=[check.__name__ for check in CHECKS])
def test_nothing_on_the_page_is_wrong(name, check):
    _holds(name, check(FILES[name]))


@EACH
def test_blocks_are_of_a_known_kind(name):
    page = FILES[name]
    _holds(name, page.unclosed)
    _holds(name, [(block.line, f"a block of the kind {block.kind!r}: there are {KINDS}")
                  for block in page.blocks if block.kind not in KINDS])


def test_the_contents_of_the_notes_are_complete():
    _holds("NOTES.md", pages.missing_in_contents(FILES["NOTES.md"]))


def test_the_glossary_has_every_term_once():
    _holds("NOTES.md", pages.wrong_glossary(FILES["NOTES.md"]))


@_blocks("mermaid")
def test_a_diagram_is_one_that_can_be_drawn(name, block):
    _holds(name, pages.wrong_diagram(block))


@pytest.fixture(scope="module")
def outcomes(request):
    """Those blocks that will be asked for are started together, in that order."""
    asked = [item.callspec.params["block"] for item in request.session.items
             if item.module.__name__ == __name__ and "outcomes" in item.fixturenames]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        started = {block: pool.submit(wrong_output, block) for block in asked
                   if not missing_for(block)}
        yield started
        for waiting in started.values():
            waiting.cancel()


@pytest.mark.skipif(BUILD != ROOT / "build", reason="the notes' commands are for what is in build/")
@_blocks("console", "run")
def test_commands_print_what_stands_there(name, block, outcomes):
    missing = missing_for(block)
    if missing:
        pytest.skip(missing)
    wrong = outcomes[block].result()
    assert not wrong, f"\n{name}:{block.line}, {wrong}"


# --- the checks themselves: what is wrong is seen -------------------------------------------------

def _console(text: str) -> Block:
    return Block("console", 1, tuple(text.splitlines()))


def _needs_bash(block: Block) -> Block:
    if missing_for(block):
        pytest.skip(missing_for(block))
    return block


def test_a_block_is_read():
    page = Page("a\n```console\n$ one\n> more\nsaid\n$ two\n\n```\n  ```sh\n  make\n  ```\nb")
    assert [(block.kind, block.line, block.lines) for block in page.blocks] == [
        ("console", 2, ("$ one", "> more", "said", "$ two", "")), ("sh", 9, ("make",))]
    assert page.text == [(1, "a"), (12, "b")]
    first, second = commands_of(page.blocks[0])
    assert (first.line, first.text, first.expected) == (3, "one\nmore", ["said"])
    assert (second.line, second.text, second.expected) == (6, "two", [])
    assert Page("```sh\nmake").unclosed == [(1, "this block has no end")]
    for wrong in "said\n$ one", "":
        with pytest.raises(ValueError):
            commands_of(_console(wrong))


@pytest.mark.parametrize("line, like, unlike", [
    ("a.c", ["a.c"], ["abc", "a.c d"]),
    ("a...c", ["ac", "abbc"], ["ab"]),
    ("slept=≈2.117", ["slept=0.3", "slept=12"], ["slept=", "slept=x", "slept=1 s"]),
    ("  ≈0.000 start", ["   12.345 start", "0.1 start"], [" start", "0.1  tart"]),
    ("≈1,000 ns  (≈9 to ≈10)", ["7 ns  (1,234 to 2)", "1234 ns  (1 to 2)"],
     ["7 us  (1 to 2)", "7 ns  (1.5 to 2)"]),
    ("LISTEN ≈0   ≈128  x", ["LISTEN 12 4096 x"], ["LISTEN12 4096 x", "LISTEN 4096 x"]),
])
def test_figures_and_dots_stand_for_others(line, like, unlike):
    assert [text for text in like if not re.fullmatch(as_pattern(line), text)] == []
    assert [text for text in unlike if re.fullmatch(as_pattern(line), text)] == []


@pytest.mark.parametrize("expected, actual, same", [
    ("a b", "a b", True), ("a b", "a", False), ("a", "a b", False), ("", "a", False),
    ("...", "", True), ("...", "a b", True), ("a ... d", "a b c d", True),
    ("a ... d", "a d", True), ("... d ... d", "a d b c d", True), ("... d", "d d d", True),
    ("... d ... e", "d d", False), ("a ... d", "b d", False), ("a ...", "a", True),
])
def test_dots_alone_stand_for_lines(expected, actual, same):
    assert fits(expected.split(), actual.split()) == same


def test_a_block_to_be_pasted_has_its_answer_in_the_next():
    page = Page("```sh run\ncat <<END\n$ one\nEND\n```\n<details>\n\n```text\n$   one\n```\n"
                "```sh\nmake\n```")
    assert [block.kind for block in page.blocks] == ["run", "sh"]
    block = _needs_bash(page.blocks[0])
    assert not wrong_output(block)
    assert "in the notes:\n      $ two" in wrong_output(replace(block, answer=("$ two",)))


def test_what_is_right_is_right():
    before = set(ROOT.glob("build/notes.*"))
    assert not wrong_output(_needs_bash(_console(
        "$ echo one; echo two >&2\none\ntwo\n"
        "$ x=3\n$ for i in 1 2\n> do echo $i $x; done\n1 3\n2 3\n"
        "$ printf 'no end of line'\nno end of line\n$ echo 7000 $SAN$MAKELEVEL\n7000\n"
        "$ echo said >build/notes.log; cat build/notes.log; echo build/notes.*\n"
        "said\nbuild/notes.log\n$ read line || echo no input\nno input\n"
        "$ no_such_command\nbash: no_such_command: command not found\n$ pwd\n...\n")))
    assert set(ROOT.glob("build/notes.*")) == before


def test_ports_are_others_each_time_and_told_as_in_the_notes():
    commands = commands_of(_needs_bash(_console(
        "$ p=7001; echo $((p - 1)) $p 7002 7001 17001 70015 0.7001 port:7002")))
    first, second = (console.play(commands, DEADLINE).outputs[0].split() for _ in range(2))
    assert first[1:] == second[1:] == "7001 7002 7001 17001 70015 0.7001 port:7002".split()
    assert first[0] != second[0]


@pytest.mark.parametrize("text, line, words", [
    ("$ echo one\none\n$ echo two\nthree", 4, ["not what stands there", "  three", "  two"]),
    ("$ echo more", 2, ["not what stands there", "  more"]),
    ("$ true\nmore", 2, ["not what stands there", "  more"]),
    ("$ echo before\nbefore\n$ exit 3\n$ echo more", 4, ["the shell ended here"]),
    ("$ if", 2, ["the shell ended here", "syntax error"]),
    ("$ echo ≈5\n≈5", 2, ["not what stands there"]),
])
def test_what_is_wrong_is_told(text, line, words):
    told = wrong_output(_needs_bash(_console(text)))
    assert told.startswith(f"line {line}: $ ")
    assert [word for word in words if word not in told] == []


def test_a_sleep_that_is_too_short_is_given_more_time():
    block = _needs_bash(_console("$ (command sleep 0.6; echo late) & sleep 0.2\nlate"))
    assert not wrong_output(block)
    assert console.told(commands_of(block), console.play(commands_of(block), DEADLINE), DEADLINE)


@pytest.mark.parametrize("text", ["$ echo before\nbefore\n$ command sleep 600",
                                  "$ echo before\nbefore\n$ trap '' TERM INT; while :; do :; done"])
def test_a_block_that_hangs_is_ended(text):
    began = time.monotonic()
    told = wrong_output(_needs_bash(_console(text)), seconds=0.5)
    assert "not over within 0.5 s" in told and told.startswith("line 4: ")
    assert time.monotonic() - began < DEADLINE


@pytest.mark.parametrize("how", ["", "setsid ", "setsid setsid "])
def test_what_is_left_behind_is_ended(how):
    played = console.play(commands_of(_needs_bash(_console(
        f"$ {how}bash -c 'trap \"\" TERM HUP; echo $$ >>build/notes.pid; sleep 600; :' &\n"
        "$ until [ -s build/notes.pid ]; do sleep 0.01; done; cat build/notes.pid"))), DEADLINE)
    assert not played.late and not _runs(int(played.outputs[1]))


def _runs(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_a_machine_lacks_is_told(monkeypatch):
    monkeypatch.setattr(console.shutil, "which", lambda name: None if name == "ss" else name)
    assert "iproute2" in missing_for(_console("$ true; timeout 1 ss -tan"))
    assert not missing_for(_console("$ echo ss"))
    monkeypatch.setattr(console, "connects", lambda: False)
    assert "/dev/tcp" in missing_for(_console("$ exec 3<>/dev/tcp/127.0.0.1/7000"))
    monkeypatch.setattr(console.shutil, "which", lambda name: None)
    assert "bash" in missing_for(_console("$ true"))


HEADED = "# A `b_c`, and d!\n## Twice\n## Twice\n## [x](NOTES.md) *y*\n\n"


@pytest.mark.parametrize("link", ["NOTES.md", "#a-b_c-and-d", "#twice", "#twice-1", "#x-y",
                                  "https://example.org/", "tests/scenarios", "tests/scenarios/",
                                  "tests/README.md#the-tests", "05_epoll/server.cpp#L3"])
def test_links_that_lead_somewhere(link):
    assert not list(pages.wrong_links(Page(f"{HEADED}see [`it`]({link}), `[no]link(x)`")))


@pytest.mark.parametrize("link", ["nowhere.md", "#a", "#twice-2", "tests/README.md#nowhere", "/tmp",
                                  "..", "build/x", "05_epoll/server.cpp#L999", ""])
def test_links_that_lead_nowhere(link):
    [(line, _)] = pages.wrong_links(Page(f"{HEADED}`[no](x)` and\nsee [`it`]({link})"))
    assert line == 7


def test_a_code_span_may_go_over_the_end_of_a_line():
    assert [line for line, _ in pages.wrong_links(Page("a `b\nc` [d](no) `e [f](no)` [g](no)"))
            ] == [2, 2]


def test_a_section_that_the_contents_lack():
    text = "[one](#one)\n## Contents\n## One\n## Two\n### Three\n"
    assert [what for _, what in pages.missing_in_contents(Page(text))] == [
        'nothing links to the section "Two"']


FOLDED = "<details>\n<summary>Answer</summary>\n\ntext\n\n</details>\n"


@pytest.mark.parametrize("text, lines", [
    (FOLDED, []), (FOLDED.replace(">\n<s", "><s"), []), (FOLDED * 2, []),
    (FOLDED.replace("\n\ntext", "\ntext"), [2]), (FOLDED.replace("text\n\n", "text\n"), [5]),
    (FOLDED.replace("</details>", ""), [1]), (FOLDED.replace("</details>\n", "") * 2, [1, 6]),
    (FOLDED.replace("<summary>Answer</summary>", "Answer"), [1]), ("</details>", [1]),
])
def test_folded_answers(text, lines):
    assert [line for line, _ in pages.wrong_details(Page(text))] == lines


def test_the_glossary():
    terms = "".join(f"- **{term}**: what it is\n" for term in pages.TERMS)
    page = "## Before\n- **peer**: no\n## Glossary\n\n" + terms
    assert not list(pages.wrong_glossary(Page(page)))
    assert [line for line, _ in pages.wrong_glossary(Page(page + "- **peer**: again"))] == [
        page.count("\n") + 1]
    [(_, told)] = pages.wrong_glossary(Page(page.replace("- **peer**: what", "- what")))
    assert "**peer**" in told


@pytest.mark.parametrize("text", [
    "`make`, `make run-3`, `make run-N`, `make bug-NAME`, `make bug-sigpipe`, `make help`",
    '`make test ARGS="-k second_client"`, `make test\nARGS="-k NAME"`',
    "`make compare SCENARIO=idle`",
    '    make try SERVER="./mine {port}"   # make it run\n',
    "```sh\nmake run-3 & make client-3\n```", "`make client-6 SERVICE=chat`",
    "```console\n$ make run-3 ARGS=-h >build/notes.x 2>&1\nmake no\n```",
    "`make test ARGS=tests/checks/test_notes.py`", "make nothing of it",
])
def test_commands_that_there_are(text):
    assert not list(pages.wrong_commands(Page(text)))


@pytest.mark.parametrize("text", [
    '`make runs`', '`make run-9`', '`make bug-nothing`', '    make run-3 & make nothing\n',
    '```sh\nmake nothing\n```', '```console\n$ timeout 5 make nothing >build/notes.x\n```',
    '`make test ARGS="-k no_such_scenario"`', '`make compare SCENARIO=nothing`',
    '`make client-3 SERVICE=mail`', '`make test ARGS=tests/nothing.py`', 'a `make\nnothing` b',
])
def test_commands_that_there_are_not(text):
    assert len(list(pages.wrong_commands(Page(text)))) == 1


@pytest.mark.parametrize("line, right", [
    ("less 05_epoll/server.cpp NOTES.md", True), ("less 05_epoll/nothing.cpp", False),
    ("build/05_epoll -e 7000", True), ("build/07_nothing -e 7000", False),
    ("less NOTHING.md", False),
    ("build/bugs/watch_then_write/server -e 7000 &", True), ("build/bugs/no/server &", False),
    ("tail -f build/notes.log # a/b", True), ("exec 3<>/dev/tcp/127.0.0.1/7000", True),
    ("make try SERVER=./mine", True), ("my/04_poll/server -e 7000", True),
])
def test_paths_in_what_is_typed_by_hand(line, right):
    assert bool(list(pages.wrong_paths(Page(f"```sh\n{line}\n```")))) != right


@pytest.mark.parametrize("text, lines", [
    ("Shown by: `idle`, `second_client`.", []), ("a\nShown by: `idle`,\n`nothing`. `other`", [2]),
    ("*Scenarios:* `idle`, `nothing`", [1]), ("shown by `nothing` and `idle`", [1]),
    ("| a | scenario |\n|---|---|\n| `x` | `idle`; `make bug-sigpipe` |\n| y | `nothing` |\n", [4]),
])
def test_scenarios_that_are_named(text, lines):
    assert [line for line, _ in pages.wrong_scenarios(Page(text))] == lines


def _drawn(*lines: str) -> list[Told]:
    return list(pages.wrong_diagram(Block("mermaid", 0, lines)))


def test_diagrams_that_can_be_drawn():
    assert not _drawn("flowchart TD", '  A["wait: select()"] --> B{"ready?<br/>who"}', "",
                      '  B -->|"a listener"| C(["accept"])', "  C --> A",
                      '  B --> D["x #quot;y#quot;"]')
    assert not _drawn("stateDiagram-v2", 'state "it reads" as Reading', "[*] --> Reading",
                      "Reading --> [*]: recv() returned 0")
    assert not _drawn("sequenceDiagram", "participant C as client", "participant K as kernel",
                      "C->>K: connect()", "K-->>C: SYN, ACK", "Note over C,K: connected")


@pytest.mark.parametrize("lines, wrong", [
    ([], 0), (["graph TD"], 0), (["flowchart TD"], 0), (["flowchart TD", "A[text]"], 2),
    (["flowchart TD", 'A["x"]', "A -> A"], 3), (["flowchart TD", 'A["x"]', "A --> B"], 3),
    (["flowchart TD", 'A["a "b""]'], 2), (["flowchart TD", 'A["a &lt; b"]'], 2),
    (["flowchart TD", 'A["1. one"]'], 2), (["flowchart TD", 'end["x"]'], 2),
    (["flowchart TD", 'A["x"]', "A -->|text| A"], 3), (["flowchart TD", 'A["x"]', 'A["y"]'], 3),
    (["flowchart TD", "A"], 2), (["sequenceDiagram", "A->>B: a; b"], 2),
    (["sequenceDiagram", "A->>B: the end"], 2), (["sequenceDiagram", "A->B: x"], 2),
    (["stateDiagram-v2", "A -> B"], 2), (["stateDiagram-v2", "A --> B: a: b"], 2),
])
def test_diagrams_that_cannot_be_drawn(lines, wrong):
    assert [line for line, _ in _drawn(*lines)] == [wrong]
