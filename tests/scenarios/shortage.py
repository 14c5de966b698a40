"""Descriptors or memory run out while it runs, or the limits change: who has to go, and who stays?"""

import resource
import socket

from harness import SANITIZED, Late, Unavailable
from scenarios import scenario
from scenarios.faults import _start
from scenarios.rough import SMALL, _fill

MEBIBYTE = 1 << 20
MOST_ALLOCATIONS = 120                 # by then, all of its steps have been made
EVERY = 4                              # of them, to save time
ALONE = {"1": "it has but one client"}


def _limit(server, which, soft):
    _, hard = resource.prlimit(server.pid, which)
    resource.prlimit(server.pid, which, (soft, hard))


def _served(clients):
    return sum(client.exchange(b"hello\n") == b"hello\n" for client in clients)


@scenario("The limit of descriptors is raised while it runs: who gets in?", not_for=ALONE)
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
    _limit(server, resource.RLIMIT_NOFILE, 1100)
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
          not_for=ALONE)
def limit_lowered(run):
    server = run.server
    crowd = run.crowd(50)
    _served(crowd)
    _limit(server, resource.RLIMIT_NOFILE, 30)
    crowd[0].send(b"hello\n")
    crowd[0].recv(6)
    server.stats()
    reasons = {}
    for event in server.all("close"):
        reasons[event["reason"]] = reasons.get(event["reason"], 0) + 1
    gone = {server.closed(client) and client for client in crowd if server.all(
        "close", fd=server.accepted(client)["fd"])}
    return {"reasons": reasons, "served": _served(c for c in crowd if c not in gone) + len(gone)}


@scenario("A soft limit of five descriptors, and a hard one of more: does it start?",
          not_for={"1": "it does not raise its limit: it has but one client"})
def five_descriptors(run):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    run.start(nofile=(5, hard))
    return {"back": run.connect().exchange(b"hello\n").decode()}


@scenario("A client always leaves some of its answers unread: does its outbox grow and grow?",
          not_for=ALONE)
def outbox_never_empty(run):
    server, size = run.server, 32 * 1024
    a = run.connect(**SMALL)
    sent, got = bytearray(), bytearray()
    with server.socket_of(server.accepted(a)["fd"]) as theirs:    # or the kernel takes more and more
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    def send():
        piece = run.random.randbytes(size)
        sent.extend(piece)
        a.send(piece)
        server.wait_until(lambda: server.stats()["bytes_in"] == len(sent), "read")

    def fill():                        # 256 KiB, and it would not be read any more
        while (stats := server.stats())["bytes_in"] - stats["bytes_out"] < 160 * 1024:
            send()

    fill()
    before, mark = server.rss(), server.mark()
    for _ in range(400):
        got += a.recv(size)
        fill()
    sent_whole = [event for event in server.all("send", after=mark) if "left" not in event.fields]
    grew = server.rss() - before
    got += a.recv(len(sent) - len(got))
    return {"same": got == sent, "was_never_empty": not sent_whole, "memory_grew": grew > 4 << 20}


@scenario("Forty clients had much to read, and have read it: is the memory given back?", not_for=ALONE)
def memory_after_a_burst(run):
    server = run.server
    crowd = run.crowd(40, **SMALL)
    before, sent = server.rss(), {}
    for client in crowd:
        sent[client] = _fill(run, client, bytes(4 * MEBIBYTE))
    most = server.rss()
    back = [len(client.recv(sent[client])) == sent[client] for client in crowd]
    return {"all_back": all(back), "kept": server.rss() - before > (most - before) / 3}


@scenario("Memory runs out, since sixty clients read nothing: who has to go?", not_for=ALONE)
def no_memory(run):
    if SANITIZED:
        raise Unavailable("a sanitizer ends the program when memory runs out")
    server = run.server
    kept = run.connect()
    kept.exchange(b"hello\n")
    used = server.size()
    _limit(server, resource.RLIMIT_AS, used + 6 * MEBIBYTE)
    mute = []
    for _ in range(60):
        mute.append(run.connect(**SMALL))
        _fill(run, mute[-1], bytes(MEBIBYTE))
    served = [kept.exchange(b"still here?\n").decode()]
    for client in mute[:30]:
        client.close()
    newcomer = run.connect()
    served.append(newcomer.exchange(b"hello\n").decode())
    return {"served": served, "still_there": not server.ended(),
            "reasons": sorted({event["reason"] for event in server.all("close")})}


@scenario("One of its first allocations fails, each in turn: does it serve on?",
          services=("chat", "greet"), not_for=ALONE)
def allocation_fails(run):
    if SANITIZED:
        raise Unavailable("a sanitizer has an allocator of its own")
    outcomes, reasons = {}, set()

    def talk(made):
        server = _start(run, f"new ENOMEM 1 {made} 1", wait=False)
        run.servers.remove(server)     # a line of its narration may be what there is no memory for
        try:
            server.wait_until(lambda: len(server.listening()) == 2, "up")
            server.stats()
        except Late:
            if not server.ended() or outcomes:
                raise
            return                     # it could not start
        crowd = [run.connect(service, server=server) for service in ("chat", "chat", "greet")]
        for client in crowd:
            client.send(b"hello\n" * 20)
        late = []
        for _ in range(2):             # one of them may be whom there is no memory for
            client = run.connect("greet", server=server)
            client.send(b"hello\n")
            late.append(client.recv_lines(2)[1] == b"hello good\n")
            crowd.append(client)
        for client in crowd:
            client.close()
        server.wait_until(lambda: server.stats()["clients"] == 0, "all gone")
        sockets, status = server.sockets(), server.stop().status
        reasons.update(event["reason"] for event in server.all("close"))
        outcome = f"served {any(late)}, {sockets} sockets left, status {status}"
        outcomes[outcome] = outcomes.get(outcome, 0) + 1

    for made in range(run.random.randrange(EVERY), MOST_ALLOCATIONS, EVERY):
        talk(made)
    return {"outcomes": outcomes, "reasons": sorted(reasons - {"eof", "ECONNRESET"})}
