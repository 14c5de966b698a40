"""Clients that break off: with answers unread, in the accept queue, before they are answered."""

from collections import Counter

from tests.harness import MEBIBYTE, SMALL, none_but, one_of
from tests.scenarios import scenario

BROKEN_OFF = none_but("ECONNRESET", "EPIPE", "eof")


def _served(run, service="echo"):
    """Whether somebody new is served, from the first word to the last."""
    client = run.connect(service)
    back = client.exchange(b"hello\n", half_close=True)
    client.close()
    return back == b"hello\n"


@scenario("Clients reset 200 times, in four ways: does it go on serving?", expect={
    "all": {"closed": 220, "reasons": BROKEN_OFF, "served_meanwhile": 20,
     "clients": 0}})
def resets(run):
    server, right = run.server, 0
    for i in range(200):
        if i % 4 == 0:                 # our answer is there, and never read
            a = run.connect()
            a.send(b"hello\n")
            a.answered(20)
            a.close()
        elif i % 4 == 1:               # the server has not read it all yet
            a = run.connect()
            a.send_some(b"x" * 65536)
            a.reset()
        elif i % 4 == 2:               # our answer is under way, and finds no room
            a = run.connect(**SMALL)
            a.send_some(b"x" * 200_000)
            a.answered(20)
            a.reset()
        else:                          # not a word
            run.connect().reset()
        if i % 10 == 9:
            right += _served(run)
    server.wait_until(lambda: len(server.all("close")) == 220, "220 closed")
    reasons = Counter(event["reason"] for event in server.all("close"))
    return {"closed": sum(reasons.values()), "reasons": sorted(reasons),
            "served_meanwhile": right, "clients": server.stats()["clients"]}


@scenario("Clients ask, and are gone before the answer (SIGPIPE): does it go on serving?",
          services=("greet",), expect={
    "all": {"closed": 20, "reasons": none_but("ECONNRESET", "EPIPE"),
       "serves": "hello good\n"}})
def vanishes(run):
    server = run.server
    question = b"a line\n" * 7000      # three reads: the answer to the first meets a reset
    for i in range(20):
        mark = server.mark()
        a = run.connect()
        a.recv_line()
        with server.paused():
            a.send(question)
            a.close()
        server.wait_for("close", after=mark)
    b = run.connect()
    b.recv_line()
    reasons = [event["reason"] for event in server.all("close")]
    return {"closed": len(reasons), "reasons": sorted(set(reasons)),
            "serves": b.exchange(b"hello\n", 11).decode()}


@scenario("Clients reset while they are still in the backlog: are the others served?", expect={
    "all": {"right_answers": 100, "reasons": BROKEN_OFF, "served": True}})
def reset_in_backlog(run):
    server, right = run.server, 0
    for i in range(10):
        mark = server.mark()
        with server.paused():
            crowd = run.crowd(20)
            crowd.send(lambda n: b"%d of %d" % (n, i))
            for n in range(0, 20, 2):
                crowd[n].reset() if n % 4 else crowd[n].close()
            stay = crowd[1::2]
            for client in stay:        # ... or the first stage would never end the first one
                client.half_close()
        right += sum(client.recv_until_eof() == b"%d of %d" % (n, i)
                     for n, client in zip(range(1, 20, 2), stay))
        server.wait_until(lambda: len(server.all("close", after=mark)) == 20, "20 closed")
    reasons = {event["reason"] for event in server.all("close")}
    return {"right_answers": right, "reasons": sorted(reasons), "served": _served(run)}


@scenario("A client resets while it is not being read: is it closed, or does the server spin?",
          expect={
    "all": {case: {"reason": one_of("ECONNRESET", "EPIPE"), "asleep": True, "served": True}
            for case in ("outbox full", "half-closed")},
    "2": {case: {"reason": one_of("ECONNRESET", "EPIPE"), "asleep": False, "served": True}
          for case in ("outbox full", "half-closed")}})
def reset_unread(run):
    server, result, fits = run.server, {}, 0
    for case in "outbox full", "half-closed":
        mark = server.mark()           # the second one may get the first one's number
        a = run.connect(**SMALL)
        if case == "outbox full":
            run.fill(a, bytes(8 * MEBIBYTE))
            fits = sum(event.get("bytes", 0) for event in server.all("send", after=mark))
        else:                          # so much that 128 KiB wait in the outbox
            a.send(bytes(fits + 128 * 1024))
            a.half_close()
            if run.variant.stage > 1:  # stage 1 sleeps in send()
                server.wait_for("recv", after=mark, bytes=0)
        a.reset()
        result[case] = {"reason": server.closed(a)["reason"], "asleep": server.idle(0.1)["asleep"],
                        "served": _served(run)}
    return result
