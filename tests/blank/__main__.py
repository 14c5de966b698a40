"""Writes a stage with holes: make blank-4, which is

    python3 -m tests.blank 4 [--level 1|2|3] [--again] [--into my]
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from tests import output
from tests.blank.cut import LEVELS, blank
from tests.harness import FOLDERS, ROOT


def write(stage: int, level: int, mine: Path) -> None:
    """All of it or nothing: under another name first."""
    unfinished = mine.with_name(f".{mine.name}.{os.getpid()}")
    unfinished.mkdir(parents=True)
    try:
        for file in (ROOT / FOLDERS[stage - 1]).iterdir():     # not its mode: it may be read-only
            shutil.copyfile(file, unfinished / file.name)
        (unfinished / "server.cpp").write_text(blank(stage, level), encoding="utf-8")
        unfinished.rename(mine)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def put_aside(mine: Path) -> Path:
    number = 1
    while (aside := mine.with_name(f"{mine.name}.{number}")).exists():
        number += 1
    mine.rename(aside)
    return aside


def main() -> int:
    parser = argparse.ArgumentParser(prog="make blank", description=__doc__.partition("\n")[0])
    parser.add_argument("stage", type=int, choices=range(1, 7))
    parser.add_argument("--level", type=int, choices=LEVELS, default=2)
    parser.add_argument("--again", action="store_true", help="puts what is there aside")
    parser.add_argument("--into", type=Path, default=Path("my"))
    words = parser.parse_args()
    mine = words.into / FOLDERS[words.stage - 1]
    try:
        if mine.exists() and not words.again:
            print(f"blank: {mine} is there, and yours: it stays. To start over: make "
                  f"blank-{words.stage} AGAIN=1 (puts it aside), or rm -r {mine}", file=sys.stderr)
            return 1
        if mine.exists():
            print(f"The old one is {put_aside(mine)} now.")
        write(words.stage, words.level, mine)
    except OSError as error:
        print(f"blank: {mine} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    count = (mine / "server.cpp").read_text(encoding="utf-8").count("// YOURS. ")
    print(f"{mine}/server.cpp has {count} hole{'s' * (count != 1)} for you to fill: "
          f"{LEVELS[words.level]}.\n"
          f"    grep -n YOURS {mine}/server.cpp\n"
          f"    make try BLANK={words.stage}      builds it, and says how far it comes")
    return 0


if __name__ == "__main__":
    output.run(main, "blank")
