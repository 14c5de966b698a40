"""Rough clients: they break off, do not read, do not stop, or make use of TCP's odd corners."""

import signal
import threading
import time
from collections import Counter
from contextlib import contextmanager

from harness import DEADLINE
from scenarios import scenario

MEBIBYTE = 1 << 20
OUTBOX_LIMIT = 256 * 1024              # so much may wait for one peer, say the servers
SMALL = {"rcvbuf": 16 * 1024, "mss": 1400}   # a window that does not hide what is queued
ALONE = {"1": "the second client is not answered while the first is there"}


@contextmanager
def standing_still(server):
    """What happens meanwhile has all happened when the server goes on."""
    server.send_signal(signal.SIGSTOP)
    server.wait_until(lambda: not server.ended() and server.state() == "T", "stopped by SIGSTOP")
    try:
        yield
    finally:
        server.send_signal(signal.SIGCONT)


def _served(run, service="echo"):
    """Whether somebody new is served, from the first word to the last."""
    client = run.connect(service)
    back = client.exchange(b"hello\n", half_close=True)
    client.close()
    return back == b"hello\n"


def _fill(run, client, data):
    """Sends until neither the kernel nor the server takes more; how many bytes went out.

    No signal for who can sleep: it would wake a server that sleeps where it should not.
    """
    server, sent, refused, taken = run.server, 0, 0, -1

    def more():
        nonlocal sent
        count = client.send_some(data[sent:sent + MEBIBYTE])
        sent += count
        return count

    while sent < len(data) and refused < 3:
        if run.variant.stage == 2:     # never asleep; each stats line is printed in another round
            before, taken = taken, server.stats()["bytes_in"]
            refused = 0 if more() or taken != before else refused + 1
        elif not run.until(more, 0.1):
            break
    return sent


# --- those who break off --------------------------------------------------------------------

@scenario("Clients reset 200 times, in four ways: does it go on serving?")
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
          services=("greet",))
def vanishes(run):
    server = run.server
    question = b"a line\n" * 7000      # three reads: the answer to the first meets a reset
    for i in range(20):
        mark = server.mark()
        a = run.connect()
        a.recv_line()
        with standing_still(server):
            a.send(question)
            a.close()
        server.wait_for("close", after=mark)
    b = run.connect()
    b.recv_line()
    reasons = [event["reason"] for event in server.all("close")]
    return {"closed": len(reasons), "reasons": sorted(set(reasons)),
            "serves": b.exchange(b"hello\n", 11).decode()}


@scenario("Clients reset while they are still in the backlog: are the others served?")
def reset_in_backlog(run):
    server, right = run.server, 0
    for i in range(10):
        mark = server.mark()
        with standing_still(server):
            crowd = run.crowd(20)
            crowd.send(lambda n: b"%d of %d" % (n, i))
            for n in range(0, 20, 2):
                crowd[n].reset() if n % 4 else crowd[n].close()
            stay = crowd[1::2]
            for client in stay:        # ... or the first stage would serve the first one for ever
                client.half_close()
        right += sum(client.recv_until_eof() == b"%d of %d" % (n, i)
                     for n, client in zip(range(1, 20, 2), stay))
        server.wait_until(lambda: len(server.all("close", after=mark)) == 20, "20 closed")
    reasons = {event["reason"] for event in server.all("close")}
    return {"right_answers": right, "reasons": sorted(reasons), "served": _served(run)}


@scenario("A client resets while it is not being read: is it closed, or does the server spin?")
def reset_unread(run):
    server, result, fits = run.server, {}, 0
    for case in "outbox full", "half-closed":
        mark = server.mark()           # the second one may get the first one's number
        a = run.connect(**SMALL)
        if case == "outbox full":
            _fill(run, a, bytes(8 * MEBIBYTE))
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


# --- those who do not read ------------------------------------------------------------------

