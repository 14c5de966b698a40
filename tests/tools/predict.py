"""The questions of `make demo ARGS=--ask`: what will happen in the next stage?

What is right is not written down here. Each question looks at what was seen of that run (Seen), and
says which of its choices that was.
"""

from __future__ import annotations

import sys
import textwrap
from dataclasses import dataclass
from typing import Callable, Optional

from tests.compare.lessons import SLEEPS_IN
from tests.harness import Variant
from tests.output import Style
from tests.output.figures import milliseconds, number
from tests.tools.keyboard import ask


@dataclass(frozen=True)
class Seen:
    """What is known of a run of the story, once it is over."""
    answered_at_once: bool                         # B, while A was silent
    answer: str                                    # what B got in the end
    milliseconds: float                            # from B's question to its answer
    awake: tuple[bool, ...]                        # before B came, whenever we looked
    calls: float                                   # system calls, in all
    watching: tuple[int, ...]                      # by wait: how many were watched,
    ready: tuple[int, ...]                         # and how many were ready
    scanned: float                                 # entries looked at, by kernel and program

    def sleeps(self) -> bool:
        return sum(self.awake) < len(self.awake) / 2


@dataclass(frozen=True)
class Question:
    text: str
    choices: tuple[str, ...]
    happened: Callable[[Seen], int]                # the choice, from 1 on; 0: none of them
    observed: Callable[[Seen], str]                # the same in figures


def _waited(seen: Seen) -> str:
    return f"B waited {milliseconds(seen.milliseconds)}"


def _rest(seen: Seen) -> str:
    return f"before B came, it was awake at {sum(seen.awake)} of {len(seen.awake)} looks"


def _when(seen: Seen) -> int:
    return 1 if seen.answered_at_once else 2 if seen.answer else 3


def _restless(seen: Seen) -> int:
    share = sum(seen.awake) / len(seen.awake)
    return 1 if share < 0.25 else 2 if share < 0.75 else 3


def _both(seen: Seen) -> int:
    if seen.answered_at_once:
        return 3 if seen.sleeps() else 2
    return 1 if seen.sleeps() else 0


def _watched(seen: Seen) -> int:
    most = max(seen.watching, default=0)
    return most - 1 if 2 <= most <= 4 else 4 if most == 1024 else 0


def _walked(seen: Seen) -> int:
    """Whichever is nearest: the signal that ends the run may end a wait, which walks nothing."""
    walks = (sum(seen.ready) * 2, sum(seen.watching), sum(seen.watching) * 2)
    return 1 + min(range(3), key=lambda i: abs(walks[i] - seen.scanned))


def _beside(other: Seen) -> Callable[[Seen], int]:
    """One call more or less is chance: the last wait, which the signal ends."""
    def happened(seen: Seen) -> int:
        more = seen.calls - other.calls
        return 2 if abs(more) <= 1 else 3 if more > 0 else 1
    return happened


SECOND = Question(
    "A is silent, and B asks. When is B answered?",
    ("at once", "when A has left", "never"), _when, _waited)
REST = Question(
    "Before B comes, nobody speaks. What does the server do meanwhile?",
    ("it sleeps", "it works now and then", "it works all the time"), _restless, _rest)
BOTH = Question(
    "A is silent, and B asks. What happens?",
    ("B waits until A leaves; the server sleeps", "B is answered at once; the server never sleeps",
     "B is answered at once; the server sleeps while nobody speaks"), _both,
    lambda seen: f"{_waited(seen)}; {_rest(seen)}")
LIST = Question(
    "A and B are connected. How many descriptors does poll() get to watch?",
    ("two: A and B", "three: A, B and the listener",
     "four: A, B, the listener, and a pipe that tells of Ctrl-C", "1,024, as select"), _watched,
    lambda seen: f"watching={max(seen.watching, default=0)}")
WALK = Question(
    "Of all that are watched, one is ready. How many entries are looked at to find it?",
    ("the one that is ready, by the kernel and by the program",
     "all, once: by the kernel or by the program", "all, twice: by the kernel and by the program"),
    _walked, lambda seen: f"{number(seen.scanned)} entries in {len(seen.watching)} waits, which "
                          f"watched {min(seen.watching, default=0)} to "
                          f"{max(seen.watching, default=0)}")
BY_STAGE = {1: SECOND, 2: REST, 3: BOTH, 4: LIST, 5: WALK}


def question(variant: Variant, played: dict[str, Seen]) -> Question:
    """The one for that stage. played: what was seen of the stages before, by their wait."""
    other = played.get(SLEEPS_IN.get(variant.id, ""))
    if variant.stage == 6 and other:
        return Question(
            f"Without callbacks the story took {number(other.calls)} system calls. And with them?",
            ("fewer", "as many", "more: one for each callback"),
            _beside(other), lambda seen: f"{number(seen.calls)} system calls")
    return BY_STAGE.get(variant.stage, BOTH)


class Guesses:
    """Asks at the keyboard, or in a pipe one line after the other; and keeps the score."""

    def __init__(self, style: Style) -> None:
        self.style = style
        self.open = True                           # there is somebody to ask
        self.played: dict[str, Seen] = {}
        self.right = self.made = self.passed = 0
        self.question: Optional[Question] = None
        self.guess = 0

    def ask(self, variant: Variant) -> None:
        self.question, self.guess = None, 0
        if not self.open:
            return
        self.question = question(variant, self.played)
        print("  " + self.style.strong(self.question.text))
        for i, choice in enumerate(self.question.choices, 1):
            print(f"    {i}  {choice}")
        self.guess = self._read(len(self.question.choices))
        print()

    def _read(self, most: int) -> int:
        wanted = f"1 to {most}, or Enter for no guess"
        while True:
            try:
                word = ask(f"  {wanted}: ").strip()
            except EOFError:
                print("no more guesses: the tour goes on without")
                self.open = False
                return 0
            if not sys.stdin.isatty():             # a terminal has shown what was typed
                print(word)
            if not word:
                return 0
            if word in map(str, range(1, most + 1)):
                return int(word)

    def judge(self, variant: Variant, seen: Seen) -> None:
        """Says whether that was what had been predicted."""
        mechanism = SLEEPS_IN.get(variant.id)
        if mechanism and variant.stage != 6:
            self.played[mechanism] = seen
        if not self.question or not self.open:
            return
        was = self.question.happened(seen)
        what = f"{was}, {self.question.choices[was - 1]}" if was else "none of these"
        what += f". Seen: {self.question.observed(seen)}."
        if not self.guess:
            self.passed += 1
            text = f"No guess. It was {what}"
        elif self.guess == was:
            self.made, self.right = self.made + 1, self.right + 1
            text = f"As you predicted: {what}"
        else:
            self.made += 1
            text = f"Not as you predicted: you said {self.guess}, and it was {what}"
        for line in textwrap.wrap(text, 84):
            print(f"  {self.style.strong(line)}")

    def sum(self) -> None:
        if self.made or self.passed:
            without = f", {self.passed} without a guess" * bool(self.passed)
            print(f"\n{self.right} of {self.made + self.passed} predicted{without}.")
