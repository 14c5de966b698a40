"""What a server does for one message: the calls, the waits, the sleep."""

import fcntl
import os
import socket
import time

from tests.harness import at_least, at_most, one_of
from tests.scenarios import scenario


def _difference(after, before):
    return {key: after[key] - before[key] for key in after.fields}


@scenario("May a call on a socket sleep, and may the end of an answer be kept back (Nagle)?",
          expect={
    "all": {"listener_may_sleep": False, "client_may_sleep": False, "kept_back": False},
    "1": {"listener_may_sleep": True, "client_may_sleep": True}})
def socket_flags(run):
    a = run.connect()
    a.exchange(b"hello\n")
    listener = run.server.listening()[0]["fd"]
    result = {}
    for what, fd in (("listener", listener), ("client", run.server.accepted(a)["fd"])):
        with run.server.socket_of(fd) as copy:
            result[f"{what}_may_sleep"] = not fcntl.fcntl(copy, fcntl.F_GETFL) & os.O_NONBLOCK
            if what == "client":
                result["kept_back"] = not copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    return result


@scenario("Which calls does one message cost, with nobody else there?", expect={
    "all": {"waits": 1.0, "ready": 1.0, "watch": 0.0, "recv": 1.0, "send": 1.0,
            "would_block": 0.0},
    "1": {"waits": 0.0, "ready": 0.0},
    "2": {"waits": 0.0, "ready": 0.0, "recv": at_least(1), "would_block": at_least(0.5)}})
def message_cost(run):
    a = run.connect()
    a.exchange(b"hello\n")
    run.server.wait_for("send")
    before = run.server.stats()
    for _ in range(100):
        a.exchange(b"hello\n")
    run.server.wait_until(lambda: len(run.server.all("send")) == 101, "101 sends")
    counted = _difference(run.server.stats(), before)
    return {key: round(counted[key] / 100, 1)
            for key in ("waits", "ready", "watch", "recv", "send", "would_block")}


@scenario("Does what the counters say agree with what the clients sent and got?",
          services=("greet",), expect={
    "all": {"welcomed_at_once": 3, "bytes_in": 0, "bytes_out": 0, "clients": 0,
            "max_clients": 3, "accepts_that_brought_nobody": 0, "waits_narrated": True,
            "scanned_per_watched": 2.0, "scanned_per_ready": at_least(2.1)},
    "1": {"welcomed_at_once": 1, "max_clients": 1, "accepts_that_brought_nobody": one_of(0, 1),
          "scanned_per_watched": None, "scanned_per_ready": None},
    "2": {"accepts_that_brought_nobody": at_least(3), "scanned_per_watched": None,
          "scanned_per_ready": None},
    "5 6-epoll": {"scanned_per_watched": at_most(1.5), "scanned_per_ready": 2.0}})
def counters(run):
    crowd = run.crowd(3)
    welcomed = run.answers(crowd)
    for i, client in enumerate(crowd):             # one by one, for those who serve one by one
        client.recv_line()
        client.exchange(b"x" * (1000 * i + 10) + b"\n", 1000 * i + 10 + len(" good\n"))
        client.close()
        run.server.closed(client)
    stats = run.server.stats()
    scanned, waits = stats["scanned"], run.server.all("wait")
    watched = sum(event["watching"] for event in waits)
    ready = sum(event.get("ready", 0) for event in waits)
    return {
        "welcomed_at_once": welcomed,
        "bytes_in": stats["bytes_in"] - sum(client.sent for client in crowd),
        "bytes_out": stats["bytes_out"] - sum(client.received for client in crowd),
        "clients": stats["clients"],
        "max_clients": stats["max_clients"],
        "accepts_that_brought_nobody": stats["accept"] - 3,
        "waits_narrated": len(waits) == stats["waits"],
        "scanned_per_watched": round(scanned / watched, 3) if watched else None,
        "scanned_per_ready": round(scanned / ready, 3) if ready else None,
    }


@scenario("Ten clients have something to say at once: how many waits does it take to serve them?",
          expect={
    # All that are ready are served before the next wait.
    "all": {"served": 10, "waits": 1},
    "1": {"served": 1, "waits": 0},
    "2": {"waits": 0}})
def one_round(run):
    crowd = run.crowd(10)
    crowd.send(lambda i: b"hello\n")
    served = run.answers(crowd)
    for client in crowd:
        if client.answered(0):
            client.recv(6)
    run.server.wait_until(lambda: len(run.server.all("send")) == served, "all sends narrated")
    with run.server.paused():
        mark = run.server.mark()
        crowd.send(lambda i: b"again\n")
    served = run.answers(crowd)
    run.server.wait_until(lambda: len(run.server.all("send", after=mark)) == served, "all sends")
    waits = sends = 0
    for event in run.server.events[mark:]:
        sends += event.verb == "send"
        waits += event.get("ready", 0) > 0 and sends < served
    return {"served": served, "waits": waits}


@scenario("How long does stage 1 sleep, and in which call?", expect={
    "all": {"wait": at_least(2), "recv": 0},
    "1": {"wait": 0, "recv": at_least(2)},
    "2": {"wait": 0}})
def sleeping(run):
    a = run.connect()
    time.sleep(0.1)                                # so long nobody says anything
    a.exchange(b"hello\n")
    run.server.wait_for("send")
    time.sleep(0.1)
    a.close()
    run.server.closed(a)
    slept = {}
    for verb in ("wait", "recv"):
        events = [e for e in run.server.all(verb) if e.get("slept", 0) > 0.05]
        slept[verb] = len(events)
    return slept


@scenario("-t: does a wait end when its time is over?", expect={
    "all": {"shortest": at_least(0.05), "longest": at_most(5), "nothing_on": True,
            "says_that_it_has_no_wait": False, "serves": "hello\n"},
    "1-2": {"shortest": None, "longest": None, "says_that_it_has_no_wait": True}})
def time_limit(run):
    server = run.start(args=["-t", "0.05"])

    def timed_out():
        return [event for event in server.all("wait", ready=0) if "error" not in event.fields]

    server.wait_until(lambda: len(timed_out()) >= 3 or server.all("note"), "three time limits")
    slept = [event["slept"] for event in timed_out()[:3]]
    client = run.connect()
    return {
        "shortest": min(slept, default=None),
        "longest": max(slept, default=None),
        "nothing_on": all(event["on"] == {} for event in timed_out()),
        "says_that_it_has_no_wait": any("-t" in note["text"] for note in server.all("note")),
        "serves": client.exchange(b"hello\n").decode(),
    }


@scenario("No -t: does a wait ever end with nothing ready?", expect={
    "all": {"ended_for_nothing": 0}})
def no_time_limit(run):
    run.connect().exchange(b"hello\n")
    time.sleep(0.1)                                # a window to look through
    return {"ended_for_nothing": len(run.server.all("wait", ready=0))}
