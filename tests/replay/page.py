"""The page: one file, nothing to fetch. What page.js draws step by step also stands there as text,
for those who have no script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.output.html import Markup, document, element
from tests.replay.model import Picture
from tests.replay.programs import Program
from tests.replay.record import Raw
from tests.replay.terminal import details

SCRIPT = Path(__file__).resolve().parent / "page.js"

STYLE = """
body { max-width: none; }
nav a[aria-current] { font-weight: 700; }
.bars { position: sticky; top: 0; z-index: 1; background: var(--page); padding: .4rem 0;
  border-bottom: 1px solid var(--line); }
.bars p { margin: .2rem 0; } #step { font-weight: 600; font-size: 1.1rem; max-width: none; }
.keys { display: flex; flex-wrap: wrap; gap: .4rem; align-items: center; }
.keys input { flex: 1 1 10rem; min-width: 6rem; }
button { font: inherit; color: inherit; background: var(--panel); padding: .25rem .7rem;
  border: 1px solid var(--gray); border-radius: .3rem; cursor: pointer; }
button[aria-pressed=true] { background: var(--asleep); font-weight: 700; }
:is(button, input):focus-visible { outline: 3px solid var(--blue); outline-offset: 2px; }
#columns { display: grid; gap: 1rem; margin-top: 1rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); }
.column { border: 1px solid var(--line); border-top: .3rem solid var(--good); padding: .6rem;
  border-radius: .3rem; min-width: 0; }
.column.asleep { border-top: .3rem solid var(--blue); }
.column.spins { border-top: .3rem double var(--hot); }
.column.still { border-style: dashed; }
.column h3 { margin: 0; } .column p { margin: .3rem 0;
  overflow-wrap: anywhere; }
.say { min-height: 3.1em; } .state b { white-space: nowrap; }
pre { font: .72rem/1.4 ui-monospace, monospace; overflow-x: auto; background: var(--panel);
  padding: .4rem; margin: .2rem 0; }
mark { background: var(--wait); color: var(--ink); }
figcaption, .place, .cost, .stack, small { font-size: .8rem; color: var(--soft); }
.stack ol { margin: .2rem 0; padding-left: 1.6rem; }
.column table { width: 100%; font-size: .78rem; } .column :is(th, td) { text-align: left;
  padding: .15rem .3rem; vertical-align: top; border-bottom: 1px solid var(--line); }
.unaccepted :is(th, td) { border: 2px dashed var(--orange); font-style: italic; }
.bar { position: relative; display: block; min-width: 4.2rem; height: 1.25em;
  border: 1px solid var(--line); }
.bar i { position: absolute; inset: 0 auto 0 0; opacity: .35; }
.bar span { position: relative; padding-left: .25em; }
.in i { background: var(--blue); } .out i { background: var(--purple); }
.box i { background: var(--orange); } .peek { display: block; word-break: break-all; }
.set { border: 1px solid var(--line); border-left: .3rem solid var(--orange); margin: .5rem 0;
  padding: .3rem .5rem; } .set.inside { border-left-color: var(--teal); }
.column .bits { width: auto; } .bits td { text-align: center; } .told { font-weight: 700; }
.entries { list-style: none; margin: .2rem 0; padding: 0; font-size: .8rem; display: flex;
  flex-wrap: wrap; gap: .3rem; }
