"""The one-minute tour: one story, played live through all six stages, told in plain words.

It is the scenario second_client, the one that the tests play: A connects and says nothing, B
connects and asks, A leaves. What is told here is what the server narrates as it happens; how
long it slept and what CPU it used is asked of the system. --ask: before each stage you say what
will happen, and are told afterwards whether it did.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
from typing import Any, Optional

from tests import output
from tests.compare.lessons import SLEEPS_IN, TITLES, calls, keeps_list, lesson
from tests.harness import FOLDERS, Client, Late, Mark, Run, Variant, end_on_sigterm, variants
from tests.harness.narration import Event
from tests.output import Style
from tests.output.figures import milliseconds, number
from tests.scenarios import scenarios
from tests.tools.keyboard import ask
from tests.tools.predict import Guesses, Seen

STEP = 1.5             # seconds from one sentence to the next, on a terminal; shorter in a pipe

IDEAS = {
    1: "One thread, one client at a time. Every call sleeps until it has something to return.",
    2: "No call sleeps any more. The server tries every socket in turn, for ever.",
    3: "The kernel is asked once about all sockets, sleeps, and says which of them is ready.",
    4: "The same question, with a list that can be of any length in place of select's 1,024.",
    5: "The kernel keeps the list; the server only asks who has become ready.",
    6: "As stage 5, but each socket is registered with what to do when it is ready: a callback.",
}


class Teller:
    """Tells a run as it happens; called with all that becomes known of it."""

    def __init__(self, variant: Variant, step: float, style: Style) -> None:
        self.variant, self.step, self.style = variant, step, style
        self.run: Optional[Run] = None
        self.began = self.asked = 0.0
        self.names: dict[str, str] = {}            # by peer; and by descriptor, once accepted
        self.holders: dict[int, str] = {}
        self.held: list[Event] = []                # who reads is told after who asks
        self.stopping = False
        self.awake: list[bool] = []                # before B comes, whenever we look

    def line(self, who: str, text: str) -> None:
        if not self.stopping:
            when = f"{time.monotonic() - self.began:6.2f} s  " if self.began else " " * 10
            print(f"{when}{who:8}{text}", flush=True)

    def __call__(self, kind: str, what: Any) -> None:
        if kind == "say":
            self.say(what)
        elif kind == "client":
            self.client(*what)
        else:
            self.event(what)

    def say(self, text: str) -> None:
        """A new sentence of the story: but first, the one before is given its time."""
        if self.began:
            self.meanwhile()
        self.began = self.began or time.monotonic()
        self.line("", self.style.strong(text))

    def meanwhile(self) -> None:
        """Lets some time pass, and tells what the server does with it."""
        assert self.run
        server = self.run.server
        began, used = time.monotonic(), server.cpu()
        while time.monotonic() < began + self.step:
            time.sleep(0.02)
            server.read()                          # what it narrates is told at once
            if not self.asked:
                self.awake.append(server.state() != "S")
        share = (server.cpu() - used) / (time.monotonic() - began)
        if server.state() == "S":
            text = f"asleep in {self.call()}(); CPU {share * 100:.0f} %"
        else:
            text = self.style.worst(
                f"awake, asks every socket for nothing; CPU {share * 100:.0f} %")
        self.line("server", text)

    def call(self) -> str:
        """The call that it sleeps in: the wait; in stage 1 whatever it has to do next."""
        return SLEEPS_IN.get(self.variant.id) or ("recv" if self.holders else "accept")

    def client(self, client: Client, mark: Mark) -> None:
        if mark.what == "connect":
            self.names[client.peername] = client.name
        elif mark.what == "send":
            self.asked = mark.at
            self.line(client.name, f"asks: {mark.text.strip()}")
            held, self.held = self.held, []
            for event in held:
                self.event(event)
        elif mark.what == "wait":
            self.line(client.name, self.style.worst("no answer yet"))
        elif mark.what == "recv":
            if self.run:                           # who answers is told before who hears it
                self.run.server.wait_for("send")
            waited = mark.at - self.asked
            text = f"has its answer, after {milliseconds(waited * 1000)}"
            self.line(client.name, self.style.worst(text) if waited > self.step / 2 else text)

    def event(self, event: Event) -> None:
        if self.held or event.verb == "recv" and event.get("bytes") and not self.asked:
            self.held.append(event)
            return
        if event.verb == "stop":
            self.stopping = True
        if event.verb == "accept" and "peer" in event.fields:
            # The server may be faster to tell than the client.
            name = self.names.get(event["peer"]) or "AB"[len(self.holders) % 2]
            self.holders[event["fd"]] = name
            self.line("server", f"accepts {name}")
            return
        who = self.holders.get(event.get("fd", -1), "")
        if event.get("slept", 0) > self.step / 2:
            self.line("server", f"wakes: it has slept {event['slept']:.2f} s in "
                                f"{event.get('call', event.verb)}()")
        if event.verb == "recv" and event.get("bytes"):
            self.line("server", f"reads what {who} asks")
        elif event.verb == "recv" and event.get("bytes") == 0:
            self.line("server", f"learns that {who} has left")
        elif event.verb == "send":
            self.line("server", f"answers {who}")
        elif event.verb == "close":
            self.holders.pop(event["fd"], None)


def play_live(variant: Variant, step: float, style: Style, guesses: Optional[Guesses]) -> None:
    scenario = scenarios()["second_client"]
    teller = Teller(variant, step, style)
    run = teller.run = Run(variant, scenario.services, watch=teller)
    try:
        observed = scenario.function(run)
        run.server.read()
        teller.stopping = True                     # what follows is the end of the play
        used, seconds = run.server.cpu(), time.monotonic() - teller.began
        wrong = run.finish()
    finally:
        run.close()
    stats = run.server.events[-1]
    kinds = [*filter(None, [SLEEPS_IN.get(variant.id)]), *["epoll_ctl"] * keeps_list(variant.id),
             "accept", "recv"]
    vain = f", {number(stats['would_block'])} of them for nothing" * bool(stats["would_block"])
    print(f"\n  In all: {number(calls(stats.fields, variant.id))} calls of {', '.join(kinds)} and "
          f"send{vain}; {used:.2f} s of CPU in {seconds:.1f} s.")
    if guesses:
        waits = [event for event in run.server.events if event.verb == "wait"]
        guesses.judge(variant, Seen(
            observed["answered_while_first_is_silent"], observed["answer_in_the_end"],
            observed["milliseconds"], tuple(teller.awake), calls(stats.fields, variant.id),
            tuple(event.get("watching", 0) for event in waits),
            tuple(event.get("ready", 0) for event in waits), stats["scanned"]))
    print(textwrap.fill(lesson("second_client", variant), 86, initial_indent="  ",
                        subsequent_indent="  "))
    for line in wrong:
        print(style.worst(f"  not as expected: {line}"))


def main() -> int:
    end_on_sigterm()
    words = argparse.ArgumentParser(prog="make demo", description=__doc__,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--stages", default="1-5 6-epoll")
    words.add_argument("--step", type=float, help="seconds between two sentences")
    words.add_argument("--ask", action="store_true", help="predict, then see")
    asked = words.parse_args()
    live = sys.stdin.isatty() and sys.stdout.isatty()
    step = asked.step if asked.step is not None else STEP if live else STEP / 4
    style = Style(sys.stdout)
    sys.stdin.reconfigure(errors="replace")        # whatever is typed is no fault
    guesses = Guesses(style) if asked.ask else None
    try:
        stages = variants(asked.stages)
    except ValueError as wrong:
        print(f"demo: {wrong}", file=sys.stderr)
        return 2
    try:
        print("Six servers, one story. Client A connects and says nothing; client B connects and\n"
              "asks something; A leaves. What does B's answer wait for, and what does the server\n"
              "do meanwhile?")
        if guesses:
            print("Before each stage: what will happen? (Ctrl-D: no more questions.)")
        for i, variant in enumerate(stages):
            print("\n" + style.strong(f"Stage {variant.stage}: {TITLES[variant.id]}")
                  + style.soft(f"   {FOLDERS[variant.stage - 1]}/server.cpp"))
            print("  " + IDEAS[variant.stage] + "\n")
            if guesses:
                guesses.ask(variant)
            play_live(variant, step, style, guesses)
            if live and not guesses and i + 1 < len(stages):
                ask(style.soft("\n  Enter: the next stage, Ctrl-C: enough "))
        if guesses:
            guesses.sum()
        print("\nAnd now:\n"
              "  make compare     the whole matrix, and a page with the pictures\n"
              "  make run-1       one server, narrating; make client-1 in another terminal\n"
              "                   (run-N and client-N: 1 to 6)\n"
              "  NOTES.md         what there is to see, and to try")
    except (KeyboardInterrupt, EOFError):
        print("\nthe tour ends here; no server is left behind")
        return 130
    except (Late, OSError) as wrong:
        print(f"demo: {wrong}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    output.run(main, "demo")
