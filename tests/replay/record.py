"""Plays a story against one server, and records it from both sides of its system calls.

    record(story, program)   -> a dict, fit for JSON
      column, stage, service
      steps       what clients did, and how all was when the server had done its part:
                  text, brief, rest: see Look (all times are CLOCK_MONOTONIC)
      calls       what recorder.cpp wrote, up to the last step, with its stacks as lines of source
      narration   what the server said of the same: [line, how many times one after the other]
      stats       its last counters
      clients     name -> the port that it came from
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import tempfile
import termios
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from tests.harness import LOOPBACK, Client, Process, Run, Unavailable, poll_one
from tests.harness.faults import preloadable
from tests.harness.narration import Event
from tests.replay.programs import Program
from tests.replay.stories import Play, Story

SOURCE = Path(__file__).resolve().parent / "recorder.cpp"
LOG = 32 * 1024                            # where it begins in the file
PATIENCE = 10.0                            # seconds for a server to come to rest
SPINS = 300                                # calls for nothing, one after the other
ESTABLISHED, SYN_RECV, CLOSE_WAIT = 1, 3, 8        # states of /proc/net/tcp
ANY = 0x1 | 0x2 | 0x4                      # POLLIN, POLLPRI, POLLOUT

Raw = dict[str, Any]


class Log:
    """The recorder's file, while it grows."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()           # nothing stays behind, however we end
        self.path = f"/proc/{os.getpid()}/fd/{self.file.fileno()}"
        self.calls: list[Raw] = []
        self.read = 0

    def numbers(self) -> tuple[int, int, int]:
        """How long the log is, how long the line of who sleeps, how many calls were counted."""
        head = os.pread(self.file.fileno(), 24, 0)
        return struct.unpack("QQQ", head) if len(head) == 24 else (0, 0, 0)

    def update(self) -> list[Raw]:
        length = self.numbers()[0]
        text = os.pread(self.file.fileno(), length - self.read, LOG + self.read)
        self.read = length
        self.calls += map(json.loads, text.splitlines())
        return self.calls

    def asleep(self) -> Optional[Raw]:
        """The call that has not returned."""
        length = self.numbers()[1]
        text = os.pread(self.file.fileno(), length, 64)
        try:
            return json.loads(text) if length else None
        except ValueError:                 # it is being written
            return None


@dataclass
class Look:
    """How all is at one moment, seen from outside, while the server sleeps (or spins)."""
    at: float = field(default_factory=time.monotonic)
    state: str = ""                        # S: asleep
    counted: int = 0                       # calls that were only counted since the last line
    asleep: Optional[Raw] = None           # the call that it sleeps in, as the recorder has it
    syscall: str = ""                      # /proc/PID/syscall, where it may be read
    epoll: Optional[list[list[int]]] = None            # /proc/PID/fdinfo: [fd, events]
    sockets: list[list[Any]] = field(default_factory=list)     # as recorder.cpp has them
    tcp: list[list[int]] = field(default_factory=list)  # /proc/net/tcp: see connections()
    clients: Raw = field(default_factory=dict)


