"""Instants that chance rarely hits, brought about: mistakes that nothing else here would see."""

from collections import Counter

from tests.harness import MEBIBYTE, SMALL, Late, anything, at_least
from tests.harness.model import GOODBYE
from tests.scenarios import scenario

ALONE = {"1": "the second client is not answered while the first is there"}

OUTBOX_LIMIT = 256 * 1024              # so much may wait for one peer, say the servers


@scenario("A signal in the instant before a call that would sleep: is it lost?",
          not_for={"2": "it never sleeps"}, expect={
    "3-6": {"wait 0": 0, "wait 1": 0, "wait 2": 0},
    "1": {"accept 0": 0, "accept 1": 0, "recv 0": 0, "recv 1": 0}})
def stop_before_a_call(run):
    # The shim raises SIGTERM within the server, when so many calls have been made and the next
    # is about to be. The server never wakes from it, unless the handler has seen to that.
    cases = {"accept 0": "nobody", "accept 1": "leaves", "recv 0": "silent", "recv 1": "speaks"}
    if run.variant.stage > 2:
        cases = {"wait 0": "nobody", "wait 1": "silent", "wait 2": "speaks"}
    result = {}
    for instant, client_does in cases.items():
        call, made = instant.split()
        server = run.start("echo", faults=f"{call} SIGTERM 1 {made} 1")
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
          not_for={"1-2": "nobody tells them what is ready"}, expect={
    "all": {"ready_for": "rw", "done": ["recv", "send"], "same": True}})
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
    with server.paused():
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


@scenario("A stop in the instant between a client's last line and the answer: does that come?",
          services=("greet",), expect={
    "all": {"answer": GOODBYE, "ended": "eof", "status": 0,
"reason": "quit"}})
def stop_before_the_answer(run):
    server = run.start("greet", faults="send SIGTERM 1 1 1")    # the first one sends the welcome
    a = run.connect()
    a.recv_line()
    a.send(b"q\n")
    answer = a.recv_until_eof().decode()
    return {"answer": answer, "ended": a.ended, "status": server.wait_end(),
            "reason": server.closed(a)["reason"]}


@scenario("A signal after a failed call, and its handler fails, too: whose error is seen?",
          expect={
    "all": {"reason": "ECONNRESET"}})
def a_signal_and_an_error(run):
    server = run.start(faults="recv SIGUSR1 1 0 1")
    a = run.connect()
    a.send(b"hello\n")
    a.recv_until_eof()
    return {"reason": server.closed(a)["reason"]}


@scenario("A stop while the server rests, as a call of its own has failed: how soon does it end?",
          expect={
    "all": {"status": 0, "at_once": True},
    "1": {"paused": True},
    "2": {"paused": True}})
def stop_while_it_rests(run):
    if run.variant.stage < 3:          # no wait can fail
        server = run.start(faults="accept ENFILE 1 0 99999999")
        run.connect()
        server.wait_for("pause")
        stopped = server.stop()
        return {"status": stopped.status, "at_once": stopped.seconds < 0.5, "paused": True}
    server = run.start(faults="wait ENOMEM 1 0 99999999")
    server.wait_for("wait", error="ENOMEM")
    server.wait_for("wait", after=server.mark(), error="ENOMEM")    # it rests a second now
    stopped = server.stop()
    return {"status": stopped.status, "at_once": stopped.seconds < 0.5}


@scenario("In one round somebody joins the chat and speaks, one leaves, and one is dropped who has "
          "just spoken: who hears what?", services=("chat",), not_for=ALONE, expect={
    "all": {"all_right": True, "dropped": ["slow_reader"] * 5, "rounds_that_it_took": 1,
            "events_in_the_round_of_the_accept": 0},
    "2": {"rounds_that_it_took": None,       # not narrated
          "events_in_the_round_of_the_accept": None}})
