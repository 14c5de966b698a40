"""What every scenario is played with: the servers, and clients with a deadline on all that they do.

    variants.py   one column of the matrix each: a stage, stage 6 once for each of its selectors
    server.py     a running server: its narration, its counters, how it ends (process.py: what the
                  system tells of it)
    client.py     one connection, or a crowd: a deadline on everything, a record of what was done
    run.py        one scenario against one variant: starts and connects, and looks after the rest
    judge.py      plays a scenario, and says what was wrong; expect.py: at_least(3) and the like
    faults.py     system calls that fail on demand, by shim.cpp; first_call.cpp: what programs with
                  ThreadSanitizer need, or it loses a signal
    model.py      what the services say, and a model of greet and chat
    narration.py  how a line of narration is read, and what a right narration looks like

A scenario gets a Run, drives it and returns what it observed. In short:

    server = run.start("echo", "chat")            # any free ports; run.server from then on
    a = run.connect("echo")                       # Client "A"; run.connect("echo", rcvbuf=4096)
    a.send(b"hello\\n")                            # all of it, or until the peer breaks off
    a.recv(6), a.recv_line(), a.recv_until_eof()  # exactly 6 bytes; one line; all there is
    a.exchange(data)                              # sends and receives at the same time
    a.exchange(data, late=True)                   # sends, and reads only when it has to
    a.answered(0.3)                               # does anything come within 0.3 s?
    a.half_close(), a.urgent(b"!"), a.reset(), a.close()
    a.ended                                       # "", "eof", "reset", "closed" (by ourselves)
    crowd = run.crowd(50, "echo")                 # fifty clients in one thread
    crowd.send(lambda i: b"...");  crowd.recv(lambda i: 6)

    run.answered(a), run.answers(crowd)           # ... before the server falls asleep for good?
    run.fill(a, data)                             # until neither kernel nor server takes more

    server.wait_for("recv", bytes=6)              # the first such line of the narration, Event
    server.wait_for("wait", after=server.mark())  # ... that comes from now on
    server.accepted(a)                            # the accept line of that client: ["fd"]
    server.stats()                                # SIGUSR1, and the stats line that it brings
    with server.paused(): ...                     # SIGSTOP; all that is done there meets it at once
    server.stop()                                 # -> Stopped(status, stats, seconds)
    server.cpu(), server.rss(), server.descriptors()
    server.idle(0.2)                              # does it sleep while nobody asks anything?
    run.start(faults="accept ENFILE 1 0 1")       # a server whose accept() fails once

Nothing here asserts what a server does, save that judge() checks after every scenario what holds
for all of them: exit status 0, a last stats line without clients, a narration that keeps to its
grammar and whose sums are right, nothing on stderr (so a sanitizer's report fails whatever was
played), and no socket left behind when all clients are gone.

What waits too long raises Late, which says what was waited for and how the narration ended.
Servers write to a file that has no name, so that however slowly it is read, nobody waits and
no line is lost. All times are CLOCK_MONOTONIC, the servers' and the clients' alike, so that
one axis can show both.
"""

from tests.harness.client import SMALL, Client, Crowd, Mark, pump
from tests.harness.expect import (EPOLL, SELECT, anything, at_least, at_most, between, including,
                                  memory_grew, none_but, one_of)
from tests.harness.judge import Verdict, judge
from tests.harness.process import LIBC, Process, free_port, poll_one
from tests.harness.run import MEBIBYTE, Run
from tests.harness.server import HARD, SOFT, Server, Stopped, end_on_sigterm, narrates, run_program
from tests.harness.variants import (BUILD, DEADLINE, FOLDERS, LOOPBACK, ROOT, SANITIZED, SELECTORS,
                                    SERVICES, Late, Unavailable, Variant, default_address,
                                    own_host, variants)