class Player:
    def __init__(self, story: Story, program: Program, recorded: bool = True) -> None:
        self.story, self.program = story, program
        self.log = Log() if recorded else None
        self.run = Run(program.variant, (story.service,))
        self.play = Play(self.run, self._rest, self._owed)
        self.steps: list[Raw] = []
        self.calls = self.told = 0         # lines of the log and of the narration, at the last rest

    def record(self) -> Raw:
        try:
            self._start()
            self.steps.append({"text": "The server has started.", "brief": True,
                               "rest": vars(self._rest())})
            for text in self.story.play(self.play):
                self.steps.append({"text": text, "brief": self.play.brief,
                                   "rest": vars(self._rest())})
            self.run.server.stop()
            events, counted = self.run.server.events, self.steps[-1]["rest"]["counted"]
            calls = self._calls(bool(counted))
            return {
                "story": self.story.name, "column": self.program.id,
                "stage": self.program.variant.stage, "service": self.story.service,
                "steps": self.steps, "calls": calls,
                # How often it spun is known when it has stopped. (Stage 2 tells nothing of that.)
                "narration": narrated(events if counted and "-v" in self.args
                                      else events[:self.told]),
                "stats": events[-1].fields,
                "clients": self._ports()}
        finally:
            self.run.close()
            if self.log:
                self.log.file.close()

    def _start(self) -> None:
        # Of a busy loop with -v each call for nothing would be a line.
        self.args = ["-v"] if self.program.variant.stage != 2 else []
        how: Raw = {"args": self.args}
        if self.log:
            how["env"] = {"LD_PRELOAD": str(preloadable(SOURCE)), "RECORD": self.log.path}
        if self.story.nofile:
            how["nofile"] = (self.story.nofile, self.story.nofile)
        self.run.start(**how)

    def _calls(self, counted: bool) -> list[Raw]:
        """All until the last rest; what is only counted is reported with the next call."""
        calls = self.log.update()[:self.calls + counted] if self.log else []
        asleep = [step["rest"] for step in self.steps if step["rest"]["asleep"]]
        found = self.program.resolved(calls + [rest["asleep"] for rest in asleep])
        for rest, call in zip(asleep, found[len(calls):]):
            rest["asleep"] = call
        return found[:len(calls)]

    # --- at rest ----------------------------------------------------------------------------

    def _rest(self) -> Look:
        """The server has done what it will do, the clients have read, and that has changed
        nothing more, nor has anything while we looked. (Bytes that have come and are not
        acknowledged yet lie in two queues: that takes 40 ms.)"""
        until = time.monotonic() + PATIENCE
        while True:
            self._wait(self._quiet)
            if not self._clients_read():
                look, still = self._look()
                raw, ports = vars(look), self._ports()
                true = still and not on_the_way(raw, ports) and not (
                    self.log and lost_bytes(raw, self.log.calls, ports))
                if true or time.monotonic() > until:
                    return look

    def _owed(self) -> int:
        """Bytes that the server has received, and not sent yet."""
        return sum(got - sent for _, got, sent in totals(self.log.update() if self.log else [])
                   .values())

    def _ports(self) -> dict[str, int]:
        return {client.name: port_of(client) for client in self.run.clients}

    def _wait(self, condition: Any) -> None:
        until = time.monotonic() + PATIENCE
        while not condition() and time.monotonic() < until and not self.run.server.ended():
            time.sleep(0.001)

    def _quiet(self) -> bool:
        """It sleeps, and is not woken; or it has asked again and again, for nothing."""
        server = self.run.server
        if not self.log and self.program.variant.stage == 2:
            return self._repeats()
        before, used = self.log.numbers() if self.log else (), server.cpu()
        time.sleep(0.003)
        after = self.log.numbers() if self.log else ()
        if self.log and before[0] == after[0] and after[2] > before[2]:
            start = before[2]              # since then nothing has succeeded
            self._wait(lambda: self.log.numbers()[0] != before[0]
                       or self.log.numbers()[2] > start + SPINS)
            return self.log.numbers()[0] == before[0]
        return server.state() == "S" and before == after and server.cpu() == used

    def _repeats(self) -> bool:
        """Without a recorder: for a while, lines of counters differ in calls for nothing alone."""
        def did() -> list[int]:
            stats = self.run.server.stats()
            return [stats[key] for key in ("bytes_in", "bytes_out", "clients", "max_clients")]
        first = did()
        return all(did() == first for _ in range(20))

    def _clients_read(self) -> bool:
        got = False
        for client in self.run.clients:
            while (client not in self.play.slow and not client.ended
                   and poll_one(client.fileno(), 1, 0)):
                got = client._pull(time.monotonic()) or got
                if client.ended != "reset":            # acknowledged now, not in 40 ms
                    client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return got

    def _look(self) -> tuple[Look, bool]:
        """And whether it did nothing meanwhile (or spun on)."""
        server, before = self.run.server, self._log()
        look = Look(state=server.state(), counted=before[1])
        look.syscall, look.epoll = syscall_of(server), epoll_of(server)
        look.sockets = sockets_of(server)
        ports = {event["address"].rpartition(":")[2] for event in server.listening()}
        look.tcp = connections(ports)
        look.clients = {client.name: client_seen(client) for client in self.run.clients}
        self.told, self.calls = server.mark(), len(self.log.update()) if self.log else 0
        after = self._log()
        # Of one that spins, this was the call that it was just in.
        look.asleep = after[2] if before == after else None
        return look, before == after or before[0] == after[0] and before[1] < after[1]

    def _log(self) -> tuple[int, int, Optional[Raw]]:
        """How long the log is, how many calls were counted since, and which has not returned."""
        length, _, counted = self.log.numbers() if self.log else (0, 0, 0)
        return length, counted, self.log.asleep() if self.log else None


