"""Where a server listens."""

import socket

from harness import Unavailable, default_address, own_host
from scenarios import scenario


@scenario("IPv6: does it serve on ::1?")
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
          services=())
def default_ports(run):
    host = own_host()                  # somebody may be running the stages right now
    server = run.start(args=["-a", host])
    answers = {}
    for service in ("echo", "greet", "chat"):
        expected = default_address(run.variant.stage, service, host)
        answers[service] = server.address(service) == expected
    return answers


@scenario("Are the listeners those asked for, in that order, and none exposed unasked?",
          services=("chat", "echo", "chat"))
def ports_asked_for(run):
    listening = run.server.listening()
    return {"services": [event["service"] for event in listening],
            "hosts": sorted({event["address"].rpartition(":")[0] for event in listening}),
            "first_answers": run.connect("chat").recv_line().decode()}
