"""The stories: what clients do, step by step; the same for every server.

A story is a generator: it does something, and yields what that was, in a sentence. Then it waits
until the server has done all that it will do. Clients read what they are sent when that has been
seen, all but those in `play.slow`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Iterator, Optional

from tests.harness import SMALL, Client, Run

ALL = "1 2 3 4 5 6"


@dataclass(frozen=True)
class Story:
    name: str
    title: str
    play: Callable[["Play"], Iterator[Any]]
    stages: str                            # whom it is played with, if nobody else is named
    service: str = "echo"
    nofile: int = 0                        # a limit on the server's descriptors
    differs: str = ""                      # the step at which a bug's picture is another

    @property
    def about(self) -> str:
        return " ".join((self.play.__doc__ or "").split())


class Play:
    """What a story is played with."""

    def __init__(self, run: Run, rest: Callable[[], Any], owed: Callable[[], int]) -> None:
        self.run, self.rest, self.owed = run, rest, owed
        self.slow: set[Client] = set()     # these read only when the story says so
        self.brief = False                 # what comes is told in one step

    def connect(self, **how: Any) -> Client:
        return self.run.connect(**how)

    def slow_reader(self) -> Client:
        """Its kernel has room for little; it reads nothing yet."""
        client = self.run.connect(**SMALL)
        self.slow.add(client)
        return client

    def stuff(self, client: Client) -> None:
        """It sends, and reads nothing, until the server's kernel has no room for its answers: at
        rest, bytes wait to be sent. (A send buffer grows: what did not fit may fit later.)"""
        for _ in range(64):
            client.send_some(bytes(64 * 1024))
            self.rest()
            if self.owed():
                return

    def paused(self) -> Any:
        """What happens within has all happened when the server goes on."""
        return self.run.server.paused()


STORIES: dict[str, Story] = {}


def story(title: str, stages: str = ALL, **more: Any) -> Callable[[Any], Any]:
    def note(play: Callable[[Play], Iterator[Any]]) -> Callable[[Play], Iterator[Any]]:
        STORIES[play.__name__] = Story(play.__name__, title, play, stages, **more)
        return play
    return note


@story("Why does the second client wait?")
def second_client(play: Play) -> Iterator[Any]:
    """A connects and says nothing; B connects and asks. Stage 1 sleeps in a call that only A can
    end. The others sleep in one that any client ends, or do not sleep at all."""
    a = play.connect()
    yield "A connects, and says nothing."
    b = play.connect()
    yield "B connects."
    b.send(b"hello\n")
    yield "B asks: hello."
    a.close()
    yield "A leaves."
    b.close()
    yield "B leaves."


@story("What does a server do while nobody says anything?")
def idle(play: Play) -> Iterator[Any]:
    """Two clients ask once, and fall silent. A server that sleeps costs nothing; stage 2 asks every
    socket, all the time."""
    both = [play.connect(), play.connect()]
    yield "A and B connect."
    for client in both:
        client.send(b"hello\n")
        yield f"{client.name} asks: hello."
    yield "Nobody says anything."


@story("What does spinning look like?", "2 4")
def spinning(play: Play) -> Iterator[Any]:
    """A busy loop and a wait are sent the same. Both find it at once; what the busy loop costs are
    the calls before and after it, which find nothing."""
    a = play.connect()
    play.connect()
    yield "A and B connect."
    for word in (b"one\n", b"two\n"):
        a.send(word)
        yield f"A says: {word.decode().strip()}."


@story("Three are ready at once: what does one round do?")
def one_round(play: Play) -> Iterator[Any]:
    """While the server is stopped, three clients ask. In stages 3 to 6 one wait reports all three;
    each is read once, and the next wait begins the next round. Stage 2 has no wait and asks each
    socket in turn; stage 1 knows A only."""
    clients = [play.connect()]
    play.brief = True
    yield "A connects."
    clients += [play.connect(), play.connect()]
    yield "B and C connect."
    play.brief = False
    with play.paused():
        for client in clients:
            client.send(b"from %s\n" % client.name.encode())
    yield "The server is stopped (SIGSTOP); A, B and C ask; it goes on."
    for client in clients:
        client.close()
        yield f"{client.name} leaves."


@story("A client that does not read: where do its answers wait?")
def slow_reader(play: Play) -> Iterator[Any]:
    """A sends much and reads no answer. Its receive queue is full, then our send queue; then send()
    takes only a part, and the rest waits in the program's outbox. From then on A is watched for
    writing, in the stages that watch. In stage 1 send() sleeps instead."""
    a = play.slow_reader()
    b = play.connect()
    yield "A and B connect. A's kernel has room for little."
    play.brief = True
    play.stuff(a)
    yield "A sends, 64 KiB at a time, and reads nothing, until our kernel has no room either."
    play.brief = False
    a.send_some(bytes(16 * 1024))
    yield "A sends 16 KiB more."
    b.send(b"hello\n")
    yield "B asks: hello."
    play.slow.clear()
    yield "A begins to read."
    a.half_close()
    yield "A has read all, and ends its input."


@story("A client ends its input while its answer is still queued", "1 3 4 5 6", differs="ends")
def half_close(play: Play) -> Iterator[Any]:
    """The end of a client's input is not the end of its answer: recv() returns 0, and all that is
    still in the outbox has to be sent before the connection is closed."""
    a = play.slow_reader()
    yield "A connects. Its kernel has room for little."
    play.brief = True
    play.stuff(a)
    yield "A sends, 64 KiB at a time, and reads nothing, until our kernel has no room either."
    play.brief = False
    a.half_close()
    yield "A ends its input: shutdown(SHUT_WR)."
    play.slow.clear()
    yield "A begins to read."


@story("Sixteen descriptors, and one client too many", nofile=16)
def sixteen_descriptors(play: Play) -> Iterator[Any]:
    """accept() fails with EMFILE, and the newcomer stays in the accept queue: the listener stays
    ready. A loop that went on watching it would spin. Stages 3 to 6 stop watching it until a client
    leaves, or a second has passed."""
    play.brief = True
    first = play.connect()
    yield "A connects."
    for _ in range(8):
        play.connect()
        yield f"{play.run.clients[-1].name} connects."
    play.brief = False
    for _ in range(2):
        play.connect()
        yield f"{play.run.clients[-1].name} connects."
    first.close()
    yield "A leaves."


@story("An event for a client that is closed already", "5 stale_event", service="chat",
       differs="stopped")
def stale_event(play: Play) -> Iterator[Any]:
    """A speaks, C joins, and B resets its connection: one wait reports all three. To pass A's line
    on, the server calls send() on B, which fails. If it closes B at once, C gets B's descriptor,
    and with it the event that was reported for B."""
    a, b = play.connect(), play.connect()
    play.brief = True
    yield "A and B join the chat."
    play.brief = False
    with play.paused():
        a.send(b"hello\n")
        play.connect()
        b.reset()
    yield "The server is stopped; A speaks, C joins, B resets its connection; it goes on."


@story("Edge-triggered, and read once", "5 edge_triggered edge_without_draining", service="chat",
       differs="5,024")
def edge_without_draining(play: Play) -> Iterator[Any]:
    """A chat member is read 1,024 bytes at a time. Level-triggered epoll reports again that there
    is more. Edge-triggered epoll has reported it already: what one recv() leaves behind waits until
    more comes."""
    a = play.connect()
    play.connect()
    play.brief = True
    yield "A and B join the chat."
    play.brief = False
    a.send(b"".join(b"%d" % i + b"." * 626 + b"\n" for i in range(8)))
    yield "A says 5,024 bytes at once: eight lines."
    a.send(b"are you there?\n")
    yield "A says one line more."


@story("Watched for writing, always", "4 always_writable", differs="connects")
def always_writable(play: Play) -> Iterator[Any]:
    """A silent client, watched for writing though nothing waits to be sent to it. It always has
    room, so poll() returns at once, every time."""
    a = play.connect()
    yield "A connects, and says nothing."
    a.send(b"hello\n")
    yield "A asks: hello."


def named(name: str) -> Optional[Story]:
    return STORIES.get(name)
