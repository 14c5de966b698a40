"""What a server says of itself, with -v and -q, too."""

from tests.harness import at_least, at_most, including
from tests.scenarios import scenario


@scenario("Is the ready list narrated, beside the watched one?", services=("echo", "greet"),
          expect={
    "all": {"on_client": ["r"], "watching": [4], "ready": [1], "selector": None, "own_name": True},
    "1-2": {"call": [], "on_client": [], "watching": [], "ready": []},
    "3": {"call": ["select"]},
    "4": {"call": ["poll"]},
    "5": {"call": ["epoll_wait"]},
    "6-select": {"call": ["select"], "selector": "select"},
    "6-poll": {"call": ["poll"], "selector": "poll"},
    "6-epoll": {"call": ["epoll_wait"], "selector": "epoll"}})
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
        # A variant may say its own.
        "own_name": run.server.events[0]["stage"] in (run.variant.folder.name, run.variant.name),
    }


@scenario("-v: what is narrated more?", expect={
    "all": {"other_calls": including("setsockopt"), "empty_calls": False,
            "watched_for": ["rx", "-"],
            "data": ["hello\n", "x" * 40], "more": [0, 60]},
    "1": {"watched_for": []},
    "2": {"watched_for": [], "empty_calls": True}})
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


@scenario("-q: what is narrated then?", services=("echo", "greet"), expect={
    "all": {"verbs": ["listen", "start", "stats"], "bytes": [6, 6]}})
def quiet(run):
    server = run.start(args=["-q"])
    a = run.connect("echo")
    a.exchange(b"hello\n")
    a.close()
    stats = server.stats()
    return {"verbs": sorted({event.verb for event in server.events}),
            "bytes": [stats["bytes_in"], stats["bytes_out"]]}


@scenario("Is stage 2's spinning narrated, without a line for every round?", expect={
    "all": {"lines": False, "rounds_in_a_line": 0, "lines_in_all": at_most(10)},
    "2": {"lines": True, "rounds_in_a_line": at_least(1000)}})
def spinning(run):
    server = run.server
    mark = server.mark()
    if run.variant.stage == 2:
        server.wait_for("spin", after=mark)
    spins = server.all("spin")
    return {"lines": len(spins) > 0,
            "rounds_in_a_line": max([event["rounds"] for event in spins], default=0),
            "lines_in_all": len(server.events)}
