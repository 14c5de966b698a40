"""Bytes that mean harm: to the parser, to the terminal, to somebody's good name."""


from tests.harness import at_least, memory_grew, pump
from tests.harness.model import (BAD_NAME, CHAT_TOO_LONG, TAKEN, WELCOME, Chat, Greet, ill_line,
                                 pieces, printable)
from tests.scenarios import scenario

NASTY = [
    b"\0\0\0", b"\xff" * 10, b"\x1b[2J\x1b[H", b"\x1b]0;owned\x07", b"\x9b2J", b"\xc2\x9b2J",
    b"\x90\x1bP\x9c", b"a\rb", b"\b\b\b\b", b"\x7f\x7f", b"\x0e\x0f", b"\xe2\x28\xa1", b"\xf0\x9f",
    b"   0.000 close   fd=4 reason=eof clients=0", b'" clients=0', b"\\", b"\\x1b", b"%n%s%x",
    bytes(range(256)).replace(b"\n", b""),
    "\u2027\u2028\u202e\u202f \u2065\u2066\u2069\u206a".encode()]


def _raw_control(text, allowed=b"\n"):
    """How many bytes of it could drive a terminal."""
    return sum((byte < 32 or byte == 127) and byte not in allowed for byte in text)


@scenario("Bytes that mean harm, to all three services: does one reach the narration?",
          services=("echo", "greet", "chat"), expect={
    "all": {
        service: {"control_bytes": 0, "beyond_ascii": 0, "forged_lines": 0, "received": True}
        for service in ("echo", "greet", "chat")}})
def harm_to_the_narration(run):
    result = {}
    for service in ("echo", "greet", "chat"):
        server = run.start(service, args=["-v"])
        a = run.connect(service)
        for data in NASTY:
            a.send(data + b"\n")
        a.half_close()
        a.recv_until_eof()
        server.stop()
        text = server.narration().encode("latin-1")
        result[service] = {
            "control_bytes": _raw_control(text), "beyond_ascii": sum(b > 126 for b in text),
            "forged_lines": len(server.all("close")) - 1, "received": sum(
                event.get("bytes", 0) for event in server.all("recv")) == a.sent}
    return result


@scenario("Bytes that mean harm, to a chat: does one reach another member's terminal?",
          services=("chat",),
          not_for={"1": "a second member gets in only when the first has left"}, expect={
    "all": {"as_the_model_says": True, "control_bytes": 0, "c1_controls": 0,
              "invalid_utf8": 0}})
def harm_to_members(run):
    a, b = run.connect(), run.connect()
    a.recv_lines(2), b.recv_line()
    got, right = b"", 0
    lines = [*NASTY, *(b"x" + run.random.randbytes(200).replace(b"\n", b"") for _ in range(100))]
    for line in lines:
        a.send(line + b"\n")
        heard = b.recv_line()
        got += heard
        cut = line[:-1] if line.endswith(b"\r") else line
        right += heard == b"guest-1: " + printable(cut) + b"\n"
    shown = got.decode("utf-8", "surrogateescape")
    return {"as_the_model_says": right == len(lines), "control_bytes": _raw_control(got),
            "c1_controls": sum(0x80 <= ord(c) < 0xA0 for c in shown),
            "invalid_utf8": sum(0xDC80 <= ord(c) <= 0xDCFF for c in shown)}


@scenario("100,000 empty lines: are all answered, and is anybody bothered?",
          services=("greet", "chat"), expect={
    "all": {"answers": True, "in_the_chat": "* here: guest-1\n"}})
def newlines_100000(run):
    count = 100000
    server = run.start("greet", args=["-q"])
    a = run.connect("greet")
    answers = a.exchange(b"\n" * count, half_close=True)
    server.stop()
    run.start("chat", args=["-q"])
    b = run.connect("chat")
    b.recv_line()
    b.send(b"\n" * count + b"/who\n")
    return {"answers": answers == WELCOME.encode() + b" good\n" * count,
            "in_the_chat": b.recv_line().decode()}


@scenario("A nickname that looks like another member's, or the server's: can it be had?",
          services=("chat",),
          not_for={"1": "a second member gets in only when the first has left"}, expect={
    "all": {
        **{ascii(name): TAKEN for name in ("anna", "ANNA", "Anna", "anna\r", "server", "Server",
                                           "SERVER", "guest-1", "guest-2", "GUEST-3")},
        **{ascii(name): BAD_NAME for name in (
            "anna ", " anna", "anna\0", "\u0430nna", "anna\u200b", "anna:", "*", "* anna",
            "\u202eanna", "anna\x1b[0m", "anna\tx")},
        "here": "* here: anna, guest-2\n", "left": "* anna leaves\n",
        "free_again": "* guest-2 is now anna\n"}})
def false_names(run):
    anna, b = run.connect(name="anna"), run.connect()
    anna.recv_lines(2), b.recv_line()
    anna.send(b"/nick anna\n")
    anna.recv_line(), b.recv_line()
    said = {}
    for name in ("anna", "ANNA", "Anna", "anna\r", "anna ", " anna", "anna\0", "\u0430nna",
                 "anna\u200b", "anna:", "server", "Server", "SERVER", "guest-1", "guest-2",
                 "GUEST-3", "*", "* anna", "\u202eanna", "anna\x1b[0m", "anna\tx"):
        b.send(f"/nick {name}\n".encode())
        said[ascii(name)] = b.recv_line().decode()
    b.send(b"/who\n")
    anna.close()
    here, left = b.recv_line().decode(), b.recv_line().decode()
    b.send(b"/nick anna\n")                        # now nobody has it
    return {**said, "here": here, "left": left, "free_again": b.recv_line().decode()}


