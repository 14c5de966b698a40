"""The system's calls fail, as they do once in a blue moon: injected by shim.cpp, preloaded."""

import os
import shlex
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from harness import BUILD, SANITIZED, Unavailable, run_program
from scenarios import scenario

SOURCE = Path(__file__).resolve().parent.parent / "shim.cpp"
NO_EPOLL = "it has no epoll"


@lru_cache(maxsize=None)
def _preloaded(variant):
    """What to start that server with, so that its calls go through the shim."""
    shim = BUILD / "shim.so"
    env = {"LD_PRELOAD": str(shim), "FAULTS": ""}
    if SANITIZED:
        env["ASAN_OPTIONS"] = "detect_stack_use_after_return=1:verify_asan_link_order=0"
    flags = BUILD / "compiled-with"        # the servers' flags: -m32 is for the shim, too
    newest = max(path.stat().st_mtime for path in (SOURCE, flags) if path.exists())
    if not shim.exists() or shim.stat().st_mtime < newest:
        if not sys.platform.startswith("linux"):
            raise Unavailable("calls are intercepted on Linux only")
        shim.parent.mkdir(parents=True, exist_ok=True)
        new = shim.with_suffix(f".{os.getpid()}")
        options = shlex.split(" ".join(os.environ.get(name, "") for name in (
            "CPPFLAGS", "CXXFLAGS", "LDFLAGS")))
        built = subprocess.run([*shlex.split(os.environ.get("CXX") or "c++"), "-std=c++20", "-O1",
                                *options, "-shared", "-fPIC", "-o", str(new), str(SOURCE),
                                "-ldl"], capture_output=True, text=True)
        if built.returncode:
            raise RuntimeError(f"shim.cpp does not compile: {built.stderr}")
        os.replace(new, shim)
    helped = run_program(variant, "-h", env=env)
    if helped.returncode:
        kind = Unavailable if SANITIZED or variant.foreign else RuntimeError
        raise kind(f"nothing can be preloaded into it: {helped.stderr[:200]}")
    return env


def environment(variant, faults):
    """What to start that server with; Unavailable where nothing can be preloaded into it."""
    return {**_preloaded(variant), "FAULTS": faults}


def _start(run, faults, *services, **how):
    return run.start(*services, env=environment(run.variant, faults), **how)


@scenario("accept() fails, for once: does the server live on, and who waits get in?")
def accept_fails_once(run):
    faults = ("ENFILE", "ENOBUFS", "ENOMEM", "EPERM", "ECONNABORTED", "EPROTO", "ENETDOWN",
              "EHOSTUNREACH", "EHOSTDOWN", "ENONET", "EOPNOTSUPP", "EINTR", "EAGAIN")
    servers = {fault: _start(run, f"accept {fault} 1 0 1") for fault in faults}
    clients = {fault: run.connect(server=servers[fault]) for fault in faults}
    for client in clients.values():
        client.send(b"hello\n")
    result = {}
    for fault, server in servers.items():          # all at once: some take a second to try again
        answer = clients[fault].recv(6).decode()
        paused = [event["reason"] for event in server.all("pause")]
        result[fault] = [answer, paused, server.ended()]
    return result


@scenario("accept() fails for good: are those inside served, and does nothing spin?")
def accept_fails_for_good(run):
    result = {}
    for fault in ("ENFILE", "ENOMEM"):
        server = _start(run, f"accept {fault} 1 1 999999")
        a = run.connect()
        hello = a.exchange(b"hello\n")
        b = run.connect()
        b.send(b"anybody there?\n")
        run.until(lambda: server.all("pause") or len(server.all("accept", error=fault)) > 100)
        before = server.stats()
        answered = [a.exchange(b"%d\n" % i) == b"%d\n" % i for i in range(20)]
        after, outside = server.stats(), b.answered(0)
        stopped = server.stop()
        result[fault] = {
            "inside": hello.decode(), "answered_inside": sum(answered), "outside": outside,
            "calls_in_vain": after["accept"] - before["accept"],
            "waits": after["waits"] - before["waits"], "status": stopped.status,
            "within_a_second": stopped.seconds < 1}
    return result