@scenario("64 MiB to echo from a client that reads nothing: who pays?")
def mute_reader(run):
    data = (run.random.randbytes(MEBIBYTE + 1) * 64)[:64 * MEBIBYTE]
    server = run.server
    mute = run.connect(name="mute")
    mute.exchange(b"hello\n")
    others = run.crowd(10)
    fd, memory = server.accepted(mute)["fd"], server.rss()
    sent = _fill(run, mute, data)
    mark, rounds = server.mark(), 0
    while rounds < 5:
        others.send(lambda i: b"%d asks\n" % i)
        if run.answers(others) < len(others):
            break
        rounds += others.recv(lambda i: 7) == [b"%d asks\n" % i for i in range(10)]
    before = server.stats()
    time.sleep(0.2)                    # a window to look through
    waits = server.stats()["waits"] - before["waits"]
    woken = [event for event in server.all("wait", after=mark) if fd in event.get("on", {})]
    slept = max((event.get("slept", 0) for event in server.all("send")), default=0)
    grown = server.rss() - memory
    back = mute.exchange(data[sent:], len(data))
    return {
        "kept_back": sent < len(data),
        "others_served_meanwhile": rounds,
        "memory_grown_mib": round(grown / MEBIBYTE, 3),
        "waits": waits,
        "waits_that_it_ended": len(woken),
        "asleep_in_send": slept > 0.1,
        "all_back_when_it_reads": back == data,
    }


@scenario("What is a client watched for that does not read, and when it reads again?",
          not_for={"1-2": "nothing is watched: they have no wait"})
def mute_reader_watched(run):
    data = (run.random.randbytes(MEBIBYTE + 1) * 32)[:32 * MEBIBYTE]
    server = run.start(args=["-v"])
    mute = run.connect(name="mute", **SMALL)
    mute.exchange(b"hello\n")
    fd = server.accepted(mute)["fd"]

    def watched_for():
        return server.all("watch", fd=fd)[-1]["for"].replace("x", "")   # urgent data aside

    at_first = watched_for()
    sent = _fill(run, mute, data)
    while_mute, taken = watched_for(), server.stats()
    back = mute.recv(sent)
    run.until(lambda: watched_for() == "r")
    return {"at_first": at_first, "while_mute": while_mute, "when_it_has_read": watched_for(),
            "kept_back": sent < len(data), "waits_for_it": taken["bytes_in"] - taken["bytes_out"],
            "all_back": back == data[:sent]}


@scenario("A signal while a client reads nothing: does the server stop?")
def mute_reader_stop(run):
    result = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        server = run.start()
        mute = run.connect(name="mute")
        mute.exchange(b"hello\n")
        _fill(run, mute, bytes(32 * MEBIBYTE))
        run.connect()                  # somebody waits, too
        stopped = server.stop(number)
        result[signal.Signals(number).name] = {
            "status": stopped.status, "within_a_second": stopped.seconds < 1,
            "something_waited": stopped.stats["bytes_in"] > stopped.stats["bytes_out"],
            "reasons": sorted({event["reason"] for event in server.all("close")})}
    return result


@scenario("Through windows of a few hundred bytes to some KiB: does all come back?")
def small_windows(run):
    result = {}
    for rcvbuf, mss, size in ((2304, 536, 64), (4096, 536, 128), (4096, 1400, 128),
                              (8192, 1400, 256), (65536, 1400, 512)):
        data = run.random.randbytes(size * 1024)
        whole = run.connect(rcvbuf=rcvbuf, mss=mss)
        back = whole.exchange(data, late=True, half_close=True)
        result[f"{rcvbuf} {mss}"] = [back == data, whole.ended]
        whole.close()
    return result


@scenario("A chat member does not read while the others talk: who has to wait, who has to go?",
          services=("chat",), not_for=ALONE)