def record(story: Story, program: Program, recorded: bool = True) -> Raw:
    return Player(story, program, recorded).record()


# --- what adds up -----------------------------------------------------------------------------

def totals(calls: list[Raw]) -> dict[int, list[int]]:
    """By the client's port: its descriptor (-1: closed), bytes received from it, sent to it."""
    found: dict[int, list[int]] = {}
    holders: dict[int, int] = {}
    for call in calls:
        name, result, fd = call.get("call"), call.get("result", -1), call.get("fd", -1)
        if name == "accept" and result >= 0:
            holders[result] = call["peer"]
            found[call["peer"]] = [result, 0, 0]
        elif fd in holders and name == "close":
            found[holders.pop(fd)][0] = -1
        elif fd in holders and name in ("recv", "send") and result > 0:
            found[holders[fd]][1 if name == "recv" else 2] += result
    return found


def lost_bytes(look: Raw, calls: list[Raw], ports: dict[str, int]) -> list[str]:
    """Of each connection that both ends have: what one has sent, the other has read, or it lies in
    a queue. What does not add up, in words."""
    wrong = []
    done = totals(calls)
    kernel = {row[0]: row for row in look["sockets"]}
    waiting = {row[1]: row for row in look["tcp"] if row[5] == 0 and row[1]}
    for name, seen in look["clients"].items():
        fd, read, sent = done.get(ports[name], (0, 0, 0))
        if fd in kernel:
            unread, unsent = kernel[fd][2:4]
        elif ports[name] in waiting and not fd:            # the end of its input counts as a byte
            row = waiting[ports[name]]
            unread, unsent = row[4] - (row[2] == CLOSE_WAIT), row[3]
        else:
            continue
        if seen["ended"]:
            continue
        if seen["sent"] != read + unread + seen["unsent"]:
            wrong.append(f"{name} sent {seen['sent']}: {read} read, {unread} to be read, "
                         f"{seen['unsent']} in its send queue")
        # A send() that sleeps has handed over a part.
        asleep = look["asleep"] or {}
        part = asleep["with"][0] if asleep.get("call") == "send" and asleep["fd"] == fd else 0
        if not sent <= seen["received"] + seen["unread"] + unsent <= sent + part:
            wrong.append(f"{sent} sent to {name}: {seen['received']} read, {seen['unread']} to be "
                         f"read, {unsent} in our send queue")
    return wrong


def on_the_way(look: Raw, ports: dict[str, int]) -> list[str]:
    """Clients of whom something has been sent and has not come yet: on a busy machine, the
    loopback takes its time. A connection that is complete, bytes, an end."""
    rows = {row[1]: row for row in look["tcp"] if row[1]}
    found = []
    for name, seen in look["clients"].items():
        _, _, state, _, into, _ = rows.get(ports[name], [0] * 6)
        if state == SYN_RECV or state and not into and (
                seen["unsent"] or state == ESTABLISHED and seen["ended"] == "closed"):
            found.append(name)
    return found


