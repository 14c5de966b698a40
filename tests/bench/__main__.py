"""What each mechanism costs: `make bench`, `make bench QUICK=1`.

Eight servers (stage 6 with each of its selectors) under the same load, and beside them the floor:
a program that does nothing but receive and send (floor.cpp). load.cpp is what loads them.

    settings.py   what is compared, under which loads
    programs.py   starts it, and loads it
    measure.py    what is measured, step by step; samples.py: medians, quartiles and ratios
    results.py    what came of it: tables.py, aims.py; machine.py: on what it was measured
    show.py       in the terminal, and as Markdown; page.py: as a page

All that was measured goes to build/bench.json; the terminal and build/bench.html show nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import time
from pathlib import Path

from tests import harness, output
from tests.bench import page
from tests.bench.measure import Bench
from tests.bench.programs import Unusable
from tests.bench.results import results
from tests.bench.show import markdown, show
from tests.bugs import patches
from tests.harness import BUILD
from tests.harness.variants import added

RIVALS = """\
Rivals: RIVALS in the environment, or --rivals, names other echo servers, which are measured
beside the eight with busy connections:

    make bench RIVALS="libuv=/tmp/uv-echo mine=./mine"

Each is started with a port as its last word, and is to echo what comes to 127.0.0.1 on that
port until it is killed. For the names libuv, libevent and asio there are aims, too."""


def rivals_of(text: str) -> dict[str, str]:
    """'libuv=/tmp/uv-echo asio="/tmp/asio -x"' -> what to start by what name."""
    rivals = {}
    for word in shlex.split(text):
        name, equals, command = word.partition("=")
        program = shlex.split(command)[:1]
        if not equals or not re.fullmatch(r"[A-Za-z][\w.-]*", name) or not program:
            raise Unusable(f"RIVALS: {word!r}: name=program is wanted")
        if not os.access(program[0], os.X_OK):
            raise Unusable(f"RIVALS: {program[0]} is no program")
        rivals[name] = command
    return rivals


def variants_of(text: str) -> list[str]:
    """Their names; each has been built then."""
    names = [path.stem for path in patches.paths("variants")] if text == "all" else text.split()
    try:
        return [added(name).id for name in names]
    except ValueError as wrong:
        raise Unusable(f"VARIANTS: {wrong}") from None


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench", formatter_class=argparse.RawDescriptionHelpFormatter, epilog=RIVALS,
        description="Measures what each stage costs. Started by `make bench`.")
    parser.add_argument("--quick", action="store_true", help="in less than a minute (QUICK=1)")
    parser.add_argument("--rivals", default=os.environ.get("RIVALS", ""), metavar="NAME=PROGRAM...",
                        help="other echo servers to measure beside ours; see below")
    parser.add_argument("--variants", default="", metavar="NAME...", help="these of tests/variants "
                        "beside the eight, too, or all (VARIANTS=all)")
    parser.add_argument("--only", default="", metavar="REGEX",
                        help="only the steps whose title this matches: busy, silent, chat ...")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X",
                        help="measure X times as long")
    parser.add_argument("--again", action="store_true",
                        help="measure nothing: show build/bench.json once more, write the page")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--out", type=Path, default=BUILD, metavar="DIR",
                        help="where bench.json and bench.html go (build)")
    options = parser.parse_args()
    try:
        re.compile(options.only)
        options.rivals = rivals_of(options.rivals)
        options.variants = variants_of(options.variants)
    except re.error as wrong:
        parser.error(f"--only: {wrong}")
    except Unusable as wrong:
        parser.error(str(wrong))
    if not 0 < options.scale <= 100:
        parser.error("--scale: a number above 0, up to 100, is wanted")
    if harness.SANITIZED:
        parser.error("SAN=1: what is sanitized is many times slower; there is nothing to learn")
    return options


def measure(options: argparse.Namespace, json_file: Path) -> None:
    for program in [BUILD / "load", BUILD / "floor"]:
        if not program.exists():
            raise Unusable(f"{program} is not there: run make bench")
    began = time.monotonic()
    bench = Bench(options.quick, options.scale, options.rivals, options.variants)
    bench.run(options.only)
    found = results(bench, time.monotonic() - began)
    options.out.mkdir(parents=True, exist_ok=True)
    json_file.write_text(json.dumps(found, indent=1) + "\n")


def main() -> int:
    options = parse()
    harness.end_on_sigterm()
    json_file, page_file = options.out / "bench.json", options.out / "bench.html"
    try:
        if not options.again:
            measure(options, json_file)
        found = json.loads(json_file.read_text())
        page_file.write_text(page.page(found), encoding="utf-8")
    except FileNotFoundError as wrong:
        print(f"bench: {wrong.filename} is not there", file=sys.stderr)
        return 1
    except (Unusable, harness.Late) as wrong:
        print(f"\nbench: {wrong}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbench: interrupted", file=sys.stderr)
        return 130
    if options.markdown:
        print(markdown(found))
    else:
        show(found)
        print(f"\nall of it: {os.path.relpath(json_file)}\n"
              f"the page:  {os.path.relpath(page_file)}")
    return 0


if __name__ == "__main__":
    output.run(main, "bench")
