"""Several clients at once: what the stages were made for, and where the first one fails."""

import time

from tests.harness import anything, at_least
from tests.harness.model import WELCOME
from tests.scenarios import scenario


@scenario("Is a second client answered while the first one is silent?", expect={
    "all": {"answered_while_first_is_silent": True, "answer_in_the_end": "hello\n",
            "milliseconds": anything, "first_is_gone": "eof"},
    # One thread sleeps in recv() for the first: the second waits until that one leaves.
    "1": {"answered_while_first_is_silent": False, "milliseconds": at_least(200)}})
def second_client(run):
    run.say("A connects and says nothing.")
    a = run.connect(name="A")
    run.server.accepted(a)
    run.say("B connects and asks something.")
    b = run.connect(name="B")
    asked = time.monotonic()
    b.send(b"hello\n")
    answered = run.answered(b)
    waited = time.monotonic() - asked
    run.say("A leaves.")
    a.close()
    answer = b.recv(6)
    if not answered:
        waited = time.monotonic() - asked
    return {
        "answered_while_first_is_silent": answered,
        "answer_in_the_end": answer.decode(),
        "milliseconds": round(waited * 1000, 3),
        "first_is_gone": run.server.closed(a)["reason"],
    }


@scenario("Is a client of the second listener answered?", services=("echo", "greet"), expect={
    "all": {"while_the_first_has_a_client": True, "when_that_one_has_left": True,
            "first_listener_goes_on": "again\n", "says_why_not": False},
    # One thread can wait in one accept() only.
    "1": {"while_the_first_has_a_client": False, "when_that_one_has_left": False,
          "says_why_not": True}})
def second_listener(run):
    run.say("A connects to the first listener and is answered.")
    a = run.connect("echo")
    a.exchange(b"hello\n")
    run.say("B connects to the second listener.")
    b = run.connect("greet")
    beside = run.answered(b)
    run.say("A leaves.")
    a.close()
    run.server.closed(a)
    c = run.connect("echo")
    return {
        "while_the_first_has_a_client": beside,
        "when_that_one_has_left": run.answered(b),
        "first_listener_goes_on": c.exchange(b"again\n").decode(),
        "says_why_not": any("never" in note["text"] for note in run.server.all("note")),
    }


@scenario("Do all listeners answer, each its own service?",
          services=("echo", "greet", "chat", "echo"), expect={
    "all": {"echo": "first\n",
            "greet": WELCOME,
            "chat": "* you are guest-1, alone here\n", "echo_again": "second\n",
            "listeners": ["echo", "greet", "chat", "echo"], "ports_differ": True},
    "1": {"greet": None, "chat": None, "echo_again": None}})
def all_listeners(run):
    echo, greet, chat, again = (run.connect("echo"), run.connect("greet"), run.connect("chat"),
                                run.connect("echo", index=1))
    echo.send(b"first\n")
    again.send(b"second\n")
    answers = {}
    for name, client in zip(("echo", "greet", "chat", "echo_again"),
                            (echo, greet, chat, again)):
        answers[name] = client.recv_line().decode() if run.answered(client, 0.1) else None
    listening = [event["service"] for event in run.server.listening()]
    ports = {event["address"] for event in run.server.listening()}
    return {**answers, "listeners": listening, "ports_differ": len(ports) == 4}


def _each_its_own(run, count):
    """All send a part, all send the rest, all leave; who got what, and who got it when."""
    def data(i):
        return b"%d " % i * (50 + 7 * i % 1000)

    crowd = run.crowd(count)
    crowd.send(lambda i: data(i)[:100])
    at_once = run.answers(crowd)
    crowd.send(lambda i: data(i)[100:])
    crowd.half_close()
    got = crowd.recv_until_eof()
    return {
        "answered_while_all_are_there": at_once,
        "got_exactly_their_own": sum(got[i] == data(i) for i in range(count)),
        "ended_well": sum(client.ended == "eof" for client in crowd),
    }


@scenario("Two clients at once: does each get exactly its own bytes?", expect={
    "all": {"answered_while_all_are_there": 2, "got_exactly_their_own": 2, "ended_well": 2},
    "1": {"answered_while_all_are_there": 1}})
def two_clients(run):
    return _each_its_own(run, 2)


@scenario("Fifty clients at once: does each get exactly its own bytes?", expect={
    "all": {"answered_while_all_are_there": 50, "got_exactly_their_own": 50, "ended_well": 50},
    "1": {"answered_while_all_are_there": 1}})
def fifty_clients(run):
    return _each_its_own(run, 50)


@scenario("Two clients talk in turn, many times: is every answer right?",
          not_for={"1": "the second client is not answered while the first is there"}, expect={
    "all": {"right_answers": 100}})
def ping_pong(run):
    a, b = run.connect(), run.connect()
    right = 0
    for i in range(50):
        for client in (a, b):
            message = f"{client.name}{i}\n".encode()
            right += client.exchange(message) == message
    return {"right_answers": right}
