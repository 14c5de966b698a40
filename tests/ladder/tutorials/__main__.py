"""Plays every rung of the ladder against each program of the tutorials, and prints which fail."""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor

from tests import output
from tests.ladder.tutorials import AT_ONCE, PROGRAMS, play, row


def main() -> int:
    parser = argparse.ArgumentParser(prog="tutorials", description=__doc__)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=", ".join(PROGRAMS))
    names = parser.parse_args().programs or list(PROGRAMS)
    if unknown := [name for name in names if name not in PROGRAMS]:
        parser.error(f"there is no {unknown[0]}: there are {', '.join(PROGRAMS)}")
    wrong = []
    print("| program | service | rungs that fail, and why |\n|---|---|---|")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for played in pool.map(play, names):
            print(row(played.program, played.failed), flush=True)
            wrong += [f"{played.program.name}: {each}" for each in played.wrong()]
    for each in wrong:
        print(f"\n{each}")
    return 1 if wrong else 0


if __name__ == "__main__":
    output.run(main, "tutorials")