def mute_member(run):
    server = run.server
    mute = run.connect(name="mute", **SMALL)
    hello = mute.recv_line()
    speaker, listener = run.connect(), run.connect()
    speaker.recv_lines(2)
    listener.recv_line()
    fd, memory = server.accepted(mute)["fd"], server.rss()
    mark, heard, said = server.mark(), [], 0
    most = 16 * MEBIBYTE // 4000       # more than any kernel keeps for one that does not read
    while said < most and not (said % 20 == 0 and server.all("close", after=mark)):
        line = b"%06d " % said + b"x" * 3993
        speaker.send(line + b"\n")
        heard.append(listener.recv_line())       # each is heard before the next is said
        said += 1
    grown = server.rss() - memory
    speaker.send(b"end\n")
    heard += _heard_until(listener, b"guest-2: end\n")
    right = [b"guest-2: %06d " % i + b"x" * 3993 + b"\n" for i in range(said)]
    texts = [line for line in heard[:-1] if line.startswith(b"guest-2: 0")]
    got = hello + mute.recv_until_eof()
    stream = (b"* you are guest-1, alone here\n* guest-2 joins\n* guest-3 joins\n"
              + b"".join(right))
    return {
        "dropped": [event["reason"] for event in server.all("close", fd=fd, after=mark)],
        "others_heard_all": texts == right,
        "others_heard_besides": [line.decode() for line in heard if line not in set(texts)],
        "speaker_heard": speaker.recv_line().decode(),
        "memory_grown_mib": round(grown / MEBIBYTE, 3),
        "mute_ended": mute.ended,
        "mute_got_a_part": stream.startswith(got) and 0 < len(got) < len(stream),
    }


@scenario("Five hundred members leave a chat at once: what does it cost to tell nobody?",
          services=("chat",), not_for=ALONE)
def room_empties(run):
    count = 500
    server = run.start(args=["-q"])
    members = run.crowd(count)
    last = run.connect()
    last.recv_line(3 * DEADLINE)                   # all before it are in, and everybody knows it
    before = server.most_rss()
    with standing_still(server):
        for member in (*members, last):
            member.close()
    server.wait_until(lambda: server.sockets() == 1, "all closed")
    stats = server.stats()
    return {"members": stats["max_clients"] - 1, "closed": count - stats["clients"],
            "memory_grown_mib": round((server.most_rss() - before) / MEBIBYTE, 3)}


@scenario("In one round somebody joins the chat and speaks, one leaves, and one is dropped who has "
          "just spoken: who hears what?",
          services=("chat",), not_for=ALONE)
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
    much = [b"x\n"] * 512         # one read, and with that name before each too many for the mute one
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
        with standing_still(server):
            mark = server.mark()
            speaker.send(b"".join(much))
            leaver.close()
            newcomer = run.connect()             # may get the number of who is dropped: too soon?
            newcomer.send(b"hello\n")
            mute.send(b"too late\n")             # it is ready, and may be gone before its turn
        names[newcomer] = _name_in(newcomer.recv_line())
        server.wait_for("close", after=mark, fd=gone)
        server.wait_for("recv", after=mark, fd=server.accepted(newcomer)["fd"])
        server.stats()                           # in the next round: so that one is over
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
            *heard, line = _heard_until(client, b"* here: ")
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


def _heard_until(client, last):
    """Lines up to one that begins like that, or to the end of all."""
    lines = [client.recv_line()]
    while lines[-1] and not lines[-1].startswith(last):
        lines.append(client.recv_line())
    return lines


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


# --- those who do not stop ------------------------------------------------------------------

