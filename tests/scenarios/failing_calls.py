"""System calls fail, as they do once in a blue moon: made to fail by harness/shim.cpp."""


from tests.harness import EPOLL, at_most, between, run_program
from tests.harness.faults import environment
from tests.harness.model import WELCOME
from tests.scenarios import scenario

NO_EPOLL = "it has no epoll"


@scenario("accept() fails, for once: does the server live on, and who waits get in?", expect={
    "all": {
        **{fault: ["hello\n", [fault], False] for fault in
           ("ENFILE", "ENOBUFS", "ENOMEM")},
        # These are over by the next round, and no reason to pause.
        **{fault: ["hello\n", [], False] for fault in
           ("ECONNABORTED", "EPROTO", "ENETDOWN", "EHOSTUNREACH", "EHOSTDOWN", "ENONET",
            "EOPNOTSUPP", "EPERM", "EINTR", "EAGAIN")}}})
def accept_fails_once(run):
    faults = ("ENFILE", "ENOBUFS", "ENOMEM", "EPERM", "ECONNABORTED", "EPROTO", "ENETDOWN",
              "EHOSTUNREACH", "EHOSTDOWN", "ENONET", "EOPNOTSUPP", "EINTR", "EAGAIN")
    servers = {fault: run.start(faults=f"accept {fault} 1 0 1") for fault in faults}
    clients = {fault: run.connect(server=servers[fault]) for fault in faults}
    for client in clients.values():
        client.send(b"hello\n")
    result = {}
    for fault, server in servers.items():          # all at once: some take a second to try again
        answer = clients[fault].recv(6).decode()
        paused = [event["reason"] for event in server.all("pause")]
        result[fault] = [answer, paused, server.ended()]
    return result


@scenario("accept() fails for good: are those inside served, and does nothing spin?", expect={
    "all": {fault: {"inside": "hello\n", "answered_inside": 20, "outside": False,
                    "calls_in_vain": at_most(5), "waits": between(20, 40), "status": 0,
                    "within_a_second": True} for fault in ("ENFILE", "ENOMEM")},
    "1-2": {fault: {"inside": "hello\n", "answered_inside": 20, "outside": False,
                    "calls_in_vain": at_most(5), "waits": 0, "status": 0,
                    "within_a_second": True} for fault in ("ENFILE", "ENOMEM")}})