def busy_room(run):
    server = run.server
    speaker, listener = run.connect(), run.connect()
    names = {client: _name_in(client.recv_line()) for client in (speaker, listener)}
    names[speaker] = b"-whose-name-is-long-"
    speaker.send(b"/nick " + names[speaker] + b"\n")
    speaker.recv_lines(2), listener.recv_line()
    leaver = run.connect()
    names[leaver] = _name_in(leaver.recv_line())
    for client in (speaker, listener):
        client.recv_line()
    fill, size = b"x" * 1000 + b"\n", len(names[speaker]) + 1003
    much = [b"x\n"] * 512    # one read, and with that name before each too many for the mute one
    right, rounds, reasons = [], [], []
    # The kernel may take more for the mute one at the last moment; then it has to be tried again.
    for _ in range(20):
        mute = run.connect(**SMALL)
        names[mute] = _name_in(mute.recv_line())
        for client in (speaker, listener, leaver):
            client.recv_line()
        fd, gone = server.accepted(mute)["fd"], server.accepted(leaver)["fd"]
        _talk_until(server, speaker, (listener, leaver), mute, fill, size,
                    OUTBOX_LIMIT - 3 * size)
        if run.variant.stage > 2:                # or it is in the middle of a round yet
            server.wait_until(lambda: server.state() == "S", "asleep in its wait")
        with server.paused():
            mark = server.mark()
            speaker.send(b"".join(much))
            leaver.close()
            newcomer = run.connect()             # may get the number of who is dropped: too soon?
            newcomer.send(b"hello\n")
            mute.send(b"too late\n")             # it is ready, and may be gone before its turn
        names[newcomer] = _name_in(newcomer.recv_line())
        server.wait_for("close", after=mark, fd=gone)
        server.wait_for("recv", after=mark, fd=server.accepted(newcomer)["fd"])
        server.stats()                           # in the next round, before it closes anybody
        server.stats()                           # and in the one after it
        dropped = server.all("close", after=mark, fd=fd)
        news = [b"* " + names[leaver] + b" leaves\n", b"* " + names[newcomer] + b" joins\n"]
        news += [b"* " + names[mute] + b" leaves\n"] * len(dropped)
        late = names[mute] + b": too late\n"     # or not, as the order within the round may be
        hello = [names[newcomer] + b": hello\n"]
        said = [names[speaker] + b": " + line for line in much]
        present = [names[client] for client in (speaker, listener, mute, newcomer)
                   if client is not mute or not dropped]
        for client, lines in ((speaker, news + hello), (listener, news + hello + said),
                              (newcomer, news + said)):
            client.send(b"/who\n")
            *heard, line = client.recv_lines_until(b"* here: ")
            heard = [each for each in heard if each != late]
            right.append(set(heard) <= set(lines) if client is newcomer else
                         sorted(heard) == sorted(lines))
            right.append(sorted(line[8:-1].split(b", ")) == sorted(present))
        mute.close()
        leaver = newcomer
        if dropped:
            rounds.append(_rounds(server, mark, [("close", fd), ("close", gone)], newcomer))
            reasons.append(dropped[0]["reason"])
        else:
            for client in (speaker, listener, newcomer):
                client.recv_line()
        if len(rounds) == 5:
            break
    return {"all_right": all(right), "dropped": reasons,
            "events_in_the_round_of_the_accept": _early(server) if run.variant.stage > 2 else None,
            "rounds_that_it_took": Counter(rounds).most_common(1)[0][0] if rounds else None}


def _name_in(hello):
    """guest-3 of "* you are guest-3, here: ..."."""
    words = hello.split()
    return words[3].strip(b",") if len(words) > 3 else b""


