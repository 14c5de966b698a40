"""Descriptors run out: nobody is lost, nothing spins, and whoever is inside is served."""

import resource
import time

from tests.harness import EPOLL, Unavailable, anything, at_least, at_most, between
from tests.scenarios import scenario

GIVES_UP = "status 1, 1 line"

ALONE = {"1": "it has but one client"}


def _text(i):
    return b"%02d\n" % i


def _paused(run):
    """Until the server says that nobody more fits; False if it falls asleep without a word.

    One that does not stop asking does not say so either: a hundred refusals are enough."""
    server = run.server
    return run.until(lambda: server.all("pause") or len(server.all("accept", error=bool)) > 100)


def _inside(server, crowd):
    """Who of them has been accepted, in the order of the crowd."""
    accepted = {(event["service"], event["peer"]) for event in server.all("accept", service=bool)}
    return [client for client in crowd if (client.service, client.peername) in accepted]


def _while_full(server):
    """What it does in a fifth of a second in which nobody says anything.

    It tries to accept again once a second: not while we look."""
    paused = server.all("pause")
    if paused and time.monotonic() - server.clock - paused[-1].time > 0.4:
        server.wait_for("pause", after=server.mark())
    before, seen, after = server.stats(), server.idle(0.2), server.stats()
    return {"waits_while_full": after["waits"] - before["waits"],
            "accepts_while_full": after["accept"] - before["accept"],
            "asleep_while_full": seen["asleep"], "cpu_share_while_full": seen["cpu_share"]}


@scenario("16 descriptors, 60 clients, who leave one by one: is everyone served in the end?",
          expect={
    "all": {"inside": 10, "insiders_answered": 10, "outsiders_answered": 0, "says_so": True,
            "waits_while_full": at_most(3), "accepts_while_full": 0,
            "asleep_while_full": True, "cpu_share_while_full": anything, "served_in_the_end": 60,
            "insiders_not_served": 0},
    "1": {"inside": 1, "insiders_answered": 1, "says_so": False},
    "2": {"asleep_while_full": False},
    EPOLL: {"inside": 9, "insiders_answered": 9}})  # epoll has a descriptor of its own
def sixteen_descriptors(run):
    count = 60
    server = run.start(nofile=(16, 16))
    crowd = run.crowd(count)
    crowd.send(_text)
    paused = _paused(run)
    inside = _inside(server, crowd)
    right = sum(client.recv(3) == _text(crowd.index(client)) for client in inside)
    result = {"inside": len(inside), "insiders_answered": right,
              "outsiders_answered": sum(client.answered(0) for client in crowd) ,
              "says_so": paused, **_while_full(server)}
    served, insiders_wrong, last = len(inside), 0, server.mark()
    while served < count:
        leaves = inside.pop(run.random.randrange(len(inside)))
        last = server.mark()
        leaves.close()
        newcomer = server.wait_for("accept", after=last, service="echo")["peer"]
        client = next(client for client in crowd if client.peername == newcomer)
        served += client.recv(3) == _text(crowd.index(client))
        inside.append(client)
        one = run.random.choice(inside)
        insiders_wrong += one.exchange(b"still here?\n") != b"still here?\n"
    return {**result, "served_in_the_end": served, "insiders_not_served": insiders_wrong}


@scenario("32 descriptors, 60 clients, and the room empties at once, again and again", expect={
    "all": {"room": 26, "served_in_the_end": 60},
    "1": {"room": 1},
    EPOLL: {"room": 25}})
def thirty_two_descriptors(run):
    count = 60
    server = run.start(nofile=(32, 32))
    crowd = run.crowd(count)
    crowd.send(_text)
    _paused(run)
    room = len(_inside(server, crowd))
    left, served = [], 0
    while len(left) < count:
        most = min(count, len(left) + room)
        server.wait_until(lambda: len(_inside(server, crowd)) >= most, f"{most} have been let in")
        inside = [client for client in _inside(server, crowd) if client not in left]
        served += sum(client.recv(3) == _text(crowd.index(client)) for client in inside)
        with server.paused():
            for client in inside:
                client.close()
        left += inside
    return {"room": room, "served_in_the_end": served}


@scenario("16 descriptors, and two listeners run out of them in the same round",
          services=("echo", "greet"), not_for={"1": "the second listener is never answered"},
          expect={
    "all": {"inside": 9, "both_were_ready": True, "waits_while_full": at_most(3),
            "accepts_while_full": 0, "asleep_while_full": True, "cpu_share_while_full": anything,
            "served_in_the_end": 24},
    "2": {"both_were_ready": None, "asleep_while_full": False},
    EPOLL: {"inside": 8}})
def two_listeners_run_out(run):
    server = run.start(nofile=(16, 16))
    ours = {event["fd"] for event in server.listening()}
    crowd, greeted = [], []

    with server.paused():
        for _ in range(12):
            crowd.append(run.connect("echo"))
            crowd[-1].send(b"hello\n")
            greeted.append(run.connect("greet"))
            crowd.append(greeted[-1])
    _paused(run)
    waits = [event for event in server.events[:server.events.index(
        (server.all("pause") or server.events)[-1])] if event.verb == "wait"]
    result = {"inside": len(_inside(server, crowd)),
              "both_were_ready": ours <= set(waits[-1]["on"]) if waits else None,
              **_while_full(server)}
    waiting, served = set(crowd), 0
    while waiting:
        inside = [client for client in _inside(server, crowd) if client in waiting]
        leaves = run.random.choice(inside)
        answer = leaves.recv_line()
        served += answer.startswith(b"welcome" if leaves in greeted else b"hello")
        leaves.close()
        waiting.remove(leaves)
        until = min(len(crowd), len(crowd) - len(waiting) + result["inside"])
        server.wait_until(lambda: len(_inside(server, crowd)) >= until, f"{until} were let in")
    return {**result, "served_in_the_end": served}


