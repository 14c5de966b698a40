"""How a server ends: at any instant, with any clients, in the middle of anything."""

import select
import signal
import threading
import time

from tests.harness import MEBIBYTE, SMALL, Late, anything, at_least, at_most
from tests.harness.model import CHAT_STOP, GREET_STOP
from tests.scenarios import scenario


def _stopped(service, bye, **second):
    """Both signals do the same."""
    row = {"first": bye, "first_ended": "eof", "second": bye, "second_ended": "eof", "status": 0,
           "within_a_second": True, "reasons": ["stop"], **second}
    return {f"{service} SIGINT": row, f"{service} SIGTERM": row}


def _all_stopped(**second):
    return {**_stopped("echo", "", **second),
            **_stopped("greet", GREET_STOP, **second),
            **_stopped("chat", CHAT_STOP, **second)}


STOPS = (signal.SIGINT, signal.SIGTERM)


def _name(number):
    return signal.Signals(number).name


@scenario("Does an idle server stop when told to?", services=("echo", "greet", "chat"), expect={
    "all": {
        **{name: {"status": 0, "within_a_second": True, "told": [name], "stats_at_the_end": True}
           for name in ("SIGINT", "SIGTERM")},
        "blocked_at_the_start": 0}})
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


@scenario("What do clients hear when the server stops?", expect={
    "all": _all_stopped(),
    # The second was never accepted: the kernel ends it when the listener is closed.
    "1": _all_stopped(second="", second_ended="reset")})
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


@scenario("Signals at random moments of the start: is one lost?", expect={
    "all": {"stopped": at_least(1), "too_early_to_be_caught": anything,
                  "slowest": at_most(1), "other": [], "lost": 0}})
def stop_while_starting(run):
    return _stop_at_random(run, 20, lambda server: None)


@scenario("Signals at random moments while a client talks: is one lost?", expect={
    "all": {"stopped": 20, "too_early_to_be_caught": 0,
                 "slowest": at_most(1), "other": [], "lost": 0}})
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


def _stop_many(run, times, reach):
    """Starts servers, a few at a time, and stops each at a random moment 0 to 20 ms after it was
    started or, with reach=True, after a client has connected; what became of them."""
    result = {"stopped": 0, "too_early_to_be_caught": 0, "lost": 0, "other": []}
    slowest, left, running, told = 0.0, times, [], []
    together = 3 if run.variant.stage == 2 else 8  # each of those takes a whole CPU
    while left or running:
        while left and len(running) < together:
            left -= 1
            server = run.start(wait=False)
            running.append([server, None if reach else time.monotonic() + delay(run)])
        for entry in list(running):
            server, due = entry
            if due is None and server.listening():
                client = run.connect(server=server)
                client.send_some(b"hello\n" * run.random.randrange(3))
                entry[1] = time.monotonic() + delay(run)
            elif due is not None and time.monotonic() >= due:
                server.send_signal(run.random.choice(STOPS))
                told.append((server, time.monotonic()))
                running.remove(entry)
        time.sleep(0.0005)
    for server, since in told:
        try:
            server.wait_end()
        except Late:
            result["lost"] += 1
            server.kill()
            run.servers.remove(server)
            continue
        silent = not server.narration()
        if server.status == 0 and server.all("stats") and server.all("stop"):
            result["stopped"] += 1
            slowest = max(slowest, server.events[-1].time + server.clock - since)
        elif server.status in [-number for number in STOPS] and silent and not reach:
            result["too_early_to_be_caught"] += 1  # before main() had begun
            run.servers.remove(server)
        else:
            result["other"].append([server.status, server.narration()[-200:]])
    for client in run.clients:
        client.close()
    return {**result, "slowest": round(slowest, 3)}


def delay(run):
    return run.random.uniform(0, 0.02)


@scenario("200 stops, 0 to 20 ms after the start or after a connect: is one lost?", expect={
    "all": {"all_ended": True, "too_early_to_be_caught": anything, "lost": 0,
              "other": [], "slowest": at_most(5)}})
def stops_at_random(run):
    times = 100
    early, late = _stop_many(run, times, False), _stop_many(run, times, True)
    return {
        "all_ended": early["stopped"] + early["too_early_to_be_caught"] == times
                     and late["stopped"] == times,
        "too_early_to_be_caught": early["too_early_to_be_caught"],
        "lost": early["lost"] + late["lost"], "other": early["other"] + late["other"],
        "slowest": max(early["slowest"], late["slowest"])}


def _flood(clients, over):
    """Sends without a pause and reads what comes, from all of them, until each has ended."""
    socks = {client.fileno(): client.sock for client in clients}
    data = bytes(65536)
    poll = select.poll()
    for fd in socks:
        poll.register(fd, select.POLLIN | select.POLLOUT)
    while socks and not over.is_set():
        for fd, events in poll.poll(100):
            try:
                if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    if not socks[fd].recv(1 << 20):
                        raise ConnectionResetError
                if events & select.POLLOUT:
                    socks[fd].send(data)
            except BlockingIOError:
                pass
            except OSError:
                poll.unregister(fd)
                del socks[fd]


@scenario("A stop while three clients flood without a pause: how soon?", expect={
    "all": {
        name: {"status": 0, "within_a_second": True, "stops": 1}
        for name in ("SIGINT", "SIGTERM")}})