def _talk_until(server, speaker, hearers, mute, line, size, limit):
    """The speaker talks until some `limit` bytes wait for the mute client.

    What was said since its last send, which was a short one, waits; that send may be narrated a
    moment after the others have heard the line, so this is right but for a line or two.
    """
    mark, waiting, alive, fd = server.mark(), 0, False, server.accepted(mute)["fd"]
    for _ in range(16 * MEBIBYTE // size):
        if waiting > limit:
            return
        speaker.send(line)
        for client in hearers:
            client.recv_line()
        sends = server.all("send", after=mark, fd=fd)
        mark = len(server.events)
        if sends:
            waiting = sends[-1].get("left", 0)
            if waiting and not alive:
                mute.send(b"\n")      # any sign of life lets the kernel take more: now, not later
                alive = True
        elif waiting:
            waiting += size


def _rounds(server, mark, closes, newcomer):
    """In how many rounds that happened; None where rounds are not narrated."""
    found = {id(server.wait_for(verb, after=mark, fd=fd)) for verb, fd in closes}
    found.add(id(server.accepted(newcomer)))
    rounds, number = set(), 0
    for event in server.events[mark:]:
        number += event.verb == "wait"
        if id(event) in found:
            rounds.add(number)
    return len(rounds) if number else None


@scenario("Clients leave and others come in the same instant, 100 times: does anybody get what "
          "was meant for the dead?", services=("echo", "chat"), not_for=ALONE, expect={
    "all": {"wrong": [], "numbers_handed_out_again": at_least(300),
            "events_in_the_round_of_the_accept": 0, "calls_in_vain": 0},
    "2": {"events_in_the_round_of_the_accept": None, "calls_in_vain": anything}})
def events_for_the_dead(run):
    server = run.server
    echo = run.crowd(6, "echo")
    echo.exchange(lambda i: b"hello\n")
    room = []
    for _ in range(5):
        room.append(_Member(run))
        for member in room[:-1]:
            member.client.recv_line()
    wrong = []
    for i in range(100):
        said, news = [], []            # by whom, what the room hears
        with server.paused():
            actions = (["echo leaves"] * 2 + ["echo comes"] * 2 + ["echo speaks"] +
                       ["chat leaves"] * 2 + ["chat comes"] * 2 + ["chat speaks"])
            run.random.shuffle(actions)
            asking, joining = [], []
            old_echo, old_room = list(echo), list(room)
            leaving = run.random.sample(old_room[1:], 2)
            gone = []
            for n, action in enumerate(actions):
                if action == "echo leaves":
                    client = echo.pop(run.random.randrange(len(echo)))
                    while client not in old_echo or client in [c for c, _ in asking]:
                        echo.append(client)
                        client = echo.pop(run.random.randrange(len(echo)))
                    client.send(b"of the dead %d.%d" % (i, n))
                    client.reset() if run.random.random() < 0.5 else client.close()
                elif action == "echo comes":
                    client = run.connect("echo")
                    echo.append(client)
                    asking.append((client, b"newcomer %d.%d" % (i, n)))
                    client.send(asking[-1][1])
                elif action == "echo speaks":
                    client = run.random.choice([c for c in echo if c in old_echo and
                                                c not in [one for one, _ in asking]])
                    asking.append((client, b"old one %d.%d" % (i, n)))
                    client.send(asking[-1][1])
                elif action == "chat leaves":
                    member = leaving[len(gone)]
                    gone.append(member)
                    room.remove(member)
                    news.append((None, b"* " + member.name + b" leaves\n"))
                    if run.random.random() < 0.5:
                        member.client.reset()
                    else:
                        member.client.close()
                elif action == "chat comes":
                    client = run.connect("chat")
                    joining.append((client, b"I am new %d.%d" % (i, n)))
                    client.send(joining[-1][1] + b"\n")
                else:
                    member = run.random.choice([m for m in old_room if m not in leaving])
                    said.append((member, b"I stay %d.%d" % (i, n)))
                    member.client.send(said[-1][1] + b"\n")
        for client, text in asking:
            back = client.recv(len(text))
            if back != text:
                wrong.append([text.decode(), back.decode("latin-1")])
        stayed = list(room)
        for client, text in joining:
            member = _Member(run, client)
            room.append(member)
            said.append((member, text))
            news.append((None, b"* " + member.name + b" joins\n"))
        news += [(member, member.name + b": " + text + b"\n") for member, text in said]
        for member in stayed:
            right = sorted(line for who, line in news if who is not member)
            heard = sorted(member.client.recv_lines(len(right)))
            if heard != right:
                wrong.append([line.decode("latin-1") for line in heard])
        for member in room:            # nothing behind that, and no stranger in the room
            member.client.send(b"/who\n")
            *heard, line = member.client.recv_lines_until(b"* here: ")
            for text in heard:
                if member in stayed or text not in [t for who, t in news if who is not member]:
                    wrong.append([member.name.decode(), text.decode("latin-1")])
            if sorted(line[8:-1].split(b", ")) != sorted(one.name for one in room):
                wrong.append([member.name.decode(), line.decode("latin-1")])
    numbers = [event["fd"] for event in server.all("accept", peer=bool)]
    return {"wrong": wrong[:5], "numbers_handed_out_again": len(numbers) - len(set(numbers)),
            "events_in_the_round_of_the_accept": _early(server) if run.variant.stage > 2 else None,
            "calls_in_vain": server.stats()["would_block"]}


class _Member:
    """Somebody in the chat, and the name that the server gave."""

    def __init__(self, run, client=None):
        self.client = client or run.connect("chat")
        self.name = _name_in(self.client.recv_line())


def _early(server):
    """Reads from a client in the very round in which it was accepted: it cannot have been ready."""
    count, new = 0, set()
    for event in server.events:
        if event.verb == "wait":
            new.clear()
        elif event.verb == "accept" and "peer" in event.fields:
            new.add(event["fd"])
        elif event.verb in ("recv", "urgent") and event["fd"] in new:
            count += 1
    return count
