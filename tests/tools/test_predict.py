"""`make demo ARGS=--ask`: what happened is what was seen of the run, and nothing else."""

from __future__ import annotations

import re
import select
import sys
from contextlib import ExitStack
from dataclasses import replace

import pytest

from tests.harness import BUILD, DEADLINE, FOLDERS, variants
from tests.output import Style
from tests.output.terminal import Screen
from tests.tools import demo, predict
from tests.tools.running import from_a_shell, run

pytestmark = pytest.mark.sources

DEMO = [sys.executable, "-m", "tests.tools.demo", "--step", "0.1"]
RIGHT = ["2", "3", "3", "3", "1", "2"]             # by stage
VERDICTS = re.compile(r"^  (As you|Not as you|No guess)", re.M)


def play(answers, *words):
    done = run(from_a_shell(*DEMO, "--ask", *words), "".join(f"{a}\n" for a in answers).encode())
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


def test_six_right_answers():
    told = play(RIGHT)
    assert VERDICTS.findall(told) == ["As you"] * 6
    assert "\n6 of 6 predicted.\n" in told and told.index("of 6") < told.index("And now")
    for stage, text in enumerate(told.split("\nStage ")[1:]):
        assert text.index(f"guess: {RIGHT[stage]}\n") < text.index("A connects") \
            < text.index("In all:") < text.index(f"As you predicted: {RIGHT[stage]}, ")


def test_wrong_ones_none_and_words_that_are_no_choice():
    """What is no choice is asked again."""
    told = play(["1", "", "nine", "0", "4", " 3 ", "²", "4"], "--stages", "1-4")
    assert VERDICTS.findall(told) == ["Not as you", "No guess", "As you", "Not as you"]
    assert "you said 1, and it was 2, when A has left. Seen: B waited " in told
    assert "No guess. It was 3, it works all the time." in " ".join(told.split())
    assert "\n1 of 4 predicted, 1 without a guess.\n" in told


@pytest.mark.parametrize("answers, verdicts", [([], 0), (["2"], 1)])
def test_the_end_of_input_ends_the_questions_and_the_tour_goes_on(answers, verdicts):
    told = play(answers, "--stages", "1 3 4")
    assert len(VERDICTS.findall(told)) == verdicts
    assert told.count("no more guesses") == 1 and told.count("or Enter for no guess") == \
        verdicts + 1
    assert told.count("has its answer") == 3 and "And now:" in told
    assert ("of 1 predicted" in told) == bool(verdicts) == (" predicted" in told)


def test_a_stdin_that_is_no_text():
    done = run(from_a_shell(*DEMO, "--ask", "--stages", "3"), b"\xff\xfe\n3\n",
               PYTHONIOENCODING="utf-8")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"1 of 1 predicted" in done.stdout


def test_nothing_is_asked_unasked():
    done = run(from_a_shell(*DEMO, "--stages", "3"), b"3\n")
    told = done.stdout.decode()
    assert done.returncode == 0 and "has its answer" in told
    for word in "guess", "predict", "Before each stage":
        assert word not in told


def test_at_the_keyboard_the_question_is_what_pauses():
    words = from_a_shell(*DEMO, "--ask", "--stages", "3 4 5", without=["SAN"], TERM="dumb")
    with Screen(words) as screen:
        screen.wait_for("no guess: ")
        screen.type("3\n")
        screen.wait_for("As you predicted: 3")
        screen.wait_for("no guess: ")
        screen.type("\4")                          # Ctrl-D: no more questions, and no pauses
        screen.wait_for("no more guesses")
        assert screen.end() == 0
        assert b"1 of 1 predicted" in screen.shown and b"Enter:" not in screen.all


def test_ctrl_c_at_a_question_ends_the_tour():
    """Of twelve at once: they wait for a CPU just where a signal could be lost, between the
    question and the sleep."""
    words = from_a_shell(*DEMO, "--ask", without=["SAN"], TERM="dumb")
    with ExitStack() as open_ones:
        screens = [open_ones.enter_context(Screen(words)) for _ in range(12)]
        starting = {screen.fd: screen for screen in screens}
        while starting:
            ready = select.select(starting, [], [], DEADLINE)[0]
            assert ready
            for fd in ready:
                screen = starting.pop(fd)
                screen.wait_for("no guess: ")
                screen.type("\3")
        for screen in screens:
            screen.wait_for("the tour ends here")
            assert screen.end() == 130


def judged(capsys, variant, guess):
    """What is said of a run of that stage."""
    guesses = predict.Guesses(Style(sys.stdout))
    guesses._read = lambda most: guess
    guesses.ask(variant)
    demo.play_live(variant, 0.1, Style(sys.stdout), guesses)
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("stage, program, guess, was", [
    ("1", 4, 2, "Not as you predicted: you said 2, and it was 1, at once."),
    ("2", 4, 3, "Not as you predicted: you said 3, and it was 1, it sleeps."),
    ("3", 2, 3, "you said 3, and it was 2, B is answered at once; the server never sleeps."),
    ("3", 1, 1, "As you predicted: 1, B waits until A leaves; the server sleeps."),
    ("4", 1, 3, "you said 3, and it was none of these. Seen: watching=0."),
    ("5", 4, 1, "you said 1, and it was 3, all, twice: by the kernel and by the program."),
])
def test_another_program_in_a_stage_s_place(capsys, stage, program, guess, was):
    """The question is the stage's; the truth is the program's."""
    variant = replace(variants(stage)[0], program=BUILD / FOLDERS[program - 1])
    assert was in judged(capsys, variant, guess)


@pytest.mark.parametrize("change, was", [(-6, "3, more"), (0, "2, as many"), (6, "1, fewer")])
def test_callbacks_are_compared_with_the_stage_that_was_played_before(change, was):
    seen = predict.Seen(True, "hello\n", 1, (False,), 18, (4,), (1,), 2)
    before = replace(seen, calls=seen.calls + change)
    question = predict.question(variants("6-epoll")[0], {"epoll_wait": before})
    assert f" {before.calls} system calls" in question.text
    happened = question.happened(seen)
    assert f"{happened}, {question.choices[happened - 1]}".startswith(was)
