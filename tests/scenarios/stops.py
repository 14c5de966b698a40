"""How a server ends: at any instant, whoever is connected."""

import signal
import socket
import sys
import time

from harness import Unavailable, own_host
from scenarios import scenario


def _name(number):
    return signal.Signals(number).name


@scenario("Does an idle server stop when told to?", services=("echo", "greet", "chat"))
def stop_idle(run):
    result = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        server = run.start()
        stopped = server.stop(number)
        result[_name(number)] = {
            "status": stopped.status, "within_a_second": stopped.seconds < 1,
            "told": [event["signal"] for event in server.all("stop")],
            "stats_at_the_end": stopped.stats is not None}
    # Whoever starts it may have them blocked, and that is inherited.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        server = run.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return {**result, "blocked_at_the_start": server.stop().status}


@scenario("What do clients hear when the server stops?")
def stop_with_clients(run):
    result = {}
    for service in ("echo", "greet", "chat"):
        for number in (signal.SIGINT, signal.SIGTERM):
            server = run.start(service)
            first = run.connect(service)
            if service == "echo":
                first.exchange(b"hello\n")
            else:
                first.recv_line()
            second = run.connect(service)
            if service == "echo":
                second.send(b"hello\n")
            if run.answered(second, 0.1):
                second.recv_line()
                if service == "chat":
                    first.recv_line()
            stopped = server.stop(number)
            result[f"{service} {_name(number)}"] = {
                "first": first.recv_until_eof().decode(), "first_ended": first.ended,
                "second": second.recv_until_eof().decode(), "second_ended": second.ended,
                "status": stopped.status, "within_a_second": stopped.seconds < 1,
                "reasons": sorted({event["reason"] for event in server.all("close")})}
    return result


@scenario("Signals at random moments of the start: is one lost?")
def stop_while_starting(run):
    return _stop_at_random(run, 20, lambda server: None)


@scenario("Signals at random moments while a client talks: is one lost?")
def stop_while_talking(run):
    def talk(server):
        client = run.connect()
        until = time.monotonic() + run.random.uniform(0, 0.005)
        while time.monotonic() < until:
            client.exchange(b"hello\n")
        client.send(b"still under way\n")
    return _stop_at_random(run, 20, talk)


def _stop_at_random(run, times, before):
    """Stops a new server each time: while it starts, or just after `before`."""
    result = {"stopped": 0, "too_early_to_be_caught": 0, "slowest": 0.0, "other": []}
    starting = before.__name__ == "<lambda>"
    began = time.monotonic()
    run.start().stop()                               # how long does a start take, here and now?
    longest = max(0.02, 2 * (time.monotonic() - began))
    for _ in range(times):
        server = run.start(wait=not starting)
        before(server)
        time.sleep(run.random.uniform(0, longest if starting else 0.001))
        stopped = server.stop(run.random.choice((signal.SIGINT, signal.SIGTERM)))
        result["slowest"] = max(result["slowest"], round(stopped.seconds, 3))
        if stopped.status == 0 and stopped.stats:
            result["stopped"] += 1
        elif stopped.status in (-signal.SIGINT, -signal.SIGTERM) and not server.narration():
            result["too_early_to_be_caught"] += 1    # main() had not begun
            run.servers.remove(server)
        else:
            result["other"].append([stopped.status, server.narration()[-200:]])
    result["lost"] = times - result["stopped"] - result["too_early_to_be_caught"]
    return result


@scenario("Can the port be had again at once, with a connection in TIME_WAIT?",
          services=("greet",))
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
            raise Unavailable("so many connections are in TIME_WAIT that the kernel may let none in")
    return lingering.count(here)
