"""What there is to play with: the eight servers, and how long to be patient with them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SANITIZED = os.environ.get("SAN") in ("1", "thread")
NOT_HERE = 77                              # a program's exit status: this system cannot run it
BUILD = ROOT / (os.environ.get("BUILD") or ("build/san" if SANITIZED else "build"))
PATIENCE = os.environ.get("PATIENCE")            # seconds: tests of a broken server need not wait
DEADLINE = float(PATIENCE or (60 if SANITIZED else 20))   # for whatever has to happen
SERVICES = ("echo", "greet", "chat")
LOOPBACK = "127.0.0.1"
FOLDERS = ("01_blocking", "02_nonblocking_busyloop", "03_select", "04_poll", "05_epoll",
           "06_selector_callbacks")
SELECTORS = ("select", "poll", "epoll")


class Late(AssertionError):
    """A deadline has passed."""


class Unavailable(Exception):
    """This machine cannot play that scenario; the text says what it lacks."""


@dataclass(frozen=True)
class Variant:
    name: str                              # 06_selector_callbacks-poll
    id: str                                # 6-poll
    stage: int
    program: Path                          # what to run
    arguments: tuple[str, ...] = ()        # before all others: -s poll
    foreign: bool = False                  # somebody's own server, not ours
    like: str = ""                         # of which of the eight all is expected, too: 6-epoll
    title: str = ""                        # a variant's
    otherwise: tuple[str, ...] = ()        # scenarios in which that is rightly not so

    @property
    def folder(self) -> Path:
        return ROOT / FOLDERS[self.stage - 1]

    def matches(self, which: str) -> bool:
        """True for "3", "6" (all of stage 6), "6-poll", "2-5" and lists: "1 3 6-epoll"."""
        for word in which.replace(",", " ").split():
            reach = re.fullmatch(r"(\d)-(\d)", word)
            if reach and int(reach[1]) <= self.stage <= int(reach[2]):
                return True
            if word in (str(self.stage), self.id, self.like):
                return True
        return False


def added(name: str) -> Variant:
    """One of tests/variants, built; ValueError if there is none, or if it cannot be built."""
    from tests.bugs import patches         # which does not need us

    try:
        bug = patches.read_bug(patches.path_of(name, "variants"))
        program = patches.built(bug, sanitizer=os.environ.get("SAN", ""))
    except patches.Wrong as wrong:
        raise ValueError(str(wrong)) from None
    return Variant(name, name, bug.stage, program, bug.arguments, title=bug.title.rstrip("."),
                   like=f"6-{SELECTORS[-1]}" * (bug.stage == 6), otherwise=tuple(bug.caught_by))


def variants(which: str = "", server: str = "", more: bool = False) -> list[Variant]:
    """All eight, or those that `which` names; `server` is a program to run in their stead. more:
    it may name some of tests/variants, too."""
    if server and not (os.path.isfile(server) and os.access(server, os.X_OK)):
        what = ("a folder" if os.path.isdir(server) else
                "not executable" if os.path.exists(server) else "no such file")
        raise ValueError(f"SERVER={server}: {what}; a program that can be run is wanted")
    found = []
    for stage, folder in enumerate(FOLDERS, 1):
        program = Path(server).resolve() if server else BUILD / folder
        for how in SELECTORS if stage == 6 else ("",):
            minus = f"-{how}" * bool(how)
            name = os.path.basename(server) if server else folder
            found.append(Variant(name + minus, f"{stage}{minus}", stage, program,
                                 ("-s", how) if how else (), bool(server)))
    if which:
        others = []
        for word in which.replace(",", " ").split():
            if any(variant.matches(word) for variant in found):
                continue
            if more and re.fullmatch(r"[a-z]\w+", word):
                others.append(added(word))
                continue
            stages = ", ".join(str(stage) for stage, _ in enumerate(FOLDERS, 1))
            raise ValueError(f"no stage {word!r}: there are {stages}, and of stage 6 "
                             + ", ".join(f"6-{how}" for how in SELECTORS))
        found = [variant for variant in found if variant.matches(which)] + others
    return found


def own_host() -> str:
    """An address on the loopback that nobody else uses: the ports there are all ours, though
    other tests, or somebody's own servers, run on this machine at the same time."""
    pid = os.getpid()
    return f"127.{100 + (pid >> 16 & 127)}.{pid >> 8 & 255}.{max(1, min(pid & 255, 254))}"


def default_address(stage: int, service: str, host: str = LOOPBACK) -> tuple[str, int]:
    """Where a stage listens when its command line names no port."""
    return host, 9001 + 100 * stage + SERVICES.index(service)
