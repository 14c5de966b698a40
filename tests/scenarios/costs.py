"""What it costs to wait and to serve, by the servers' own counters, and what they narrate."""

import fcntl
import os
import socket
import time

from scenarios import scenario


def _difference(after, before):
    return {key: after[key] - before[key] for key in after.fields}


@scenario("What does a server do while fifty clients say nothing?")
def idle(run):
    run.say("Fifty clients connect, and each asks once.")
    crowd = run.crowd(50)
    crowd.send(lambda i: b"hello\n")
    served = run.answers(crowd)
    server = run.server
    run.say("Nobody says anything.")
    before = server.stats()
    seen = server.idle(0.25)
    counted = _difference(server.stats(), before)
    return {
        "served": served,
        **seen,
        "empty_calls": counted["would_block"],
        "other_calls": counted["accept"] + counted["recv"] + counted["send"]
                       - counted["would_block"],
        "waits": counted["waits"],
    }


@scenario("May a call on a socket sleep, and may the end of an answer be kept back (Nagle)?")
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


@scenario("Which calls does one message cost, with nobody else there?")
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
          services=("greet",))
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


@scenario("Is the ready list narrated, beside the watched one?", services=("echo", "greet"))
def ready_list(run):
    a = run.connect("echo")
    fd = run.server.accepted(a)["fd"]
    mark = run.server.mark()
    a.exchange(b"hello\n")
    run.server.wait_for("send", after=mark)
    waits = run.server.all("wait", after=mark)
    held = [event for event in waits if event.get("on", {}).get(fd)]
    return {
        "call": sorted({event["call"] for event in waits}),
        "on_client": sorted({event["on"][fd] for event in held}),
        "watching": sorted({event["watching"] for event in held}),
        "ready": sorted({event["ready"] for event in held}),
        "selector": run.server.events[0].get("selector"),
        "stage": run.server.events[0]["stage"],
    }


@scenario("Ten clients have something to say at once: how many waits does it take to serve them?")
def one_round(run):
    crowd = run.crowd(10)
    crowd.send(lambda i: b"hello\n")
    served = run.answers(crowd)
    for client in crowd:
        if client.answered(0):
            client.recv(6)
    run.server.wait_until(lambda: len(run.server.all("send")) == served, "all sends narrated")
    run.server.pause()
    mark = run.server.mark()
    crowd.send(lambda i: b"again\n")
    run.server.go_on()
    served = run.answers(crowd)
    run.server.wait_until(lambda: len(run.server.all("send", after=mark)) == served, "all sends")
    waits = sends = 0
    for event in run.server.events[mark:]:
        sends += event.verb == "send"
        waits += event.get("ready", 0) > 0 and sends < served
    return {"served": served, "waits": waits}


@scenario("How long does stage 1 sleep, and in which call?")
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


@scenario("-t: does a wait end when its time is over?")
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


@scenario("No -t: does a wait ever end with nothing ready?")
def no_time_limit(run):
    run.connect().exchange(b"hello\n")
    time.sleep(0.1)                                # a window to look through
    return {"ended_for_nothing": len(run.server.all("wait", ready=0))}


@scenario("-v: what is narrated more?")
def verbose(run):
    server = run.start(args=["-v"])
    a = run.connect()
    a.exchange(b"hello\n")
    a.exchange(b"x" * 100)
    a.half_close()
    a.recv_until_eof()
    empty = lambda: server.all("accept", error="EAGAIN")
    run.until(lambda: len(empty()) > 10) if empty() else None
    server.stop()                                  # first: stage 2 narrates without end
    fd = server.accepted(a)["fd"]
    received = [event for event in server.all("recv", fd=fd) if event.get("bytes")]
    return {
        "other_calls": sorted({event["name"] for event in server.all("call")}),
        "empty_calls": len(empty()) > 10,
        "watched_for": [event["for"] for event in server.all("watch", fd=fd)],
        "data": [event["data"].decode() for event in received],
        "more": [event.get("more", 0) for event in received],
    }


@scenario("-q: what is narrated then?", services=("echo", "greet"))
def quiet(run):
    server = run.start(args=["-q"])
    a = run.connect("echo")
    a.exchange(b"hello\n")
    a.close()
    stats = server.stats()
    return {"verbs": sorted({event.verb for event in server.events}),
            "bytes": [stats["bytes_in"], stats["bytes_out"]]}


@scenario("Is stage 2's spinning narrated, without a line for every round?")
def spinning(run):
    server = run.server
    mark = server.mark()
    if run.variant.stage == 2:
        server.wait_for("spin", after=mark)
    spins = server.all("spin")
    return {"lines": len(spins) > 0,
            "rounds_in_a_line": max([event["rounds"] for event in spins], default=0),
            "lines_in_all": len(server.events)}
