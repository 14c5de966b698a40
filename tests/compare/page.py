"""build/compare.html from what was recorded: one file, nothing to fetch.

page(record) needs nothing but the record. The matrix comes first, and behind each of its cells
the scenario's timeline, drawn as SVG, with the narration under it. Before it stand the three
pictures that matter most. The only script opens the fold that a link leads into.
"""

from __future__ import annotations

from typing import Any, Iterator

from tests.compare.lessons import REPLAYED
from tests.compare.timeline import MARKERS, STYLE as TIMELINE, timeline
from tests.output.html import Line, Markup, chart, document, element, link, markup, table
from tests.replay.stories import STORIES

Record = dict[str, Any]

STYLE = TIMELINE + """
@media print { .matrix th, .matrix td { min-width: 0 !important; }
  .matrix th { position: static !important; } .key i { print-color-adjust: exact; } }
th, td { padding: .35rem .55rem; border: 1px solid var(--line); text-align: left;
  vertical-align: top; } thead th { background: var(--panel); }
.matrix th:first-child { min-width: 9.5rem; max-width: 16rem; background: var(--panel);
  font-weight: 600; position: sticky; left: 0; }
.matrix td { min-width: 5.6rem; padding: 0; } .matrix td a { display: block; height: 100%;
  padding: .35rem .55rem; text-decoration: none; }
.matrix td a:hover { text-decoration: underline; }
.worst { background: var(--badback); color: var(--bad); font-weight: 600; }
.figures td { text-align: right; } .figures .most { color: var(--bad); font-weight: 600; }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .4rem 0;
  padding: 0 .7rem; } details[open] { padding-bottom: .7rem; }
summary { cursor: pointer; padding: .45rem 0; } details details { border: 0; padding: 0; }
:target { scroll-margin-top: 1rem; } details:target { border-color: var(--blue); }
figcaption { max-width: none; }
pre { font: .78rem/1.5 ui-monospace, monospace; overflow-x: auto; background: var(--panel);
  padding: .6rem; margin: .3rem 0; } pre mark { background: var(--wait); color: var(--ink); }
pre i { color: var(--soft); font-style: normal; }
.key { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .4rem 0;
  padding: 0; }
.key i { display: inline-block; width: 1.1em; height: .8em; margin-right: .35em; }
"""

# A link into a fold opens it, also in browsers that do not do so by themselves.
SCRIPT = Markup("""<script>
function unfold() {
  for (let fold = document.getElementById(location.hash.slice(1)); fold; fold = fold.parentElement)
    if (fold.tagName === "DETAILS") fold.open = true;
  document.getElementById(location.hash.slice(1))?.scrollIntoView();
}
addEventListener("hashchange", unfold);
if (location.hash) unfold();
</script>""")

IDEAS = ("Blocking: one client at a time, and every call sleeps.",
         "A busy loop: no call sleeps; every socket is tried in turn, all the time.",
         "select: the kernel is asked once about all of them, and sleeps meanwhile.",
         "poll: the same, with a list that may be of any length.",
         "epoll: the kernel keeps the list, and returns who is ready.",
         "A selector with callbacks, on top of any of these three.")

# The pictures that tell the whole story: id, title, scenario, stages, what is to be seen.
PICTURES = (
    ("why-waiting", "Why stage 1 makes people wait", "second_client", ("1", "5"),
     "A connects and says nothing. B connects and asks. In stage 1 the server has gone to "
     "sleep in a call that only A can end; in stage 5 it sleeps in one that anybody ends."),
    ("why-hot", "Why stage 2 is hot", "idle", ("2", "5"),
     "Fifty clients have each been answered once, and now nobody says anything. Both servers "
     "serve all fifty. One of them asks all fifty, all the time, whether they have said "
     "something; the other has asked the kernel to wake it."))

FIGURES = {"waits": "waits", "recv": "receives", "send": "sends", "accept": "accepts",
           "watch": "changes of the watched set", "would_block": "calls for nothing",
           "scanned": "entries looked at"}


