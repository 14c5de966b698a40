"""One story, the servers in lock step, and the kernel's side of every socket: build/replay.html.

    make replay                                          all stories, all stages
    make replay STORY=second_client STAGES="1 3 5"
    make replay STORY=half_close BUG=half_close          a bug beside the right server
    make replay STORY=second_client STAGES="1 3" FORMAT=text

build/replay.json is the recording; ARGS="--from build/replay.json" makes the page of it again. A
recording in which something does not hold (tests/replay/check.py) is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests import output
from tests.bugs.patches import Wrong, path_of, read_bug
from tests.harness import BUILD, Late, Unavailable, end_on_sigterm
from tests.replay.check import complaints
from tests.replay.model import model
from tests.replay.page import page
from tests.replay.programs import Program, programs
from tests.replay.record import Raw, record
from tests.replay.stories import ALL, STORIES
from tests.replay.terminal import lines

FORMATS = ("html", "text", "json")
AT_ONCE = 2                                # more would wait for each other


class Untrue(Exception):
    """A recording in which something does not hold."""


def main() -> int:
    end_on_sigterm()
    options = argparse.ArgumentParser(prog="make replay", description=__doc__,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--story", default="", help="one, or several; all if none is named")
    options.add_argument("--stages", default="", help="1 3, 6-poll; those of the story")
    options.add_argument("--bug", default="", help="a bug or a variant, beside the right server")
    options.add_argument("--format", default="html", help=", ".join(FORMATS))
    options.add_argument("--from", dest="recorded", default="", help="a recording: replay.json")
    options.add_argument("--build", action="store_true", help="only build the servers")
    options.add_argument("--out", default=str(BUILD), help="where replay.json and .html go")
    asked = options.parse_args()
    try:
        if asked.format not in FORMATS:
            raise ValueError(f"no format {asked.format!r}: there are {', '.join(FORMATS)}")
        if asked.build:
            programs(ALL)
            return 0
        recordings = load(Path(asked.recorded)) if asked.recorded else record_all(
            chosen(asked.story, asked.stages, asked.bug))
        known = {each.id: each for each in programs(" ".join(
            dict.fromkeys(raw["column"] for raw in recordings)))}
        show(recordings, known, asked.format, Path(asked.out))
    except (Wrong, ValueError) as wrong:
        print(f"replay: {wrong}", file=sys.stderr)
        return 2
    except (Unavailable, Untrue, Late, RuntimeError, OSError) as wrong:
        # Late: no start. RuntimeError: nothing compiled, or preloaded; a worker died.
        print(f"replay: {str(wrong).splitlines()[0]}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nreplay: interrupted; no server is left behind", file=sys.stderr)
        return 130
    return 0


def chosen(names: str, stages: str, bug: str) -> list[tuple[str, str]]:
    """The stories, and whom each is played with."""
    wanted = names.replace(",", " ").split() or list(STORIES)
    for name in wanted:
        if name not in STORIES:
            raise ValueError(f"no story {name!r}: there are {', '.join(STORIES)}")
    found = []
    for name in wanted:
        columns = stages or STORIES[name].stages
        if bug:
            stage = read_bug(path_of(bug)).stage
            columns = f"{stages or stage} {bug}"
        found.append((name, columns))
    return found


def record_all(wanted: list[tuple[str, str]]) -> list[Raw]:
    if not sys.platform.startswith("linux"):
        raise Unavailable("recording needs Linux: LD_PRELOAD and /proc")
    built = {program.id: program for program in programs(" ".join(
        dict.fromkeys(word for _, columns in wanted for word in columns.split())))}
    jobs = [(name, built[word]) for name, columns in wanted for word in columns.split()]
    began = time.monotonic()
    with ProcessPoolExecutor(AT_ONCE) as pool:
        recordings = list(pool.map(record_one, jobs))
    print(f"recorded: {len(wanted)} stories, {len(jobs)} servers, "
          f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    return recordings


def record_one(job: tuple[str, Program]) -> Raw:
    name, program = job
    return record(STORIES[name], program)


def refuse_untrue(recordings: list[Raw], known: dict[str, Program]) -> None:
    said = [text for raw in recordings
            for text in complaints(STORIES[raw["story"]], raw, known[raw["column"]])]
    if said:
        raise Untrue("what was recorded cannot be: " + said[0] + (
            f" (and {len(said) - 1} more)" if said[1:] else ""))


def show(recordings: list[Raw], known: dict[str, Program], form: str, out: Path) -> None:
    refuse_untrue(recordings, known)
    stories = []
    for name in dict.fromkeys(raw["story"] for raw in recordings):
        played = [raw for raw in recordings if raw["story"] == name]
        stories.append(model(STORIES[name], played, [known[raw["column"]] for raw in played]))
    if form == "text":
        width = min(100, shutil.get_terminal_size((100, 50)).columns or 100)
        for story in stories:
            print(*lines(story, width), sep="\n")
        return
    if form == "json":
        print(sealed(recordings))
        return
    out.mkdir(parents=True, exist_ok=True)
    made = page(stories, known, time.strftime("%Y-%m-%d"))
    (out / "replay.json").write_text(sealed(recordings), encoding="utf-8")
    (out / "replay.html").write_text(made, encoding="utf-8")
    print(f"{len(stories)} stories, {len(made) >> 10:,} KiB: {out / 'replay.html'}")


def sealed(recordings: list[Raw]) -> str:
    text = json.dumps(recordings, sort_keys=True)
    return json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(),
                       "recordings": json.loads(text)}, sort_keys=True)


def load(path: Path) -> list[Raw]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        recordings, digest = read["recordings"], read["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no recording: {error}") from None
    text = json.dumps(recordings, sort_keys=True)
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        raise Untrue(f"{path} is not as it was recorded")
    return recordings


if __name__ == "__main__":
    output.run(main, "replay")