def accept_fails_for_good(run):
    result = {}
    for fault in ("ENFILE", "ENOMEM"):
        server = run.start(faults=f"accept {fault} 1 1 999999")
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
    server = run.start("echo", faults=faults)
    a = run.connect("echo")
    data = run.random.randbytes(size)
    same = a.exchange(data, half_close=True) == data
    again = run.connect("echo")
    served = again.exchange(b"hello\n").decode()
    again.close()
    ended = a.ended
    server.closed(a)
    greeter = run.start("greet", faults=faults)
    b = run.connect("greet")
    lines = b"".join(b"line %d\n" % i for i in range(size // 200))
    back = b.exchange(lines + b"the end", half_close=True)
    right = (WELCOME.encode()
             + (lines + b"the end\n").replace(b"\n", b" good\n"))
    stops = [server.stop().status, greeter.stop().status]
    return {"echo": same, "greet": back == right, "ended": [ended, b.ended],
            "serves_on": served, "stops": stops}


@scenario("EINTR from every other call: does everything come through all the same?", expect={
    "all": {"echo": True, "greet": True, "ended": ["eof", "eof"],
        "serves_on": "hello\n", "stops": [0, 0]}})
def interrupted_calls(run):
    return _talk(run, "accept EINTR 2 0 99999, recv EINTR 2 0 99999, send EINTR 2 0 99999, "
                      "wait EINTR 2 0 99999, close EINTR 2 0 99999")


@scenario("One byte at a time is received, and one byte sent: does everything come through?",
          expect={
    "all": {"echo": True, "greet": True, "ended": ["eof", "eof"],
        "serves_on": "hello\n", "stops": [0, 0]}})
def one_byte_calls(run):
    return _talk(run, "recv one 1 0 9999999, send one 1 0 9999999", size=2000)


@scenario("Ready, and yet EAGAIN from every other call: does everything come through?", expect={
    "all": {"echo": True, "greet": True, "ended": ["eof", "eof"],
        "serves_on": "hello\n", "stops": [0, 0]}})
def ready_in_vain(run):
    return _talk(run, "accept EAGAIN 2 0 99999, recv EAGAIN 2 0 99999, send EAGAIN 2 0 99999")


@scenario("recv() or send() fails for one client: what becomes of it, and of the others?",
          not_for={"1": "it has no others"}, expect={
    "all": {
        f"{call} {fault}": ["hello\n", "hello\n", ended, fault, "still here?\n"]
        for call, ended in (("recv", "reset"), ("send", "eof"))      # unread bytes: a reset
        for fault in ("ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH", "ENOBUFS", "EPIPE", "EIO")}})
def one_client_fails(run):
    result = {}
    for call in ("recv", "send"):
        for fault in ("ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH", "ENOBUFS", "EPIPE", "EIO"):
            server = run.start(faults=f"{call} {fault} 1 2 1")
            a, b = run.connect(), run.connect()
            talk = [a.exchange(b"hello\n").decode(), b.exchange(b"hello\n").decode()]
            a.send(b"doomed\n")
            a.recv_until_eof()
            result[f"{call} {fault}"] = [
                *talk, a.ended, server.closed(a)["reason"], b.exchange(b"still here?\n").decode()]
            server.stop()
    return result


@scenario("The wait itself fails for lack of memory: does the server live on?",
          not_for={"1-2": "there is no wait"}, expect={
    "all": {"back": "hello\n", "failures": 1, "serves_on": "hello\n",
         "waits_when_it_lasts": between(1, 5), "stops": 0}})
def wait_fails(run):
    server = run.start(faults="wait ENOMEM 1 1 1")
    a = run.connect()
    back = a.exchange(b"hello\n").decode()
    result = {"back": back, "failures": len(server.all("wait", error="ENOMEM")),
              "serves_on": run.connect().exchange(b"hello\n").decode()}
    lasting = run.start(faults="wait ENOMEM 1 0 99999999")
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
          not_for={"1-4 6-select 6-poll": NO_EPOLL}, expect={
    "all": {fault: ["hello\n", "", "eof", fault, "hello\n", 4]
            for fault in ("ENOMEM", "ENOSPC")}})
def refused_watch(run):
    result = {}
    for fault in ("ENOMEM", "ENOSPC"):
        server = run.start(faults=f"epoll_add {fault} 1 3 1")     # after pipe, listener and A
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
          not_for={"1-4 6-select 6-poll": NO_EPOLL}, expect={
    "all": {"reason": "ENOMEM", "inside": "again\n", "next": "hello\n",
             "same_number": True, "watching": 4}})
def refused_change(run):
    server = run.start(faults="epoll_mod ENOMEM 1 0 1")
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
          not_for={"1-4 6-select 6-poll": NO_EPOLL}, expect={
    "all": {"first": "hello\n", "second": "hello\n", "still_there": True}})
def refused_listener(run):
    server = run.start(faults="accept ENFILE 1 1 1, epoll_add ENOMEM 1 3 1")
    a = run.connect()
    hello = a.exchange(b"hello\n").decode()
    b = run.connect()
    b.send(b"hello\n")
    server.wait_for("pause")
    a.close()
    return {"first": hello, "second": b.recv(6).decode(), "still_there": not server.ended()}


@scenario("What cannot be had at the start is said in one line", expect={
    "all": {fault: [1, 1] for fault in
            ("pipe EMFILE", "socket ENFILE", "socket ENOBUFS", "listen EADDRINUSE")},
    EPOLL: {fault: [1, 1] for fault in ("epoll_create1 ENOMEM", "epoll_add ENOMEM")}})
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
