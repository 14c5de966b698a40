"""Instants that chance rarely hits, brought about: mistakes that nothing else here would see."""

from harness import Late
from scenarios import scenario
from scenarios.faults import _start
from scenarios.rough import standing_still


@scenario("A signal in the instant before a call that would sleep: is it lost?",
          not_for={"2": "it never sleeps"})
def stop_before_a_call(run):
    # The shim raises SIGTERM within the server, when so many calls have been made and the next
    # is about to be. The server sleeps in it for ever, unless the handler has seen to that.
    cases = {"accept 0": "nobody", "accept 1": "leaves", "recv 0": "silent", "recv 1": "speaks"}
    if run.variant.stage > 2:
        cases = {"wait 0": "nobody", "wait 1": "silent", "wait 2": "speaks"}
    result = {}
    for instant, client_does in cases.items():
        call, made = instant.split()
        server = _start(run, f"{call} SIGTERM 1 {made} 1", "echo")
        if client_does != "nobody":
            client = run.connect(server=server)
            if client_does == "speaks":
                client.send_some(b"hello\n")
            elif client_does == "leaves":
                client.close()
        try:
            result[instant] = server.wait_end()
        except Late:
            result[instant] = "sleeps on"
            server.kill()
            run.servers.remove(server)
    return result


@scenario("A client that can be read and written to in the same round: is it both?",
          not_for={"1-2": "nobody tells them what is ready"})
def both_at_once(run):
    server = run.server
    a = run.connect(rcvbuf=16 * 1024, mss=1400)
    fd = server.accepted(a)["fd"]
    sent = bytearray()

    def send(size):
        piece = run.random.randbytes(size)
        sent.extend(piece)
        a.send(piece)
        server.wait_until(lambda: sum(e["bytes"] for e in server.all("recv")) == len(sent), "read")

    # Until an answer waits: it is less than what the server would stop reading for.
    while not server.all("send", left=bool):
        send(16 * 1024)
    got = a.recv(16 * 1024)
    with standing_still(server):
        mark = server.mark()
        taken = sum(event["bytes"] for event in server.all("send"))
        got += a.recv(taken - len(got))                # so there is room
        sent.extend(b"and more")
        a.send(b"and more")                            # and something to read
    first = server.wait_for("wait", after=mark, ready=bool, on=lambda on: fd in on)
    after = server.events.index(first) + 1
    got += a.recv(len(sent) - len(got))
    server.stats()                                     # all of that has been narrated
    done = []
    for event in server.events[after:]:
        if event.verb == "wait":
            break
        done += [event.verb] if event.get("fd") == fd else []
    return {"ready_for": first["on"][fd], "done": done, "same": got == bytes(sent)}
