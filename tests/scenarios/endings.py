"""How a server lets a client go: nothing that it has said is lost, and every wait has an end."""

from tests.harness import DEADLINE, SMALL, at_most, one_of
from tests.harness.model import GOODBYE, GREET_TOO_LONG
from tests.scenarios import scenario

LINGER_TIME = 5                        # seconds, say the servers (calls.hpp)


@scenario("A client sends on after its last answer has left the server: is any of it lost?",
          services=("greet",), expect={
    "all": {
        name: {"welcome": True, "all": True, "ended": "eof", "reason": reason}
        for name, reason in (("q", "quit"), ("too_long", "line_too_long"))}})
def last_answers(run):
    server = run.start(args=["-v"])
    lines = b"".join(b"%d\n" % i for i in range(10000))
    right = b"".join(b"%d good\n" % i for i in range(10000))
    result = {}
    for name, last, words in (("q", b"q\n", GOODBYE),
                              ("too_long", b"x" * 5000 + b"\n",
                               GREET_TOO_LONG)):
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
        result[name] = {"welcome": welcome.startswith(b"welcome"), "ended": a.ended,
                        "all": got == right + words.encode()}
        a.close()
        result[name]["reason"] = server.closed(a)["reason"]
    return result


@scenario("A client quits, and does not leave, or reads nothing, or sends on: how long may it?",
          services=("greet",), expect={
    "all": {
        "others_served": 4, "waits_in_vain": at_most(3),
        "stays": {"reason": "quit", "not_before": True},
        "mute": {"reason": "slow_reader", "not_before": True},
        "sends_on": {"reason": "quit", "not_before": True}},
    "2-6": {"mute_and_ended": {"reason": "slow_reader", "not_before": True}},
    "1": {"others_served": 0, "mute": {"reason": one_of("slow_reader", "quit"),
                                       "not_before": True}}})
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