@scenario("A line that never ends: what does it cost the server, and the others?",
          services=("chat",), not_for={"1": "it has no others"}, expect={
    "all": {
        "told_or_reset": True, "reason": "line_too_long",
        "others_hear": "* guest-1 leaves\n", "others_are_served": "* here: guest-2\n",
        "memory_grew": memory_grew}})
def endless_line(run):
    a, b = run.connect(), run.connect()
    a.recv_lines(2), b.recv_line()
    server, before = run.server, run.server.rss()
    sent = 0
    chunk = b"x" * 1000
    while sent < 64 << 20 and not a.ended:
        a._out = memoryview(chunk)
        pump([a], lambda c: not c._out, what="sent")
        sent += len(chunk)
    told = a.recv_until_eof().decode()
    left = b.recv_line().decode()
    b.send(b"/who\n")
    return {"told_or_reset": told in ("", CHAT_TOO_LONG),
            "reason": server.closed(a)["reason"],
            "others_hear": left, "others_are_served": b.recv_line().decode(),
            "memory_grew": server.rss() - before > 2 << 20}


@scenario("Ten thousand connects without a byte: is the server none the worse for it?", expect={
    "all": {"served": "still here?\n", "clients": 1, "bytes_in": 18,
                    "memory_grew": memory_grew}})
def ten_thousand_connects(run):
    count, at_once = 10000, 50
    server = run.start("echo", args=["-q"])
    first = run.connect()
    first.exchange(b"hello\n")
    first.close()
    before = server.rss()
    for i in range(count // at_once):
        crowd = run.crowd(at_once)
        for n, client in enumerate(crowd):
            client.reset() if n % 2 else client.close()
        del run.clients[:]
    last = run.connect()
    back = last.exchange(b"still here?\n").decode()
    # Those who left again while they waited in the backlog may or may not be handed out.
    server.wait_until(lambda: server.stats()["clients"] == 1, "all of them gone")
    stats = server.stats()
    return {"served": back, "clients": stats["clients"], "bytes_in": stats["bytes_in"],
            "memory_grew": server.rss() - before > 2 << 20}


# --- fuzz -----------------------------------------------------------------------------------

@scenario("Random and mutated lines to greet, cut anywhere: does it answer as the model does?",
          services=("greet",), expect={
    "all": {"conversations": 60, "differ": []}})
def fuzz_greet(run):
    conversations, differ = 60, []
    for number in range(conversations):
        model, client = Greet(), run.connect()
        expected, sent = WELCOME.encode(), b""
        for _ in range(run.random.randrange(1, 20)):
            data = ill_line(run.random, harmless=run.random.random() < 0.8)
            for piece in pieces(run.random, data + b"\n" * (run.random.random() < 0.9)):
                client._out = memoryview(piece)
                pump([client], lambda c: not c._out, what="sent")
                expected += model.feed(piece)
                sent += piece
        client.half_close()
        expected += model.end()
        got = client.recv_until_eof()
        # After `q` or a line too long more may come than is read: a reset may wipe the answer out.
        if got != expected and not (client.ended == "reset" and model.ended
                                    and expected.startswith(got)):
            differ.append([repr(sent[-200:]), repr(expected[-100:]), repr(got[-100:])])
        client.close()
    return {"conversations": conversations, "differ": differ[:3]}


@scenario("Random and mutated lines in a chat: does everybody hear what the model says?",
          services=("chat",),
          not_for={"1": "a second member gets in only when the first has left"}, expect={
    "all": {"members": at_least(2), "differ": []}})
def fuzz_chat(run):
    return fuzzed_room(run, 250)


def fuzzed_room(run, steps):
    """Members come, speak, mumble, rename and leave; each must hear exactly what the model says."""
    room, clients, differ, joined = Chat(), {}, [], 0

    def hear(said):
        """Everybody gets what it is told."""
        for member, text in said.items():
            if member in clients:
                got = clients[member].recv(len(text))
                if got != text:
                    differ.append([member, repr(text[:120]), repr(got[:120])])

    def leave(me):
        client = clients.pop(me)
        client.half_close()                        # half a line is a line then
        said = room.leave(me)
        client.recv(len(said.pop(me, b"")))
        hear(said)
        more = client.recv_until_eof()
        if more:
            differ.append([me, "nothing more", repr(more[:120])])
        client.close()

    for _ in range(steps):
        if differ:
            break
        what = run.random.random()
        if not clients or (what < 0.08 and len(clients) < 8):
            for me in clients:                     # what nobody heard must be said before, too
                clients[me].send(b"\n/who\n")
                hear(room.feed(me, b"\n/who\n"))
            client = run.connect("chat")
            me, said = room.join()
            clients[me] = client
            joined += 1
            hear(said)
        elif what < 0.12 and len(clients) > 1:
            leave(run.random.choice(list(clients)))
        else:
            me = run.random.choice(list(clients))
            data = ill_line(run.random, harmless=run.random.random() < 0.95)
            data += b"\n" * (run.random.random() < 0.9)
            for piece in pieces(run.random, data):
                clients[me].send(piece)
                hear(room.feed(me, piece))
                if me in room.ended:
                    clients[me].recv_until_eof()   # out of the room
                    clients.pop(me).close()
                    break
    for me in list(clients):
        if not differ:
            leave(me)
    return {"members": joined, "differ": differ[:3]}
