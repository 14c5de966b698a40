"""What clients cost in memory: it is given back, and nobody dies if there is none left."""

import resource

from tests.harness import (DEADLINE, MEBIBYTE, SANITIZED, SMALL, Late, Unavailable, at_least,
                           at_most, including, memory_grew, one_of)
from tests.scenarios import scenario

MOST_ALLOCATIONS = 120                 # by then, all of its steps have been made
EVERY = 4                              # of them, to save time
ALONE = {"1": "it has but one client"}


@scenario("Five hundred members leave a chat at once: what does it cost to tell nobody?",
          services=("chat",), not_for=ALONE, expect={
    # A sanitizer keeps for a while what is freed.
    "all": {"members": 500, "closed": 500,
            "memory_grown_mib": at_most(8 if SANITIZED else 1)}})
def room_empties(run):
    count = 500
    server = run.start(args=["-q"])
    members = run.crowd(count)
    last = run.connect()
    last.recv_line(3 * DEADLINE)                   # all before it are in, and everybody knows it
    before = server.most_rss()
    with server.paused():
        for member in (*members, last):
            member.close()
    server.wait_until(lambda: server.sockets() == 1, "all closed")
    stats = server.stats()
    return {"members": stats["max_clients"] - 1, "closed": count - stats["clients"],
            "memory_grown_mib": round((server.most_rss() - before) / MEBIBYTE, 3)}


@scenario("Forty clients had much to read, and have read it: is the memory given back?",
          not_for=ALONE, expect={
    "all": {"all_back": True, "kept": memory_grew}})
def memory_after_a_burst(run):
    server = run.server
    crowd = run.crowd(40, **SMALL)
    before = server.rss()
    # One after the other: what is freed in another order may stay with the allocator.
    sent = [run.fill(client, bytes(4 * MEBIBYTE)) for client in crowd]
    most = server.rss()
    back = [client.recv(size) for client, size in zip(crowd, sent)]
    return {"all_back": [len(data) for data in back] == sent,
            "kept": server.rss() - before > (most - before) / 3}


@scenario("Memory runs out, since sixty clients read nothing: who has to go?", not_for=ALONE,
          expect={
    "all": {"served": ["still here?\n", "hello\n"], "still_there": True,
        "reasons": including("ENOMEM")}})
def no_memory(run):
    if SANITIZED:
        raise Unavailable("a sanitizer ends the program when memory runs out")
    server = run.server
    kept = run.connect()
    kept.exchange(b"hello\n")
    used = server.size()
    server.limit(resource.RLIMIT_AS, used + 6 * MEBIBYTE)
    mute = run.crowd(60, **SMALL)
    for client in mute:                # one after the other, until there is none left for one
        run.fill(client, bytes(4 * MEBIBYTE))
        if server.all("close", reason="ENOMEM"):
            break
    served = [kept.exchange(b"still here?\n").decode()]
    for client in mute[:30]:
        client.close()
    newcomer = run.connect()
    served.append(newcomer.exchange(b"hello\n").decode())
    return {"served": served, "still_there": not server.ended(),
            "reasons": sorted({event["reason"] for event in server.all("close")})}


@scenario("One of its first allocations fails, each in turn: does it serve on?",
          services=("chat", "greet"), not_for=ALONE, expect={
    "all": {
        "outcomes": {"served True, 2 sockets left, status 0": at_least(10)},
        "reasons": one_of(["ENOMEM"], [])}})
def allocation_fails(run):
    if SANITIZED:
        raise Unavailable("a sanitizer has an allocator of its own")
    outcomes, reasons = {}, set()

    def talk(made):
        server = run.start(faults=f"new ENOMEM 1 {made} 1", wait=False)
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
    return {"outcomes": outcomes, "reasons": sorted(reasons - {"eof", "ECONNRESET", "EPIPE"})}