@scenario("One client sends without pause: do ten others get their turn?", not_for=ALONE)
def flooder(run):
    server = run.server
    flood, others = run.connect(name="flood"), run.crowd(10)
    others.exchange(lambda i: b"hello\n")
    over, flooded = threading.Event(), []

    def send_on():
        chunk, sent = bytes(256 * 1024), 0
        while not over.is_set():
            for call in (lambda: flood.sock.send(chunk), lambda: flood.sock.recv(1 << 20)):
                try:
                    done = call()
                except BlockingIOError:
                    continue
                except OSError:        # the server is gone
                    return
                sent += done if isinstance(done, int) else 0
            flooded[:] = [sent]

    thread = threading.Thread(target=send_on, daemon=True)
    mark = server.mark()
    thread.start()
    right = 0
    try:
        server.wait_until(lambda: flooded and flooded[0] > MEBIBYTE, "the flood")
        for i in range(20):
            back = others.exchange(lambda n: b"%d of %d\n" % (n, i))
            right += sum(back[n] == b"%d of %d\n" % (n, i) for n in range(10))
    finally:
        over.set()
        thread.join()
    most, reads = 0, Counter()
    server.read()
    for event in server.events[mark:]:
        if event.verb == "wait":
            reads.clear()
        elif event.verb == "recv":
            reads[event["fd"]] += 1
            most = max(most, reads[event["fd"]])
    return {"right_answers": right, "flooded": flooded[0] > MEBIBYTE,
            "most_reads_of_one_client_a_round": most if run.variant.stage > 2 else None,
            "longest_read": max(e["bytes"] for e in server.all("recv") if "bytes" in e.fields)}


# --- TCP's urgent data ----------------------------------------------------------------------

@scenario("Urgent data before, between and after ordinary bytes: is anything harmed?")
def urgent_data(run):
    server, result = run.server, {}

    def told(client, count):
        """Until that many urgent bytes are narrated, or the server sleeps without a word."""
        fd = server.accepted(client)["fd"]
        run.until(lambda: len(server.all("urgent", fd=fd)) >= count, 0.05,
                  time.sleep) if run.variant.stage > 2 else None

    a = run.connect()
    a.urgent(b"1")
    told(a, 1)
    a.send(b"first\n")
    result["before"] = a.recv_line().decode()
    a.urgent(b"2")
    told(a, 2)
    a.send(b"second\n")
    result["between"] = a.recv_line().decode()
    a.send(b"third\n")
    a.urgent(b"3")
    result["after"] = a.recv_line().decode()
    told(a, 3)
    before = server.stats()
    time.sleep(0.1)                    # a window to look through
    result["waits_then"] = server.stats()["waits"] - before["waits"]
    a.half_close()
    result["rest"], result["ended"] = a.recv_until_eof().decode(), a.ended
    result["narrated"] = [event["data"].decode() for event in server.all("urgent")]
    result["waits_for_urgent"] = sum("x" in "".join(event.get("on", {}).values())
                                     for event in server.all("wait"))
    a.close()

    b = run.connect()                  # all in one go, so that they are in the kernel together
    server.accepted(b)
    with standing_still(server):
        b.send(b"one ")
        b.urgent(b"!")
        b.send(b"two\n")
    result["amidst"] = b.recv_line().decode()
    b.close()
    return result


@scenario("Many urgent bytes in a row, among lines: do the lines come back whole?")
def urgent_in_a_row(run):
    server, right = run.server, 0
    a = run.connect()
    # Only the last one stands beside the stream; one that is overtaken before it was fetched
    # falls into it (or is lost). So what is not a digit is what has to come back.
    ordinary = str.maketrans("", "", "0123456789")
    for i in range(50):
        for n in range(run.random.randrange(1, 6)):
            a.urgent(b"%d" % n)
        a.send(b"a line that is whole\n")
        right += a.recv_line().decode().translate(ordinary) == "a line that is whole\n"
    before = server.stats()
    time.sleep(0.1)                    # a window to look through
    waits = server.stats()["waits"] - before["waits"]
    a.half_close()
    a.recv_until_eof()
    return {"whole": right, "ended": a.ended, "waits_then": waits,
            "narrated": bool(server.all("urgent"))}


# --- those who are gone ---------------------------------------------------------------------

@scenario("Clients leave and others come in the same instant, 100 times: does anybody get what "
          "was meant for the dead?", services=("echo", "chat"), not_for=ALONE)
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
        with standing_still(server):
            mark = server.mark()
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
            *heard, line = _heard_until(member.client, b"* here: ")
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