def stop_while_flooded(run):
    result = {}
    for number in STOPS:
        server = run.start()
        clients = run.crowd(3)
        over = threading.Event()
        flooding = threading.Thread(target=_flood, args=(clients, over), daemon=True)
        flooding.start()
        server.wait_until(lambda: len(server.all("send")) > 200, "a flood")
        stopped = server.stop(number)
        over.set()
        flooding.join()
        result[signal.Signals(number).name] = {
            "status": stopped.status, "within_a_second": stopped.seconds < 1,
            "stops": len(server.all("stop"))}
    return result


@scenario("Two stop signals in a row, and SIGUSR1 before, between and behind", expect={
    "all": {"status": [0], "stops": [1], "stats": [True],
         "within_a_second": [True]}})
def stop_twice(run):
    result = {"status": [], "stops": [], "stats": [], "within_a_second": []}
    again = [(signal.SIGTERM, signal.SIGTERM)] * 8
    for numbers in (*again, (signal.SIGINT, signal.SIGTERM),
                    (signal.SIGUSR1, signal.SIGINT), (signal.SIGINT, signal.SIGUSR1),
                    (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)):
        server = run.start()
        crowd = run.crowd(10)                      # something to do for it meanwhile
        crowd[0].exchange(b"hello\n")
        for number in numbers[:-1]:
            server.send_signal(number)
            time.sleep(run.random.uniform(0, 0.0003))
        stopped = server.stop(numbers[-1])
        result["status"].append(stopped.status)
        result["stops"].append(len(server.all("stop")))
        result["stats"].append(bool(stopped.stats))
        result["within_a_second"].append(stopped.seconds < 1)
    return {key: sorted(set(values)) for key, values in result.items()}


@scenario("A signal while a client reads nothing: does the server stop?", expect={
    "all": {name: {"status": 0, "within_a_second": True,
                      "something_waited": True, "reasons": ["stop"]}
               for name in ("SIGINT", "SIGTERM")}})
def mute_reader_stop(run):
    result = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        server = run.start()
        mute = run.connect(name="mute")
        mute.exchange(b"hello\n")
        run.fill(mute, bytes(32 * MEBIBYTE))
        run.connect()                  # somebody waits, too
        stopped = server.stop(number)
        result[signal.Signals(number).name] = {
            "status": stopped.status, "within_a_second": stopped.seconds < 1,
            "something_waited": stopped.stats["bytes_in"] > stopped.stats["bytes_out"],
            "reasons": sorted({event["reason"] for event in server.all("close")})}
    return result


@scenario("A stop, and every client has sent more than was read: does each get its goodbye?",
          services=("chat", "greet"), not_for={"1": "it has but one client"}, expect={
    "all": {"member": CHAT_STOP,
                 "guest": GREET_STOP, "ended": ["eof", "eof"]}})
def unread_at_the_stop(run):
    """One of them is watched for writing only: the kernel takes its goodbye all the same."""
    server = run.server
    member, guest = run.connect("chat"), run.connect("greet")
    member.recv_line()
    guest.recv_line()
    with server.paused():
        member.send(b"hello\n" * 100)
        guest.send(b"hello\n" * 100)
        server.send_signal(signal.SIGTERM)
    return {"member": member.recv_until_eof().decode()[-20:],
            "guest": guest.recv_until_eof().decode()[-26:], "ended": [member.ended, guest.ended]}


@scenario("A stop while a client does not read: does its goodbye keep the server?",
          services=("greet",), expect={
    "all": {"status": 0, "within_a_second": True}})
def goodbye_to_a_mute_client(run):
    server = run.server
    mute = run.connect(**SMALL)
    mute.recv_line()
    if run.variant.stage == 1:         # until it sleeps in send()
        mute.send(b"\n" * 16384 * 8)
        run.until(lambda: False)
    else:
        run.fill(mute, b"\n" * MEBIBYTE)
    stopped = server.stop()
    return {"status": stopped.status, "within_a_second": stopped.seconds < 1}


@scenario("A storm of signals while clients talk: does every byte come back?", expect={
    "all": {"all_came_back": True, "rounds": at_least(1), "signals": at_least(6),
           "stats": at_least(1)}})
def signal_storm(run):
    storm = (signal.SIGWINCH, signal.SIGURG, signal.SIGCHLD, signal.SIGUSR1, signal.SIGCONT)
    over, sent = threading.Event(), {}

    def blow():
        chance = random_of(run)
        while not over.is_set():
            number = chance.choice((*storm, signal.SIGSTOP))
            run.server.send_signal(number)
            sent[number] = sent.get(number, 0) + 1
            if number == signal.SIGSTOP:
                time.sleep(chance.uniform(0, 0.002))
                run.server.send_signal(signal.SIGCONT)
            time.sleep(chance.uniform(0, 0.001))

    crowd = run.crowd(1 if run.variant.stage == 1 else 3)
    blowing = threading.Thread(target=blow, daemon=True)
    blowing.start()
    same = 0
    try:
        until = time.monotonic() + 0.3
        rounds = 0
        while time.monotonic() < until or len(sent) < 6:
            data = [run.random.randbytes(run.random.choice((1, 100, 100000))) for _ in crowd]
            same += crowd.exchange(lambda i: data[i]) == data
            rounds += 1
    finally:
        over.set()
        blowing.join()
        run.server.send_signal(signal.SIGCONT)
    return {"all_came_back": same == rounds, "rounds": rounds,
            "signals": sum(sent.values()), "stats": len(run.server.all("stats"))}


def random_of(run):
    """A second source of randomness, for a second thread."""
    return type(run.random)(run.random.random())
