"""The rungs, in the order in which a student gets them green.

A rung drives clients, and fails with what should have come and what came (Exam.want and others).
Beside it stand the words for a server that fails: what may be the cause, most likely first; where
to read on; which bug of the gallery is the same mistake. It asks nothing of a server but its
service: no narration, no options, no exit status.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from typing import Callable, Mapping, Sequence

from tests.harness import MEBIBYTE, SMALL, Client
from tests.ladder.exam import Exam, readable
from tests.ladder.examined import Unseen

HIDDEN = 6 * MEBIBYTE                      # more than the kernel keeps of answers (tcp_wmem)
MUCH = 64 * MEBIBYTE                       # more than all kernels and servers should keep
GROWN = 32 * MEBIBYTE                      # more than that, and a server keeps all that it gets
ALL = ("echo", "greet", "chat")


@dataclass(frozen=True)
class Rung:
    name: str
    title: str
    play: Callable[[Exam], None]
    causes: Sequence[str]
    read: str                              # a section or a row of NOTES.md
    bug: str                               # of the gallery
    services: Sequence[str]
    not_for: Mapping[int, str]             # stages that cannot pass it, and why that is right
    started: bool                          # only for one that we have started ourselves


RUNGS: list[Rung] = []
BLOCKING = {1: "a blocking server has one client at a time: this is where it ends, and rightly"}
BUSY = {2: "a busy loop asks all the time: that is what it costs"}


def rung(title: str, *causes: str, read: str = "", bug: str = "", services: Sequence[str] = ALL,
         not_for: Mapping[int, str] = {}, started: bool = False) -> Callable:
    def register(play: Callable[[Exam], None]) -> Callable[[Exam], None]:
        RUNGS.append(Rung(play.__name__, title, play, causes, read, bug, services, not_for,
                          started))
        return play
    return register


@rung("it starts, and listens",
      "bind() or listen() was not called, or failed: print what errno says",
      "it listens on another port than the one it is given",
      read="Before the first stage")
def listens(exam: Exam) -> None:
    exam.alive("it listens")


@rung("one byte comes back",
      "recv() waits for more than there is: it returns as soon as there is one byte",
      "the answer is never sent: printf() and cout fill a buffer, send() does not",
      "it sends something else first: echo says nothing by itself",
      read="Stage 1: blocking", services=["echo"])
def one_byte(exam: Exam) -> None:
    a = exam.visitor()
    for byte in (b"x", b"y"):
        a.send(byte)
        exam.want(a, byte)
    if a.answered(0.05):
        exam.fail("nothing else comes", f"{a.name} got {readable(exam.take(a, 1))}")


@rung("a line comes back",
      "the answer is the line with ' good' behind it, and a newline",
      "the first bytes are the welcome: one line, with a newline",
      read="From the documents to the stages", services=["greet"])
def one_line(exam: Exam) -> None:
    a = exam.visitor()
    a.send(b"hello\n")
    exam.want(a, b"hello good\n")


@rung("what one member says, the other hears",
      "the line is sent to who said it, not to the others",
      "each member is to be told its name in a line of its own when it comes",
      read="From the documents to the stages", services=["chat"], not_for=BLOCKING)
def two_members(exam: Exam) -> None:
    a, b = exam.visitor(), exam.visitor()
    exam.served(a, hearer=b)
    exam.served(b, hearer=a)


@rung("a message comes back whole: 1 byte, 64 KiB, 8 MiB",
      "send() takes a part and says how much: the rest is still to be sent",
      "bytes were handled as text: a NUL ends a C string, and not every byte is a letter",
      "the answer is tied to what one recv() returned",
      read="the result of `send` is ignored", bug="short_send", services=["echo"])
def whole(exam: Exam) -> None:
    a = exam.visitor()
    for size in (1, 64 * 1024, 8 * MEBIBYTE):
        data = exam.random.randbytes(size)
        a._out = memoryview(data)
        exam.until([a], lambda c: len(c._in) >= size)
        came = a._take(min(size, len(a._in)))
        if came != data:
            exam.differs(a, data, came, f"A gets its {size:,} bytes back")


@rung("a client leaves, and the next is served",
      "recv() returns 0 when the client has ended: close it, and go back to accept()",
      "the server ends with its first client",
      read="a client that leaves is removed from the list, never closed", bug="leaked_descriptor")
def next_one(exam: Exam) -> None:
    for name in "ABCDEFGHIJ":
        exam.newcomer(name).close()


@rung("two clients at once",
      "it sleeps in recv() for A: while it does, nobody else is accepted or answered",
      "a socket is blocking that should not be",
      read="Stage 1: blocking", bug="blocking_client", services=["echo", "greet"], not_for=BLOCKING)
def two(exam: Exam) -> None:
    a = exam.visitor()
    exam.served(a, "A is served")
    b = exam.visitor()
    exam.served(b, "B is served while A is there")
    exam.served(a, "A is served again")


@rung("a client that says nothing keeps nobody waiting",
      "after accept() it sleeps in recv() for the newcomer, who has not said anything yet",
      "only the first ready socket of a round is served",
      read="Stage 1: blocking", bug="blocking_listener", not_for=BLOCKING)
def silent(exam: Exam) -> None:
    for _ in range(3):
        exam.visitor() if exam.service != "echo" else exam.connect()
    asks = exam.visitor("Z")
    exam.served(asks, "Z is served beside three silent ones",
                exam.visitor("Y") if exam.service == "chat" else None)


@rung("many small sends, and one big one: one recv() is not one message",
      "what one recv() returns is taken for one message: it may be half of one, or three",
      "what is left of a line is lost, or is put before the wrong one",
      read="Is one `recv` one message?", bug="recv_is_message", services=["echo", "greet"])
def pieces(exam: Exam) -> None:
    a = exam.visitor()
    words = [b"%d " % i * (i % 7 + 1) for i in range(500)] + [b"x" * 100_000]
    if exam.service == "echo":
        for word in words:
            a.send(word)
        return exam.want(a, b"".join(words), "A gets all of it back, in order")
    _in_pieces(a)
    exam.want(a, b"hello good\nworld good\nand good\nmore good\n")


def _in_pieces(client: Client) -> None:
    for piece in (b"hel", b"lo\nwor", b"ld\nand\nmore", b"\n"):
        client.send(piece)
        time.sleep(0.02)                   # so that each comes by itself


@rung("lines that come in pieces are heard whole: one recv() is not one message",
      "what one recv() returns is passed on: it may be half of a line, or three",
      "what is left of a line is lost, or is put before another member's",
      read="Is one `recv` one message?", bug="recv_is_message", services=["chat"],
      not_for=BLOCKING)
def relayed(exam: Exam) -> None:
    a, b = exam.visitor(), exam.visitor()
    _in_pieces(a)
    for wanted in (b"hello\n", b"world\n", b"and\n", b"more\n"):
        if not (heard := exam.line(b, readable(wanted))).endswith(wanted):
            exam.fail(f"B hears {readable(wanted)}", f"it heard {readable(heard)}")


@rung("a descriptor for each client, and none left behind",
      "the client is taken off the list, and close() is not called",
      "close() is called on one path out, and not on the others",
      read="a client that leaves is removed from the list, never closed", bug="leaked_descriptor")
def descriptors(exam: Exam) -> None:
    before = exam.server.sockets()
    if not before:
        raise Unseen("its descriptors cannot be seen")
    for _ in range(20):
        exam.newcomer("A").close()
    after = exam.settled(exam.server.sockets, lambda now: now <= before)
    if after > before:
        exam.fail("when all clients have left, the server has as many sockets as before",
                  f"it had {before}, and has {after}")


@rung("a reader that is slow gets every byte",
      "send() took a part, and the rest was dropped",
      "sendall() on a non-blocking socket sends a part, and then fails",
      read="the result of `send` is ignored", bug="short_send", services=["echo", "greet"])
def slow(exam: Exam) -> None:
    a = exam.visitor(**SMALL)
    data = exam.random.randbytes(HIDDEN) if exam.service == "echo" else b"a line\n" * 600_000
    answer = data if exam.service == "echo" else data.replace(b"\n", b" good\n")
    came = exam.late(a, data, len(answer))
    if came != answer:
        exam.differs(a, answer, came, f"A, which reads slowly, gets all {len(answer):,} bytes")


@rung("a half-close is answered in full",
      "recv() returned 0, and the connection was closed at once: answers were still to be sent",
      "the end of the input is not noticed: recv() returns 0, and that is all",
      read="`recv` said 0: is the connection over?", bug="half_close", services=["echo", "greet"])
def half_close(exam: Exam) -> None:
    # How much has to be sent until some of the answer waits in the server, and not in the kernel,
    # depends on the windows. So: several clients, each sends more than the one before; the last one
    # more than a send queue ever holds (4 MiB: tcp_wmem in tcp(7)).
    crowd = exam.crowd(14, **SMALL)
    lengths = {client: 10_000 * i for i, client in enumerate(crowd, 1)}
    lengths[crowd[-1]] = 700_000
    for client, length in lengths.items():
        client._out = memoryview(b"a line\n" * length)
    open_ones = list(lengths)

    def half_close() -> None:
        for client in [client for client in open_ones if not client._out]:
            client.half_close()
            open_ones.remove(client)

    exam.stuff(open_ones)
    half_close()
    exam.quiet()                           # until the server knows that they have ended
    for _ in exam.sips(list(lengths)):
        half_close()
        if all(client.ended for client in lengths):
            break
    for client, length in lengths.items():
        answer = (b"a line\n" if exam.service == "echo" else b"a line good\n") * length
        what = f"{client.name} gets {len(answer):,} bytes, and then the end"
        came = exam.end(client, what)
        if exam.service == "greet":
            came = came.partition(b"\n")[2]
        if came != answer or client.ended != "eof":
            exam.differs(client, answer, came, what)


@rung("q ends the conversation",
      "the goodbye is a line, and the connection is closed behind it",
      read="From the documents to the stages", services=["greet"])
def quits(exam: Exam) -> None:
    a = exam.visitor()
    a.send(b"q\n")
    exam.line(a, "a line of goodbye")
    exam.end(a, "the server ends A's connection after q")
    b = exam.visitor("B", **SMALL)
    b.send(b"a line\n" * 20_000 + b"q\n")
    for _ in range(3):                     # bytes that come after a close() draw a reset
        time.sleep(0.05)
        b.send_some(b"not read any more\n")
    exam.want(b, b"a line good\n" * 20_000, "B gets all its answers, though it has sent more")
    exam.line(b, "a line of goodbye")


@rung("a reset ends that client only",
      "recv() failed with ECONNRESET, and that ended the server",
      "send() to a client that has gone raises SIGPIPE, which ends the process: ignore it, and "
      "handle EPIPE",
      "in Python: ConnectionResetError or BrokenPipeError was not caught",
      read="ECONNRESET or EPIPE not handled, SIGPIPE not ignored", bug="sigpipe", not_for={})
def reset(exam: Exam) -> None:
    def ends_and_resets() -> None:
        d = exam.connect("D")
        d.send_some(b"hello\n" * 8_000)    # so little that its end has come before the reset:
        d.half_close()                     # then what is sent to it fails with EPIPE
        d.reset()

    for _ in range(60):
        exam.connect("B").reset()          # maybe before it is accepted
        c = exam.visitor("C")
        c.send_some(b"hello\n" * 10_000)   # it is gone before it has read the answers
        c.reset()
        ends_and_resets()
    time.sleep(0.1)
    exam.alive("the server is still there when B, C and D have left")
    exam.newcomer("E").close()
    with exam.server.paused():             # or it may answer each D before its reset
        for _ in range(3):
            ends_and_resets()
    time.sleep(0.1)
    exam.alive("the server is still there when three more have left")
    exam.newcomer("F")


@rung("nothing to do costs no CPU",
      "a wait that returns at once: writing is watched for though nothing is to be sent",
      "a wait with a time limit of 0, or none at all: the loop goes round and round",
      "a client that has left is still watched: it stays readable",
      read="always watched for writing", bug="always_writable", not_for=BUSY)
def idle(exam: Exam) -> None:
    exam.newcomer("A").close()
    exam.sleeps_while("nobody is there any more")
    exam.newcomer("B")
    exam.sleeps_while("B is there and says nothing")


@rung("a reader that never reads: the others are served, memory stays",
      "send() sleeps until that one reads: everybody else waits for it",
      "what it does not take is kept without a limit: stop reading from it while much waits",
      "while it is not read it is still watched for reading: the wait returns at once",
      read="Does a slow client hurt only itself?", bug="send_all", services=["echo", "greet"],
      not_for=BLOCKING)
def mute(exam: Exam) -> None:
    mute = exam.visitor("M", **SMALL)
    other = exam.visitor("A")
    exam.served(other, "A is served")
    before = exam.server.memory()
    mute._out = memoryview(b"a line\n" * (MUCH // 7))
    exam.stuff([mute])
    exam.served(other, "A is served while M reads nothing")
    if exam.sleeps:
        exam.sleeps_while("M reads nothing, and nobody else says anything")
    grown = exam.server.memory() - before
    if grown > GROWN:
        exam.fail("the server's memory stays about as it was",
                  f"M sent {mute.sent >> 20} MiB, and the server has grown by {grown >> 20} MiB")


@rung("a member that never reads: the room goes on",
      "send() sleeps until that one reads: the whole room waits for it",
      "what it does not take is kept without a limit: let it go when too much waits for it",
      read="Does a slow client hurt only itself?", bug="slow_member", services=["chat"],
      not_for=BLOCKING)
def mute_member(exam: Exam) -> None:
    exam.visitor("M", **SMALL)
    a, b = exam.visitor("A"), exam.visitor("B")
    line, before = b"x" * 4000 + b"\n", exam.server.memory()
    for _ in range(11_000):                # 42 MiB in all, a line at a time
        a.send(line)
        while not (heard := exam.line(b, "what A says, while M reads nothing")).endswith(line):
            if heard.strip(b"\n").endswith(b"x"):
                exam.fail("B hears each line of A whole", f"it heard {readable(heard)}")
    grown = exam.server.memory() - before
    if grown > GROWN:
        exam.fail("the server's memory stays about as it was", f"it has grown by {grown >> 20} MiB")


@rung("a member leaves: the others hear no more than that",
      "recv() returned 0: that member is gone, and is not to be read any more",
      "an empty line is passed on, again and again",
      read="a member who leaves is not noticed", bug="leaving_unnoticed", services=["chat"],
      not_for=BLOCKING)
def member_leaves(exam: Exam) -> None:
    a, b, c = exam.visitor(), exam.visitor(), exam.visitor()
    exam.served(a, hearer=b)
    c.close()
    time.sleep(0.2)                        # a window in which nobody says anything
    exam.until([b], lambda _: True)
    b.answered(0)
    b._pull(0.0) if b.answered(0) else None
    lines = bytes(b._in).split(b"\n")
    if len(lines) > 5:
        exam.fail("B hears at most that C leaves", f"it heard {len(lines) - 1:,} lines: "
                  + readable(bytes(b._in)))
    exam.served(a, hearer=b)


@rung("fifty clients at once, each its own bytes",
      "a buffer or a queue is shared between clients",
      "one of the list is skipped when another one is taken out of it",
      read="a list changed while it is walked", bug="erase_while_walking",
      services=["echo", "greet"], not_for=BLOCKING)
def fifty(exam: Exam) -> None:
    crowd = [exam.visitor(f"{i}") for i in range(50)]
    answers = {}
    for i, client in enumerate(crowd):
        words = b"%d says %s" % (i, b"y" * (7 * i))
        client._out = memoryview(words + b"\n")
        answers[client] = words + (b" good\n" if exam.service == "greet" else b"\n")
    exam.until(crowd, lambda c: not c._out and len(c._in) >= len(answers[c]))
    for client in crowd:
        came = client._take(len(client._in))
        if came != answers[client]:
            exam.differs(client, answers[client], came)


@rung("descriptors run out: it neither dies nor spins, and serves again",
      "accept() fails with EMFILE, and that ended the server",
      "the newcomer stays in the accept queue, the listener stays readable: do not watch it "
      "until a descriptor is free",
      read="Is a failing `accept` harmless?", bug="emfile_spin", not_for={}, started=True)
def full(exam: Exam) -> None:
    exam.server.few_descriptors(4)
    crowd = [exam.connect(f"{i}") for i in range(6)]    # a backlog of five is enough
    for client in crowd:
        client.send_some(b"hello\n")
    time.sleep(0.1)
    exam.alive("the server is still there when its descriptors have run out")
    if exam.sleeps:
        exam.sleeps_while("no descriptor is left")
    for client in crowd:
        client.half_close()
    exam.until(crowd, lambda client: bool(client.ended))   # in turn, if it has but one at a time
    for client in crowd:
        client.close()
    exam.alive("the server is still there when they have left")
    time.sleep(1.1)                        # it may try again once a second
    exam.newcomer("A", "it is served when all others have left")


@rung("Ctrl-C ends it",
      "the handler sets a flag, and the wait goes on: nothing wakes it",
      "SIGINT is ignored, or a thread or a child does not end",
      read="Does a flag set in the signal handler suffice?", bug="lost_signal", started=True)
def ctrl_c(exam: Exam) -> None:
    exam.newcomer("A")                     # served, or it may not be ready for signals yet
    exam.server.signal(signal.SIGINT)
    if not exam.settled(exam.server.ended, bool):
        exam.fail("it ends", "it is still there after 2 s")