def page(record: Record) -> str:
    return document("One server, six ways to wait", STYLE, MARKERS, *introduction(record),
                    *pictures_that_matter(record), *matrix(record),
                    element("h2", "Behind the cells", id="behind"),
                    *(section(record, name) for name in record["scenarios"]), SCRIPT)


def introduction(record: Record) -> Iterator[Markup]:
    yield element("h1", "One server, six ways to wait")
    yield element("p", "A server has many sockets and one thread. Six programs serve the same "
                  "clients the same services, and differ in one thing: how they learn which socket "
                  "to touch next.")
    yield element("p", f"All that follows was observed in one run: {record['made']}, "
                  f"{record['machine']}, {record['seconds']:.0f} seconds. The clients, the figures "
                  "and the scenarios are those of the tests.", class_="soft")
    yield element("ol", [element("li", idea) for idea in IDEAS])
    yield element("nav", link("three", "Three pictures"), " · ", link("matrix", "The matrix"),
                  " · ", link("behind", "Behind the cells"), aria_label="On this page")
    yield element("h2", "How to read a picture", id="read")
    yield element("p", "Time runs to the right. Each client has a lane, from its connection to its "
                  "end; the server has one below them, with a row for each kind of call. A mark "
                  "that points up sends, one that points down receives. On a narrow screen "
                  "pictures scroll sideways.")
    yield element("ul", [element("li", element("i", style=f"background: var(--{color})"), text)
                         for color, text in (
                             ("asleep", "the server is asleep, in the call named"),
                             ("hot", "the server spins: it calls for nothing"),
                             ("wait", "a client waits for its answer"))], class_="key")


def pictures_that_matter(record: Record) -> Iterator[Markup]:
    """Those that the run has played."""
    yield element("h2", "Three pictures", id="three")
    for ident, title, name, stages, text in PICTURES:
        scenario = record["scenarios"].get(name, {"runs": {}})
        shown = {stage: scenario["runs"][stage]["picture"] for stage in stages
                 if "picture" in scenario["runs"].get(stage, {})}
        if not shown:
            continue
        yield element("h3", title, id=ident)
        yield element("p", text)
        longest = max(picture["seconds"] for picture in shown.values())
        for stage, picture in shown.items():
            stage_name = name_of(record, stage)
            yield element("figure", element(
                "figcaption", element("b", f"{stage_name}."), f" {scenario['lessons'][stage]} ",
                link(f"{name}-{stage}", "What it said.")),
                timeline(picture, f"{ident}-{stage}", f"{title}: {stage_name}", longest))
    drawn = growth(record)
    if drawn:
        yield element("h3", "Why stage 5 stays flat", id="why-flat")
        yield element("p", "One client asks, beside 10, 100 and 1,000 that say nothing. How many "
                      "entries are looked at for one message, by kernel and program together? "
                      "select and poll get the whole list with each call, and walk it; the busy "
                      "loop asks everybody for nothing. epoll has been told once, and looks only "
                      "at who is ready.")
        yield element("figure", drawn, element(
            "figcaption", "Both axes are logarithmic. ",
            link("silent_clients-figures", "All figures."), class_="soft"))


def growth(record: Record) -> Markup:
    """Entries looked at for one message, by the number of silent clients."""
    runs = record["scenarios"].get("silent_clients", {}).get("runs", {})
    lines = []
    for stage, name, *look in (
            ("2", "busy loop", "busy", "", "cross"), ("3", "select", "select", "", "square"),
            ("4", "poll", "poll", "7 5", "diamond"), ("5", "epoll", "epoll", "", "circle")):
        seen = runs.get(stage, {}).get("observed")
        if seen:
            points = [(int(count), max(1.0, cost["scanned"])) for count, cost in seen.items()
                      if int(count)]
            lines.append(Line(f"{stage} {name}", *look, points, f": {points[-1][1]:,.0f}"))
    return chart("growth", "Entries looked at for one message, by the number of silent clients",
                 "silent clients", "entries looked at", lines, [10, 100, 1000],
                 "{} beside {}", height=340) if lines else Markup()