@scenario("No room for a single client: what does the server do until there is?", expect={
    # It tries again once a second.
    "all": {"answered_without_room": False, "refusals": at_most(5), "reasons": [["EMFILE", 0]],
            "waits_while_full": at_most(5), "accepts_while_full": at_most(2),
            # It may be awake just then to try again.
            "asleep_while_full": anything, "cpu_share_while_full": anything,
            "answer_in_the_end": "hello\n", "still_there": True}})
def no_room_at_all(run):
    server = run.server
    soft, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    # Exactly what it has: the next descriptor would be one too many.
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (max(server.descriptors()) + 1, hard))
    with server.paused():
        run.connect().reset()          # ready, yet by then nobody is there
    a = run.connect()
    a.send(b"hello\n")
    result = {}
    server.wait_for("pause")
    server.wait_until(lambda: server.state() == "S" or run.variant.stage == 2, "asleep")
    before = server.all("accept", error="EMFILE")
    seen = _while_full(server)
    result.update(seen, answered_without_room=a.answered(0),
                  refusals=len(before), reasons=sorted({
                      (event["reason"], event["clients"]) for event in server.all("pause")}))
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (soft, hard))
    return {**result, "answer_in_the_end": a.recv(6).decode(), "still_there": not server.ended(),
            "reasons": [list(reason) for reason in result["reasons"]]}


@scenario("So few descriptors that it can hardly start: does it say so?", services=("echo",),
          expect={
    "all": {"4": GIVES_UP, "5": GIVES_UP, "6": "no room", "7": "serves", "8": "serves"},
    EPOLL: {"6": GIVES_UP, "7": "no room"}})
def limits_at_the_start(run):
    outcomes = {}
    for limit in range(4, 9):
        # A sanitizer that looks for leaks at the end needs descriptors of its own for that.
        server = run.start(nofile=(limit, limit), wait=False,
                           env={"ASAN_OPTIONS": "detect_leaks=0"})
        server.wait_until(lambda: server.listening() or server.ended(), "up, or given up")
        if server.listening():
            client = run.connect(server=server)
            client.send(b"hello\n")
            # Up: either there is room, or it says that there is none.
            server.wait_until(lambda: client.answered(0) or server.all("pause") and
                              not server.all("accept", peer=client.peername), "answered or not")
            outcomes[str(limit)] = "serves" if client.answered(0) else "no room"
            client.close()
            continue
        run.servers.remove(server)
        lines = server.stderr().splitlines()
        lines = f"{len(lines)} line" + "s" * (len(lines) != 1)
        outcomes[str(limit)] = f"status {server.status}, {lines}"
    return outcomes


@scenario("A soft limit of five descriptors, and a hard one of more: does it start?",
          not_for={"1": "it does not raise its limit: it has but one client"}, expect={
    "all": {"back": "hello\n"}})
def five_descriptors(run):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    run.start(nofile=(5, hard))
    return {"back": run.connect().exchange(b"hello\n").decode()}


def _served(clients):
    return sum(client.exchange(b"hello\n") == b"hello\n" for client in clients)


@scenario("The limit of descriptors is raised while it runs: who gets in?", not_for=ALONE, expect={
    "all": {"served": True, "inside_at_first": at_least(5), "reasons": []},
    "3 6-select": {"reasons": ["EMFILE"]}})
def limit_raised(run):
    """Beyond select()'s FD_SETSIZE, too: 1,024 of them."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < 2300:
        raise Unavailable(f"no more than {hard} descriptors may be had here")
    server = run.start(nofile=(hard, hard))
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (16, hard))
    first = run.crowd(12)
    server.wait_for("pause")
    inside = [client for client in first if server.all("accept", peer=client.peername)]
    server.limit(resource.RLIMIT_NOFILE, 1100)
    for client in first:
        server.accepted(client)        # it tries again by itself
    crowd = run.crowd(1100 - 12)
    # Who does not fit is let in and told so, or waits.
    last = crowd[-1]
    server.wait_until(lambda: server.all("accept", peer=last.peername) or server.mark() and
                      server.all("pause", after=server.events.index(server.accepted(crowd[1000]))),
                      "all in, or no room")
    server.stats()
    reasons = {event["reason"] for event in server.all("close")}
    again = [client for client in first + crowd[:900]]
    return {"inside_at_first": len(inside), "served": _served(again) == len(again),
            "reasons": sorted(reasons)}


@scenario("The limit of descriptors is lowered below what it has: is anybody served?",
          not_for=ALONE, expect={
    "all": {"served": 50, "reasons": {}},
    "4 6-poll": {"reasons": {"EMFILE": between(20, 25)}}})
def limit_lowered(run):
    server = run.server
    crowd = run.crowd(50)
    _served(crowd)
    server.limit(resource.RLIMIT_NOFILE, 30)
    crowd[0].send(b"hello\n")
    crowd[0].recv(6)
    server.stats()
    reasons = {}
    for event in server.all("close"):
        reasons[event["reason"]] = reasons.get(event["reason"], 0) + 1
    gone = {server.closed(client) and client for client in crowd if server.all(
        "close", fd=server.accepted(client)["fd"])}
    return {"reasons": reasons, "served": _served(c for c in crowd if c not in gone) + len(gone)}
