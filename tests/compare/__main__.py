"""The stages side by side: plays the scenarios that the tests play, and shows what came of them.

    make compare                                       the matrix, and a page behind it
    make compare STAGES="1 3" SCENARIO=second_client   one scenario, on one time axis

Everything shown comes from one record: build/compare.json is that record, build/compare.html
and what the terminal shows are two ways to read it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from tests import output
from tests.compare.lessons import ROWS
from tests.compare.page import page
from tests.compare.record import STEP, Record, compare
from tests.compare.terminal import columns, matrix, unexpected
from tests.harness import BUILD, SELECTORS, end_on_sigterm, variants
from tests.scenarios import scenarios

FORMATS = ("text", "json", "html")


def main() -> int:
    end_on_sigterm()
    words = argparse.ArgumentParser(prog="make compare", description=__doc__,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--stages", default="", help="1 3, 2-5, 6-poll, and names of variants, such "
                       "as threads; all stages if none is named")
    words.add_argument("--scenario", default="", help="one, or several; the matrix's if none is")
    words.add_argument("--format", default="text", help=", ".join(FORMATS))
    words.add_argument("--out", default=str(BUILD), help="where compare.json and .html go")
    words.add_argument("--step", type=float, default=STEP, help=argparse.SUPPRESS)
    asked = words.parse_args()
    every = scenarios()
    names = asked.scenario.replace(",", " ").split()
    # One scenario side by side: stage 6 once, as it comes up unless told otherwise.
    columnar = len(names) == 1 and asked.format == "text"
    try:
        if asked.format not in FORMATS:
            raise ValueError(f"no format {asked.format!r}: there are {', '.join(FORMATS)}")
        for name in names:
            if name not in every:
                raise ValueError(f"no scenario {name!r}: there are {', '.join(every)}")
        stages = variants(asked.stages or (f"1-5 6-{SELECTORS[-1]}" if columnar else ""), more=True)
    except ValueError as wrong:
        print(f"compare: {wrong}", file=sys.stderr)
        return 2
    chosen = [every[name] for name in names or dict.fromkeys(row.scenario for row in ROWS)]
    try:
        record = compare(chosen, stages, tell, asked.step)
        if asked.format == "json":
            json.dump(record, sys.stdout, indent=1)
            print()
        elif asked.format == "html":
            sys.stdout.write(page(record))
        elif columnar:
            show_columns(record, names[0])
        else:
            show_matrix(record, Path(asked.out))
    except KeyboardInterrupt:
        print("\ncompare: interrupted; no server is left behind", file=sys.stderr)
        return 130
    return 0


def tell(text: str) -> None:
    """On a terminal one line that changes; in a pipe one line a scenario."""
    if output.styled(sys.stderr):
        sys.stderr.write("\r\033[K" + text)
    elif text.endswith("\n"):
        sys.stderr.write(text)
    sys.stderr.flush()


def terminal_width() -> int:
    return shutil.get_terminal_size((200, 50)).columns or 200


def show_columns(record: Record, name: str) -> None:
    shown, played = record["scenarios"][name], []
    for stage in record["stages"]:
        run = shown["runs"][stage["id"]]
        if "picture" in run:
            played.append(stage)
        else:
            print(f"stage {stage['id']}: {run.get('not_played') or run.get('failed')}")
    if played:
        print(*columns(name, shown, played, terminal_width(), output.Style(sys.stdout)), sep="\n")


def show_matrix(record: Record, out: Path) -> None:
    style = output.Style(sys.stdout)
    print(*matrix(record, terminal_width(), style), sep="\n")
    for line in unexpected(record):
        print(style.worst("not as expected: ") + line)
    print("! marks the worst cells. " * bool(record["rows"])
          + f"{len(record['scenarios'])} scenarios, {len(record['stages'])} servers, "
            f"{record['seconds']:.0f} s")
    out.mkdir(parents=True, exist_ok=True)
    (out / "compare.json").write_text(json.dumps(record, indent=1) + "\n")
    (out / "compare.html").write_text(page(record), encoding="utf-8")
    print("One scenario side by side: make compare STAGES=\"1 3\" SCENARIO=second_client")
    print(f"The page behind each cell: {out / 'compare.html'}")


if __name__ == "__main__":
    output.run(main, "compare")
