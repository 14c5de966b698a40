"""Where a server listens."""

import socket
import sys

from tests.harness import Unavailable, at_least, default_address, own_host
from tests.scenarios import scenario


@scenario("IPv6: does it serve on ::1?", expect={
    "all": {"address": "[::1]", "peer": "[::1]", "back": "hello\n"}})
def ipv6(run):
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        raise Unavailable(f"no IPv6 on this machine: {error.strerror}") from None
    server = run.start(args=["-a", "::1"])
    a = run.connect()
    back = a.exchange(b"hello\n").decode()
    peer = server.accepted(a)["peer"]
    return {"address": server.listening()[0]["address"].rpartition(":")[0],
            "peer": peer.rpartition(":")[0], "back": back}


@scenario("Without ports: does it listen on its own three, so that all stages fit side by side?",
          services=(), expect={
    "all": {"echo": True, "greet": True, "chat": True}})
def default_ports(run):
    host = own_host()                  # somebody may be running the stages right now
    server = run.start(args=["-a", host])
    answers = {}
    for service in ("echo", "greet", "chat"):
        expected = default_address(run.variant.stage, service, host)
        answers[service] = server.address(service) == expected
    return answers


@scenario("Are the listeners those asked for, in that order, and none exposed unasked?",
          services=("chat", "echo", "chat"), expect={
    "all": {"services": ["chat", "echo", "chat"], "hosts": ["127.0.0.1"],
              "first_answers": "* you are guest-1, alone here\n"}})
def ports_asked_for(run):
    listening = run.server.listening()
    return {"services": [event["service"] for event in listening],
            "hosts": sorted({event["address"].rpartition(":")[0] for event in listening}),
            "first_answers": run.connect("chat").recv_line().decode()}


@scenario("Can the port be had again at once, with a connection in TIME_WAIT?",
          services=("greet",), expect={
    "all": {"connections_in_time_wait": at_least(1), "same_port": True,
      "serves": "welcome"}})
def restart(run):
    here = ["-a", own_host()]          # no client of somebody else's can get the port in between
    server = run.start(args=here)
    client = run.connect()
    client.recv_line()
    client.send(b"q\n")                # the server closes first, so the waiting is on its side
    client.recv_until_eof()
    host, port = server.address()
    server.closed(client)
    client.close()
    server.stop()
    lingering = _time_wait(host, port)
    again = run.start(args=here, ports=[port])
    return {"connections_in_time_wait": lingering, "same_port": again.address()[1] == port,
            "serves": run.connect().recv_line().decode()[:7]}


def _time_wait(host, port):
    """How many connections linger at that address (the kernel's table, IPv4)."""
    here = f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"
    with open("/proc/net/tcp") as table:
        lingering = [row[1] for row in map(str.split, table) if row[3] == "06"]
    with open("/proc/sys/net/ipv4/tcp_max_tw_buckets") as most:
        if here not in lingering and len(lingering) > 0.5 * int(most.read()):
            raise Unavailable("so many connections are in TIME_WAIT that none may be let in")
    return lingering.count(here)