.entries li { border: 1px solid var(--line); padding: .1rem .4rem; }
.entries li.told { border: 2px solid var(--good); } .entries span { display: block; }
.ready { font-size: .85rem; }
.people { list-style: none; padding: 0; margin: .4rem 0 0; font-size: .85rem; }
.waits strong { background: var(--wait); padding: 0 .3em; }
#tabs { display: flex; gap: .3rem; flex-wrap: wrap; margin-top: .4rem; } .away { display: none; }
#all li { margin: .5rem 0; } #all pre { white-space: pre-wrap; }
.quiet { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
@media screen and (max-width: 50rem) { .bars { position: static; }
  .bar { min-width: 3.2rem; } .column :is(th, td) { padding: .15rem; } }
@media print { .keys, nav, #tabs { display: none !important; } .bars { position: static; }
  .column { break-inside: avoid; } }
"""

# With a script there is no need to lay all of it out first.
CLOSED = Markup("<script>document.getElementById('all').open = false;</script>")
LEGEND = element("details", element("summary", "What the words and letters mean"), element("ul", [
    element("li", text) for text in (
        "Ready, or watched, for: r reading (a listener: accept), w writing, x urgent data, h hung "
        "up or an error (reported unasked).",
        "Accept queue: connections that the kernel has made and the server has not accepted.",
        "Receive queue: bytes that have come and that no recv() has taken.",
        "Send queue: bytes that send() has taken and the client's kernel has not acknowledged.",
        "To be sent: bytes that the program has in its own memory and still has to send: in the "
        "outbox; or, where an echo is sent at once, still in the buffer of recv().",
        "Told, revents, ✓: what the last wait reported. It stays until the next wait, though a "
        "recv() or accept() may have changed what is ready now.",
        "Bars are logarithmic: read the numbers.")]))

PLAYER = Markup("""<section id="player" hidden>
<h2 id="title"></h2>
<p id="about"></p>
<div class="bars"><p id="step"></p>
<div class="keys"><button type="button" id="first">« First</button>
<button type="button" id="back">‹ Back</button><button type="button" id="next">Next ›</button>
<button type="button" id="play">▶ Play</button>
<input type="range" id="range" min="0" value="0" aria-label="Step"><span id="count"></span></div>
<div id="tabs" role="group" aria-label="Servers that are shown"></div></div>
<div id="columns"></div>
<p id="said" class="quiet" aria-live="polite"></p>
</section>""")


def page(stories: list[Raw], programs: dict[str, Program], made: str) -> str:
    """stories: as model() makes them. The recording of each has been found true before."""
    sources, index = [], {}
    for name, program in programs.items():
        index[name] = len(sources)
        sources.append({"lines": program.file("server.cpp").split("\n"),
                        "sha256": program.digest("server.cpp")})
    told = [{**story, "most": most(story), "columns": [
        {**column, "source": index[column["id"]],
         "file": f"{programs[column['id']].sources.name}/server.cpp",
         "pictures": differences(column["pictures"])} for column in story["columns"]]}
        for story in stories]
    data = json.dumps({"stories": told, "sources": sources}, separators=(",", ":"))
    escaped = data.replace("</", "<\\/")             # or it would end the element
    return document(
        "The kernel behind glass", STYLE,
        element("h1", "The kernel behind glass"),
        element("p", "One story, and what each server and its kernel did with it, step by step: "
                "the line of source, the call, the watched set, every socket's queues. All of it "
                f"was recorded from the programs as they are ({made}). Go on with the arrow keys."),
        LEGEND,
        element("nav", element("ul", [element("li", element(
            "a", story["title"], href=f"#{story['name']}/0")) for story in stories]),
            aria_label="Stories"),
        PLAYER,
        element("details", element("summary", "All steps as text"), CLOSED,
                [as_text(story) for story in stories], id="all", open="open"),
        Markup(f'<script id="data" type="application/json">{escaped}</script>'),
        Markup(f"<script>\n{SCRIPT.read_text(encoding='utf-8')}</script>"))


def most(story: Raw) -> int:
    """The most bytes in one place: how wide a bar may be."""
    return max([1, *(max(row[3] * (row[2] != "l"), row[4] * (row[2] != "l"), row[7])
                     for column in story["columns"] for picture in column["pictures"]
                     for row in picture["sockets"])])


def differences(pictures: list[Picture]) -> list[Picture]:
    """Of each picture what is otherwise than in the one before."""
    found, last = [], {}
    for picture in pictures:
        whole: dict[str, Any] = {"moves": True, **picture}
        found.append({key: value for key, value in whole.items() if last.get(key) != value})
        last = whole
    return found


def as_text(story: Raw) -> Markup:
    items = []
    for at, step in enumerate(story["steps"]):
        said = []
        for column in story["columns"]:
            picture = column["pictures"][at]
            if picture.get("moves", True) and not (at and picture == column["pictures"][at - 1]):
                said.append(element("li", element("b", column["id"]), " ", picture["say"],
                                    element("pre", "\n".join(details(picture)))))
        items.append(element("li", step["text"], element("ul", said),
                             id=f"{story['name']}/{at}"))
    return element("section", element("h2", story["title"]), element("p", story["about"]),
                   element("ol", items, start=0))
