"""How a server lets a client go: nothing that it has said is lost, and every wait has an end."""

from harness import DEADLINE
from scenarios import scenario
from scenarios.faults import _start
from scenarios.rough import MEBIBYTE, SMALL, _fill

LINGER_TIME = 5                        # seconds, say the servers (calls.hpp)


@scenario("A client sends on after its last answer has left the server: is any of it lost?",
          services=("greet",))
def last_answers(run):
    server = run.start(args=["-v"])
    lines = b"".join(b"%d\n" % i for i in range(10000))
    right = b"".join(b"%d good\n" % i for i in range(10000))
    result = {}
    for name, last, words in (("q", b"q\n", b"goodbye\n"),
                              ("too_long", b"x" * 5000 + b"\n",
                               b"error: a line is 4096 bytes at the most\n")):
        a = run.connect(**SMALL)       # so that much of it is in the server's kernel only
        welcome = a.recv_line()
        a._out = memoryview(lines)
        got = a.exchange(lines, len(right) - 50000)
        mark = server.mark()
        a.send(last)
        server.wait_until(lambda: server.all("call", after=mark, name="shutdown")
                          or server.all("close", after=mark), "its last word sent")
        a.send(b"and another line\n")
        a.send(b"and one more\n")
        got += a.recv_until_eof()
        result[name] = {"welcome": welcome.startswith(b"welcome"), "all": got == right + words,
                        "ended": a.ended}
        a.close()
        result[name]["reason"] = server.closed(a)["reason"]
    return result


@scenario("A client quits, and does not leave, or reads nothing, or sends on: how long may it?",
          services=("greet",))
def lingers(run):
    """Each with a server of its own: in stage 1 they would have to wait for each other."""
    def fill(client, server):          # until the answers do not fit into the kernel, by far
        while not server.all("send", left=bool) and run.variant.stage > 1:
            client.send(b"hello\n" * 1000)
            server.wait_until(lambda: server.stats()["bytes_in"] == client.sent, "read")
        client.send(b"hello\n" * 15000 * (run.variant.stage > 1))

    names = ["stays", "mute", "sends_on"] + ["mute_and_ended"] * (run.variant.stage > 1)
    servers = [run.start() for _ in names]
    clients = [run.connect(server=server, **SMALL) for server in servers]
    stays, mute, sends_on = clients[:3]
    others = [run.connect(server=server) for server in servers]
    stays.send(b"q\n")
    sends_on.send(b"q\n")
    fill(mute, servers[1])
    mute.send(b"\n" * 16382 * (run.variant.stage == 1) + b"q\n")
    for ended in clients[3:]:
        fill(ended, servers[3])
        ended.send(b"q")               # the end of the input ends this line
        ended.half_close()
    served = [other.recv_line() + other.exchange(b"hello\n", 11)
              for other in others if run.variant.stage > 1]

    def all_closed():
        if not sends_on.ended:
            sends_on.send_some(bytes(100000))
        return all(server.all("close", fd=server.accepted(client)["fd"])
                   for server, client in zip(servers, clients))

    # (The kernel may take some of the mute one's answers later, and its five seconds begin again.)
    servers[2].wait_until(all_closed, "all of them closed", 3 * DEADLINE)
    result = {"others_served": len(served)}
    for name, client, server in zip(names, clients, servers):
        close, fd = server.closed(client), server.accepted(client)["fd"]
        last = [event for event in server.events[:server.events.index(close)]
                if event.verb == "send" and event["fd"] == fd and "bytes" in event.fields]
        result[name] = {"reason": close["reason"],
                        "not_before": close.time - last[-1].time > LINGER_TIME - 0.1}
    # It sleeps until the deadline, and does not look again and again whether it has come.
    result["waits_in_vain"] = len(servers[0].all("wait", ready=0))
    return result


@scenario("A stop in the instant between a client's last line and the answer: does that come?",
          services=("greet",))
def stop_before_the_answer(run):
    server = _start(run, "send SIGTERM 1 1 1", "greet")    # the first one sends the welcome
    a = run.connect()
    a.recv_line()
    a.send(b"q\n")
    answer = a.recv_until_eof().decode()
    return {"answer": answer, "ended": a.ended, "status": server.wait_end(),
            "reason": server.closed(a)["reason"]}


@scenario("A stop, and every client has sent more than was read: does each get its goodbye?",
          services=("chat", "greet"), not_for={"1": "it has but one client"})
def unread_at_the_stop(run):
    """One of them is watched for writing only: the kernel takes its goodbye all the same."""
    server = run.server
    member, guest = run.connect("chat"), run.connect("greet")
    member.recv_line()
    guest.recv_line()
    server.pause()
    member.send(b"hello\n" * 100)
    guest.send(b"hello\n" * 100)
    server.send_signal(15)
    server.go_on()
    return {"member": member.recv_until_eof().decode()[-20:],
            "guest": guest.recv_until_eof().decode()[-26:], "ended": [member.ended, guest.ended]}


@scenario("A signal right after a call has failed, and its handler fails, too: whose error is seen?")
def a_signal_and_an_error(run):
    server = _start(run, "recv SIGUSR1 1 0 1")
    a = run.connect()
    a.send(b"hello\n")
    a.recv_until_eof()
    return {"reason": server.closed(a)["reason"]}


@scenario("A stop while the server rests, since a call of its own has failed: how soon does it end?")
def stop_while_it_rests(run):
    if run.variant.stage < 3:          # no wait can fail
        server = _start(run, "accept ENFILE 1 0 99999999")
        run.connect()
        server.wait_for("pause")
        stopped = server.stop()
        return {"status": stopped.status, "at_once": stopped.seconds < 0.5, "paused": True}
    server = _start(run, "wait ENOMEM 1 0 99999999")
    server.wait_for("wait", error="ENOMEM")
    server.wait_for("wait", after=server.mark(), error="ENOMEM")    # it rests a second now
    stopped = server.stop()
    return {"status": stopped.status, "at_once": stopped.seconds < 0.5}


@scenario("A stop while a client does not read: does its goodbye keep the server?", services=("greet",))
def goodbye_to_a_mute_client(run):
    server = run.server
    mute = run.connect(**SMALL)
    mute.recv_line()
    if run.variant.stage == 1:         # until it sleeps in send()
        mute.send(b"\n" * 16384 * 8)
        run.until(lambda: False)
    else:
        _fill(run, mute, b"\n" * MEBIBYTE)
    stopped = server.stop()
    return {"status": stopped.status, "within_a_second": stopped.seconds < 1}
