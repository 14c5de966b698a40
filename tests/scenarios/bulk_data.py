"""Much data: nothing may be lost, doubled or mixed up, and nobody else has to wait."""

import threading
from collections import Counter
from hashlib import sha256

from tests.harness import MEBIBYTE, at_least, at_most
from tests.scenarios import scenario

ALONE = {"1": "the second client is not answered while the first is there"}


def _same(one, other):
    return sha256(one).hexdigest() == sha256(other).hexdigest()


@scenario("8 MiB through echo, read while they are sent: do they come back the same?", expect={
    "all": {"same": True, "bytes_in": 8 << 20, "bytes_out": 8 << 20}})
def echo_8_mib(run):
    data = run.random.randbytes(8 * MEBIBYTE)
    a = run.connect()
    back = a.exchange(data)
    stats = run.server.stats()
    return {"same": _same(data, back), "bytes_in": stats["bytes_in"],
            "bytes_out": stats["bytes_out"]}


def _more_than_the_kernel_holds():
    """Bytes that the server's kernel cannot take off its hands while the client reads nothing."""
    try:
        with open("/proc/sys/net/ipv4/tcp_wmem") as limits:
            return int(limits.read().split()[2]) + MEBIBYTE
    except OSError:
        return 8 * MEBIBYTE


@scenario("Some MiB each way for a client that reads only when it can send no more", expect={
    "all": {"same": True, "short_sends": at_least(1)},
    "1": {"short_sends": 0}})  # a blocking send() sleeps until all is taken
def echo_late_reader(run):
    data = run.random.randbytes(_more_than_the_kernel_holds())
    a = run.connect(rcvbuf=32 * 1024, mss=1400)
    back = a.exchange(data, late=True)
    sends = run.server.all("send")
    return {"same": _same(data, back), "short_sends": sum("left" in send.fields for send in sends)}


@scenario("Half-close with 1 MiB in flight: does all of it come back before the end?", expect={
    "all": {"same": True, "ended": "eof", "reason": "eof"}})
def half_close(run):
    data = run.random.randbytes(MEBIBYTE)
    a = run.connect()
    back = a.exchange(data, half_close=True)
    return {"same": _same(data, back), "ended": a.ended, "reason": run.server.closed(a)["reason"]}


@scenario("Half-close while the answer is still queued: does all of it come before the end?",
          expect={
    "all": {"same": True, "ended": "eof", "reason": "eof",
            "queued_when_the_half_close_was_seen": True},
    "1": {"queued_when_the_half_close_was_seen": False}})  # it is asleep in send()
def half_close_queued(run):
    data = run.random.randbytes(_more_than_the_kernel_holds())
    a = run.connect(rcvbuf=16 * 1024, mss=1400)
    sent = 0

    def short():
        return [event for event in run.server.all("send") if "left" in event.fields]

    # Reading nothing, until the kernel no longer takes the whole answer from the server: what the
    # server then has queued is less than its limit, so it still reads, and finds the half-close.
    while sent < len(data) and not short():
        sent += a.send(data[sent:sent + 16 * 1024])
        if not run.until(lambda: short() or sum(
                event["bytes"] for event in run.server.all("recv")) == sent):
            break                                    # asleep: stage 1, in send
    a.half_close()
    if short():
        run.server.wait_for("recv", bytes=0)
    back = a.recv_until_eof()
    left = [event for event in run.server.events if "left" in event.fields]
    ends = run.server.all("recv", bytes=0)
    return {"same": _same(data[:sent], back), "ended": a.ended,
            "reason": run.server.closed(a)["reason"],
            "queued_when_the_half_close_was_seen": bool(left) and run.server.events.index(
                left[0]) < run.server.events.index(ends[0])}


@scenario("10,000 lines to greet, sent without waiting for an answer, then half-close",
          services=("greet",), expect={
    "all": {"same": True, "ended": "eof", "welcomed": True}})
def greet_pipelined(run):
    lines = [f"line {i} {'x' * (i % 50)}" for i in range(10000)]
    a = run.connect(rcvbuf=32 * 1024, mss=1400)
    welcome = a.recv_line()
    back = a.exchange("".join(line + "\n" for line in lines).encode(), late=True, half_close=True)
    right = "".join(line + " good\n" for line in lines).encode()
    return {"same": _same(back, right), "ended": a.ended, "welcomed": bool(welcome)}


@scenario("Is a client answered while another sends and receives megabytes?",
          not_for={"1": "the second client is not answered while the first is there"}, expect={
    "all": {"right_answers": 20, "same": True}})
def beside_bulk(run):
    data = run.random.randbytes(4 * MEBIBYTE)
    bulk, a = run.crowd(2)
    sent = right = 0
    for i in range(20):
        sent += bulk.send_some(data[sent:])          # all that the kernel takes
        message = f"{i}\n".encode()
        right += a.exchange(message) == message
    back = bulk.exchange(data[sent:], len(data))
    return {"right_answers": right, "same": _same(data, back)}


@scenario("One client sends without pause: do ten others get their turn?", not_for=ALONE, expect={
    "all": {"right_answers": 200, "flooded": True, "most_reads_of_one_client_a_round": 1,
            "longest_read": at_most(16384)},
    "2": {"most_reads_of_one_client_a_round": None}})
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