# What the server says of a call is what the recorder saw of it.
SAID = {"wait": ("call", "on", "error"), "accept": ("fd", "peer", "error"),
        "send": ("fd", "bytes", "error"), "recv": ("fd", "bytes", "data", "error"),
        "urgent": ("fd",), "close": ("fd",), "watch": ("fd", "for")}


def _worded(key: str, value: Any) -> str:
    if key == "on":
        return ",".join(f"{fd}:{letters}" for fd, letters in value.items()) or "-"
    return value[:8].hex() if key == "data" else str(value).rpartition(":")[2]


def narrated(events: list[Event]) -> list[list[Any]]:
    lines: list[list[Any]] = []
    for event in events:
        if event.verb == "stop":
            break
        if event.verb in SAID:
            said = " ".join([event.verb, *(_worded(key, event[key]) for key in SAID[event.verb]
                                           if key in event.fields)])
            if lines and lines[-1][0] == said:
                lines[-1][1] += 1
            else:
                lines.append([said, 1])
    return lines


# --- what the system tells ----------------------------------------------------------------------

def port_of(client: Client) -> int:
    return int(client.peername.rpartition(":")[2])


def queues(sock: socket.socket) -> tuple[int, int]:
    """Bytes in its receive queue (SIOCINQ) and in its send queue (SIOCOUTQ), tcp(7)."""
    found = []
    for request in (termios.FIONREAD, termios.TIOCOUTQ):
        value = fcntl.ioctl(sock, request, b"\0" * 4)
        found.append(struct.unpack("i", value)[0])
    return found[0], found[1]


def client_seen(client: Client) -> Raw:
    unread, unsent = queues(client.sock) if client.ended != "closed" else (0, 0)
    return {"sent": client.sent, "received": client.received, "unread": unread, "unsent": unsent,
            "ended": client.ended, "marks": [[mark.at, mark.what, mark.bytes, mark.text]
                                             for mark in client.marks]}


def connections(ports: set[str]) -> list[list[int]]:
    """The server's ends: [port, the client's port, state, send queue, receive queue, inode]. One
    that has been accepted by nobody has no inode. Of a listener, the receive queue is how many
    wait to be accepted (proc(5))."""
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        own, peer, (out, into) = words[1], words[2], words[4].split(":")
        if str(int(own[9:], 16)) in ports and own[:8] == address(LOOPBACK):
            found.append([int(own[9:], 16), int(peer[9:], 16), int(words[3], 16), int(out, 16),
                          int(into, 16), int(words[9])])
    return found


def address(host: str) -> str:
    return f"{struct.unpack('=I', socket.inet_aton(host))[0]:08X}"


def syscall_of(server: Process) -> str:
    try:
        return server._file("syscall").strip()
    except OSError:
        return ""


def epoll_of(server: Process) -> Optional[list[list[int]]]:
    for fd, what in server.descriptors().items():
        if "eventpoll" in what:
            text = server._file(f"fdinfo/{fd}")
            rows = [line.split() for line in text.splitlines() if line.startswith("tfd:")]
            return sorted([int(row[1]), int(row[3], 16)] for row in rows)
    return None


def sockets_of(server: Process) -> list[list[Any]]:
    """Its sockets, looked at through copies (pidfd_getfd(2)): the same as recorder.cpp's list.
    [] where that may not be done."""
    found = []
    for fd, what in sorted(server.descriptors().items()):
        if fd < 3 or not what.startswith("socket:"):
            continue
        try:
            copy = server.socket_of(fd)
        except (Unavailable, OSError):
            return []
        with copy:
            ready = poll_one(fd_of := copy.fileno(), ANY, 0)
            if copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
                waiting, most = struct.unpack_from("II", info, 24)
                found.append([fd, "l", waiting, most, ready, ""])
                continue
            unread, unsent = queues(copy)
            peeked = b""
            if unread:
                peeked = copy.recv(12, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            found.append([fd, "c", unread, unsent, ready, peeked.hex()])
    return found
