"""Clients that do not read, or slowly: who waits, who pays, and who has to go?"""

import socket
import time

from tests.harness import MEBIBYTE, SANITIZED, SMALL, at_most, between, memory_grew, one_of
from tests.scenarios import scenario

ALONE = {"1": "the second client is not answered while the first is there"}


@scenario("64 MiB to echo from a client that reads nothing: who pays?", expect={
    "all": {"kept_back": True, "others_served_meanwhile": 5,
            # The sanitizers keep memory for a while that was given back.
            "memory_grown_mib": at_most(40 if SANITIZED else 2),
            "waits": between(0, 2),    # SIGUSR1's
            "waits_that_it_ended": 0, "asleep_in_send": False,
            "all_back_when_it_reads": True},
    "1": {"others_served_meanwhile": 0, "asleep_in_send": True}})
def mute_reader(run):
    data = (run.random.randbytes(MEBIBYTE + 1) * 64)[:64 * MEBIBYTE]
    server = run.server
    mute = run.connect(name="mute")
    mute.exchange(b"hello\n")
    others = run.crowd(10)
    fd, memory = server.accepted(mute)["fd"], server.rss()
    sent = run.fill(mute, data)
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
          not_for={"1-2": "nothing is watched: they have no wait"}, expect={
    "all": {
        "at_first": "r", "while_mute": "w", "when_it_has_read": "r", "kept_back": True,
        "waits_for_it": between(256 * 1024, 256 * 1024 + 16 * 1024), "all_back": True}})
def mute_reader_watched(run):
    data = (run.random.randbytes(MEBIBYTE + 1) * 32)[:32 * MEBIBYTE]
    server = run.start(args=["-v"])
    mute = run.connect(name="mute", **SMALL)
    mute.exchange(b"hello\n")
    fd = server.accepted(mute)["fd"]

    def watched_for():
        return server.all("watch", fd=fd)[-1]["for"].replace("x", "")   # urgent data aside

    at_first = watched_for()
    sent = run.fill(mute, data)
    while_mute, taken = watched_for(), server.stats()
    back = mute.recv(sent)
    run.until(lambda: watched_for() == "r")
    return {"at_first": at_first, "while_mute": while_mute, "when_it_has_read": watched_for(),
            "kept_back": sent < len(data), "waits_for_it": taken["bytes_in"] - taken["bytes_out"],
            "all_back": back == data[:sent]}


@scenario("Through windows of a few hundred bytes to some KiB: does all come back?", expect={
    "all": {window: [True, "eof"] for window in (
        "2304 536", "4096 536", "4096 1400", "8192 1400", "65536 1400")}})
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
          services=("chat",), not_for=ALONE, expect={
    "all": {
        "dropped": ["slow_reader"], "others_heard_all": True,
        "others_heard_besides": ["* guest-1 leaves\n", "guest-2: end\n"],
        "speaker_heard": "* guest-1 leaves\n",
        "memory_grown_mib": at_most(40 if SANITIZED else 2),
        "mute_ended": one_of("eof", "reset"), "mute_got_a_part": True}})
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
    heard += listener.recv_lines_until(b"guest-2: end\n")
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


@scenario("A client always leaves some of its answers unread: does its outbox grow and grow?",
          not_for=ALONE, expect={
    "all": {"same": True, "was_never_empty": True, "memory_grew": memory_grew}})
def outbox_never_empty(run):
    server, size = run.server, 32 * 1024
    a = run.connect(**SMALL)
    sent, got = bytearray(), bytearray()
    with server.socket_of(server.accepted(a)["fd"]) as theirs:  # or the kernel takes ever more
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