def matrix(record: Record) -> Iterator[Markup]:
    def cell(row: Record, stage: str) -> Markup:
        shown = row["cells"][stage]
        return element("td", link(f"{row['scenario']}-{stage}", "▲ " * shown["worst"],
                                  shown["text"]), replayed(row["scenario"], stage, " ▷"),
                       class_="worst" if shown["worst"] else "",
                       data_row=row["id"], data_stage=stage)

    yield element("h2", "The matrix", id="matrix")
    yield element("p", "Each cell is what was observed; ",
                  element("span", "\u00a0▲ worst\u00a0", class_="worst"),
                  " marks what you would not want. Each leads to its picture, ▷ to the same as a "
                  "story, step by step, with what the kernel has meanwhile (in replay.html, which ",
                  element("code", "make replay"), " makes). System calls are those that serve "
                  "clients, as the servers count them; what it takes to narrate is not among them.")
    yield table(["Question", *(markup(stage["id"], Markup("<br>"), stage["title"])
                               for stage in record["stages"])],
                [[element("th", row["question"], scope="row", id=f"row-{row['id']}"),
                  *(cell(row, stage) for stage in row["cells"])] for row in record["rows"]],
                title="The matrix", kind="matrix")


def replayed(scenario: str, stage: str, text: str) -> Markup:
    """A link to the story that shows the same, if there is one with that stage."""
    story = REPLAYED.get(scenario, "")
    if not story or stage.replace("6-epoll", "6") not in STORIES[story].stages.split():
        return Markup()
    return element("a", text, href=f"replay.html#{story}", title="step by step",
                   aria_label=f"{scenario}, stage {stage}, step by step")


def section(record: Record, name: str) -> Markup:
    scenario = record["scenarios"][name]
    return element(
        "section", element("h3", scenario["question"]),
        element("p", element("code", f"make compare SCENARIO={name}"), class_="soft"),
        figures(record, scenario) if name == "silent_clients" else "",
        [run(record, name, stage["id"]) for stage in record["stages"]], id=name)


def run(record: Record, name: str, stage: str) -> Markup:
    scenario, title = record["scenarios"][name], name_of(record, stage)
    played = scenario["runs"][stage]
    said = "; ".join(row["cells"][stage]["text"] for row in record["rows"]
                     if row["scenario"] == name)
    inside = [element("summary", element("b", title), ": " * bool(said), said)]
    if "picture" in played:
        narration = played["picture"]["narration"]
        count = sum(entry if isinstance(entry, int) else 1 for entry in narration)
        inside += [element("p", scenario["lessons"][stage]),
                   [element("p", f"Not as expected: {line}", class_="worst")
                    for line in played["unexpected"]],
                   element("figure", timeline(played["picture"], f"{name}-{stage}-picture",
                                              f"{scenario['question']} {title}")),
                   element("details", element("summary", f"What the server said ({count:,} lines)"),
                           element("pre", markup(*map(line_said, narration), between="\n"),
                                   tabindex=0), id=f"{name}-{stage}-said")]
    else:
        inside.append(element("p", played.get("not_played") or played["failed"]))
    return element("details", inside, id=f"{name}-{stage}")


def line_said(entry: Any) -> Markup:
    if isinstance(entry, int):
        return element("i", f"     ... {entry:,} lines more")
    _, line, matters, who = entry
    return markup(element("mark", line) if matters else line,
                  element("i", f"  {who}") if who else "")


def figures(record: Record, scenario: Record) -> Markup:
    """All counters for one message, in full."""
    rows = [[name_of(record, stage["id"]), f"{int(count):,}",
             *(element("td", f"{cost[key]:,.1f}", class_="most" if cost[key] >= 100 else "")
               for key in FIGURES)]
            for stage in record["stages"]
            for count, cost in scenario["runs"][stage["id"]].get("observed", {}).items()]
    return element("details", element("summary", "All figures for one message"),
                   table(["Stage", "Silent clients", *FIGURES.values()], rows,
                         title="All figures for one message", kind="figures"),
                   id="silent_clients-figures")


def name_of(record: Record, stage: str) -> str:
    title = next(each["title"] for each in record["stages"] if each["id"] == stage)
    number = stage.partition("-")[0]
    return f"Stage {number}, {title}" if number.isdigit() else f"{stage}: {title}"
