"""build/bench.html from what bench measured: one file, no script, nothing to fetch.

Lines are told apart by colour and dash and marker, and each is labelled where it ends. A chart's
text alternative says its figures; the table that it is drawn from stands on the same page.
"""

from __future__ import annotations

from typing import Any, Optional, Sequence

from tests.output.figures import number
from tests.output.html import Line, Markup, chart, document, element, link, table

# What a line looks like: colour by mechanism, dashed for stage 6, a marker of its own.
LOOKS = {"1": ("blocking", "", "circle"), "2": ("busy", "", "cross"), "3": ("select", "", "square"),
         "4": ("poll", "", "diamond"), "5": ("epoll", "", "circle"),
         "6-select": ("select", "7 4", "square"), "6-poll": ("poll", "7 4", "diamond"),
         "6-epoll": ("epoll", "7 4", "circle"),
         # Variants: dotted.
         "threads": ("blocking", "2 4", "square"), "workers": ("epoll", "2 4", "square"),
         "one_shot": ("epoll", "2 4", "cross"), "coroutines": ("epoll", "2 4", "diamond"),
         "uring": ("busy", "2 4", "circle"), "edge_triggered": ("epoll", "2 4", "circle"),
         "read_until_empty": ("poll", "2 4", "circle"),
         "watch_then_write": ("select", "2 4", "circle")}

STYLE = """
body { max-width: 62rem; }
caption { font-weight: 600; }
th, td { padding: .28rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { color: var(--soft);
  font-weight: 600; vertical-align: bottom; } tbody tr:hover { background: var(--panel); }
.aims td, .aims th { text-align: left; white-space: normal; }
.met { color: var(--good); } .missed { color: var(--bad); font-weight: 700; }
code { background: var(--panel); padding: .1em .3em; }
"""

Figures = dict[str, Any]


# --- charts ---------------------------------------------------------------------------------

def microseconds(found: Optional[Figures]) -> Optional[float]:
    return found["median"] / 1000 if found and found["median"] else None


def section(ident: str, heading: str, lesson: str, to: str, what: tuple[str, str], across: str,
            points: dict[str, Sequence[tuple[int, Optional[Figures]]]], results: Figures,
            places: Sequence[float], floor: Optional[float] = None) -> Markup:
    """A chart of what something took, and when; nothing known: the place that links lead to.
    to: the table with the same figures."""
    lines = []
    for name, look in LOOKS.items():
        known = [(at, cost) for at, cpu in points.get(name, ())
                 for cost in (microseconds(cpu),) if cost]
        if known:
            lines.append(Line(results["labels"][name], *look, known))
    if not lines:
        return element("div", id=ident)
    cost = f"CPU time a {what[0]}"
    drawn = chart(ident, f"{cost} {what[1]}", across, f"{cost}, µs", lines, places, "{} µs at {}",
                  floor)
    return element(
        "section", element("h2", heading), element("p", lesson),
        element("figure", drawn, element(
            "figcaption", "Both axes are logarithmic. Dashed: stage 6; dotted: variants. The same "
            "in figures: ", link(to, "the table"), ".", class_="soft small")), id=ident)


def silent(results: Figures, floor: Optional[float]) -> Markup:
    grows = results["figures"]["silent"]
    told = []
    for what, name in (("select", "3"), ("poll", "4"), ("epoll", "5")):
        if name in grows and grows[name]["growth"]:
            times = grows[name]["growth"]["median"]
            told.append(f"{what} takes {f'{times:.2f}' if times < 2 else number(round(times))} "
                        f"times as much beside {number(grows[name]['points'][-1]['silent'])}")
    points = {name: [(point["silent"], point["cpu"]) for point in of["points"]]
              for name, of in grows.items()}
    most = {of[-1][0] for of in points.values() if of[-1][0] > 1000}
    return section(
        "silent", "One speaks, the others are silent",
        f"For one message, compared with beside ten silent connections: {'; '.join(told)}. "
        "select and poll are handed the whole list at every call, walk it in the kernel, and "
        "leave it to the program to walk it again; a busy loop asks everybody itself. epoll "
        "keeps the list, and returns who is ready: the others cost nothing.", "t2",
        ("message", "beside silent connections"),
        "silent connections beside the one that speaks", points, results,
        sorted({10, 100, 1000} | most), floor)