def _talk(run, faults, size=20000):
    """Echo, greet with many lines, half-closed: all that comes back, with these faults."""
    server = _start(run, faults, "echo")
    a = run.connect("echo")
    data = run.random.randbytes(size)
    same = a.exchange(data, half_close=True) == data
    again = run.connect("echo")
    served = again.exchange(b"hello\n").decode()
    again.close()
    ended = a.ended
    server.closed(a)
    greeter = _start(run, faults, "greet")
    b = run.connect("greet")
    lines = b"".join(b"line %d\n" % i for i in range(size // 200))
    back = b.exchange(lines + b"the end", half_close=True)
    right = (b"welcome: every line comes back with ' good' behind it, q ends\n"
             + (lines + b"the end\n").replace(b"\n", b" good\n"))
    stops = [server.stop().status, greeter.stop().status]
    return {"echo": same, "greet": back == right, "ended": [ended, b.ended],
            "serves_on": served, "stops": stops}


@scenario("EINTR from every other call: does everything come through all the same?")
def interrupted_calls(run):
    return _talk(run, "accept EINTR 2 0 99999, recv EINTR 2 0 99999, send EINTR 2 0 99999, "
                      "wait EINTR 2 0 99999, close EINTR 2 0 99999")


@scenario("One byte at a time is received, and one byte sent: does everything come through?")
def one_byte_calls(run):
    return _talk(run, "recv one 1 0 9999999, send one 1 0 9999999", size=2000)


@scenario("Ready, and yet EAGAIN from every other call: does everything come through?")
def ready_in_vain(run):
    return _talk(run, "accept EAGAIN 2 0 99999, recv EAGAIN 2 0 99999, send EAGAIN 2 0 99999")


@scenario("recv() or send() fails for one client: what becomes of it, and of the others?",
          not_for={"1": "it has no others"})
def one_client_fails(run):
    result = {}
    for call in ("recv", "send"):
        for fault in ("ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH", "ENOBUFS", "EPIPE", "EIO"):
            server = _start(run, f"{call} {fault} 1 2 1")
            a, b = run.connect(), run.connect()
            talk = [a.exchange(b"hello\n").decode(), b.exchange(b"hello\n").decode()]
            a.send(b"doomed\n")
            a.recv_until_eof()
            result[f"{call} {fault}"] = [
                *talk, a.ended, server.closed(a)["reason"], b.exchange(b"still here?\n").decode()]
            server.stop()
    return result


@scenario("The wait itself fails for lack of memory: does the server live on?",
          not_for={"1-2": "there is no wait"})
def wait_fails(run):
    server = _start(run, "wait ENOMEM 1 1 1")
    a = run.connect()
    back = a.exchange(b"hello\n").decode()
    result = {"back": back, "failures": len(server.all("wait", error="ENOMEM")),
              "serves_on": run.connect().exchange(b"hello\n").decode()}
    lasting = _start(run, "wait ENOMEM 1 0 99999999")
    lasting.wait_for("wait", error="ENOMEM")
    run.until(lambda: len(lasting.all("wait")) > 100)          # or it has slept for a while
    return {**result, "waits_when_it_lasts": len(lasting.all("wait")),
            "stops": lasting.stop().status}


def _watching(server):
    """How many descriptors it says that it watches: the signal pipe, a listener, the clients."""
    mark = server.mark()               # a signal ends the wait, if it sleeps already
    server.wait_until(lambda: server.stats() and server.all("wait", after=mark), "waiting")
    return server.all("wait")[-1]["watching"]


@scenario("epoll_ctl() refuses a newcomer: does only that one have to go?",
          not_for={"1-4 6-select 6-poll": NO_EPOLL})
def refused_watch(run):
    result = {}
    for fault in ("ENOMEM", "ENOSPC"):
        server = _start(run, f"epoll_add {fault} 1 3 1")     # after pipe, listener and A
        a, b = run.connect(), run.connect()
        b_got = b.recv_until_eof().decode()
        server.closed(b)
        c = run.connect()
        result[fault] = [a.exchange(b"hello\n").decode(), b_got, b.ended,
                         server.closed(b)["reason"], c.exchange(b"hello\n").decode(),
                         _watching(server)]
        server.stop()
    return result


@scenario("epoll_ctl() refuses to watch a client for writing: who has to go, and who comes next?",
          not_for={"1-4 6-select 6-poll": NO_EPOLL})
def refused_change(run):
    server = _start(run, "epoll_mod ENOMEM 1 0 1")
    a, mute = run.connect(), run.connect(rcvbuf=16384, mss=1400)
    a.exchange(b"hello\n")
    fd = server.accepted(mute)["fd"]
    for _ in range(100):                           # until the kernel does not take its answer
        mute.send_some(bytes(1 << 20))
        if run.until(lambda: server.all("close"), 0.02):
            break
    b = run.connect()                              # gets the same number
    return {"reason": server.closed(mute)["reason"], "inside": a.exchange(b"again\n").decode(),
            "next": b.exchange(b"hello\n").decode(), "same_number": server.accepted(b)["fd"] == fd,
            "watching": _watching(server)}


@scenario("epoll_ctl() refuses to watch the listeners again after a pause: does it try later?",
          not_for={"1-4 6-select 6-poll": NO_EPOLL})
def refused_listener(run):
    server = _start(run, "accept ENFILE 1 1 1, epoll_add ENOMEM 1 3 1")
    a = run.connect()
    hello = a.exchange(b"hello\n").decode()
    b = run.connect()
    b.send(b"hello\n")
    server.wait_for("pause")
    a.close()
    return {"first": hello, "second": b.recv(6).decode(), "still_there": not server.ended()}


@scenario("The urgent byte is gone when it is asked for (EINVAL): does its sender have to go?",
          not_for={"1-2": "they are not told of urgent data"})
def urgent_overtaken(run):
    server = _start(run, "recv_oob EINVAL 1 0 1")
    a = run.connect()
    a.urgent(b"!")
    run.until(lambda: server.all("urgent"))
    return {"back": a.exchange(b"hello\n").decode(),
            "narrated": [event["data"].decode() for event in server.all("urgent")]}


@scenario("What cannot be had at the start is said in one line")
def faults_at_the_start(run):
    outcomes = {}
    faults = ["pipe EMFILE", "socket ENFILE", "listen EADDRINUSE", "socket ENOBUFS"]
    if run.variant.matches("5 6-epoll"):
        faults += ["epoll_create1 ENOMEM", "epoll_add ENOMEM"]
    for fault in faults:
        ended = run_program(run.variant, "-e", "0",
                            env=environment(run.variant, f"{fault} 1 0 1"))
        outcomes[fault] = [ended.returncode, ended.stderr.count("\n")]
    return outcomes