def busy(results: Figures, floor: Optional[float]) -> Markup:
    found = results["figures"]["busy"]
    return section(
        "busy", "Everybody speaks",
        "When all are ready, a wait finds many at once and its cost is shared: which of the waits "
        "it is hardly matters. A message then costs less than on one connection, where the server "
        "falls asleep after each. (The busy loop's share includes the time it spends asking in "
        "vain.)", "t1", ("message", "when all connections are busy"), "busy connections",
        {name: [(int(key), found[key].get(name, {}).get("cpu")) for key in ("1", "50", "500")
                if key in found] for name in LOOKS}, results, [1, 50, 500], floor)


def chat(results: Figures) -> Markup:
    found = {int(members): of for members, of in results["figures"]["chat"].items()}
    return section(
        "chat", "One speaks to many",
        "One line in, one line out to each member. The wait is paid once for all of them: what "
        "remains is one send() each, and that is the same in every stage.", "t5",
        ("delivered line", "of chat"), "members who listen",
        {name: [(members, of.get(name, {}).get("cpu")) for members, of in found.items()]
         for name in LOOKS if len(found) > 1}, results, list(found))


# --- the page -------------------------------------------------------------------------------

def tables(results: Figures) -> list[Markup]:
    """Each can be linked to by its number: t1, t2 ..."""
    parts: list[Markup] = []
    seen = set()
    for found in results["tables"]:
        if not found["rows"]:
            continue
        title = found["title"].strip()
        number = title.partition(".")[0]
        numbered = number.isdigit() and number not in seen
        seen.add(number)
        parts.append(element(
            "div", table(["", *found["columns"]], [[row["name"], *row["cells"]]
                                                   for row in found["rows"]],
                         title=title, caption=title),
            element("p", found["note"], class_="soft small"), class_="table",
            id=f"t{number}" if numbered else f"t{len(parts)}x"))
    return parts


def aims(results: Figures) -> Markup:
    words = {True: element("td", "met", class_="met"), None: element("td", "not measured",
                                                                     class_="soft"),
             False: element("td", "missed", class_="missed")}
    return table(["Result", "Aim", "Measured", "Wanted"],
                 [[words[aim["met"]], aim["aim"], aim["shown"], aim["wanted"]]
                  for aim in results["aims"]], title="Aims", kind="aims")


def header(results: Figures) -> Markup:
    machine = results["machine"]
    command = "make bench QUICK=1" if results["quick"] else "make bench"
    parts = [("silent", "Silent connections"), ("busy", "Busy connections"), ("chat", "Chat"),
             ("tables", "All figures"), ("aims", "Aims"), ("how", "How it was measured")]
    return element(
        "header", element("h1", "What it costs"), element("p", """
Six programs serve the same clients the same services. They differ in how they learn which
socket to touch next, and this is what that costs. Stage 6 appears three times, once for each of
its selectors. The floor is a program that does nothing but receive and send."""),
        element("p", f"{machine['cpu']}, {machine['cpus']} CPUs, {machine['system']}. "
                f"{machine['when']}, {results['seconds']:.0f} seconds. ",
                element("code", command), class_="soft small"),
        [element("p", note, class_="soft") for note in results["notes"]],
        element("nav", element("ul", [element("li", link(*part)) for part in parts]),
                aria_label="On this page"))


def page(results: Figures) -> str:
    alone = microseconds(results["figures"]["busy"].get("1", {}).get("floor", {}).get("cpu"))
    return document(
        "What it costs: six ways to wait", STYLE, header(results), element(
            "main", silent(results, alone), busy(results, alone), chat(results),
            element("section", element("h2", "All figures"), tables(results), id="tables"),
            element("section", element("h2", "What was aimed at"), aims(results), id="aims"),
            element("section", element("h2", "How it was measured"), element("p", """
CPU time a message: load and servers share one CPU and take turns in slices of 50 ms; the
server's own CPU time over a slice, divided by the messages that it answered. The median of the
slices, and half the distance between the quartiles in per cent. What changes the machine's speed
hits all alike, so that ratios repeat within a few per cent. Messages a second and latencies are
from load and servers running side by side; they do not repeat."""), element("p", """
Stage 2 never sleeps. It was measured alone, and what it used up while the messages were under
way is what they cost. Every byte that came back was checked."""),
                    element("p", "Built with: ", element("code", results["machine"]["built"]),
                            class_="soft small"), id="how")))
