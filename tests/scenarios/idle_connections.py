"""Clients that say nothing: what they cost, where the stages part."""

from tests.harness import anything, at_least, between
from tests.scenarios import scenario


def _difference(after, before):
    return {key: after[key] - before[key] for key in after.fields}


def _beside(scanned, **figures):
    """What one message costs beside so many silent clients."""
    cost = {"watch": 0.0, "accept": 0.0, "recv": 1.0, "send": 1.0, "would_block": 0.0, **figures}
    return {str(silent): {**cost, "scanned": scanned(silent)} for silent in (0, 10, 100, 1000)}


COUNTS = (0, 10, 100, 1000)
KEYS = ("waits", "ready", "watch", "scanned", "accept", "recv", "send", "would_block")
MESSAGES = 50


@scenario("What does a server do while fifty clients say nothing?", expect={
    # SIGUSR1, which asks for the counters, wakes it.
    "all": {"served": 50, "asleep": True, "seconds": anything, "cpu_share": anything,
            "empty_calls": 0, "other_calls": 0, "waits": between(1, 2)},
    "1": {"served": 1, "waits": 0, "other_calls": between(0, 2)},  # ... from recv()
    # Nobody says anything, and it asks all of them, again and again: a whole CPU, if it gets one.
    "2": {"waits": 0, "empty_calls": at_least(1000), "asleep": False}})
def idle(run):
    run.say("Fifty clients connect, and each asks once.")
    crowd = run.crowd(50)
    crowd.send(lambda i: b"hello\n")
    served = run.answers(crowd)
    server = run.server
    run.say("Nobody says anything.")
    before = server.stats()
    seen = server.idle(0.25)
    counted = _difference(server.stats(), before)
    return {
        "served": served,
        **seen,
        "empty_calls": counted["would_block"],
        "other_calls": counted["accept"] + counted["recv"] + counted["send"]
                       - counted["would_block"],
        "waits": counted["waits"],
    }


@scenario("What does one message cost beside 0, 10, 100, 1,000 silent clients?", expect={
    # select and poll look at everybody, in the kernel and in the program: twice all there are.
    "all": _beside(waits=1.0, ready=1.0, scanned=lambda silent: between(
        2 * silent, 2 * silent + 10)),
    "1": _beside(waits=0.0, ready=0.0, scanned=lambda silent: 0.0),
    "2": _beside(waits=0.0, ready=0.0, scanned=lambda silent: at_least(0.9 * silent),
                 accept=anything, recv=at_least(1), would_block=at_least(0.5)),
    "5 6-epoll": _beside(waits=1.0, ready=1.0, scanned=lambda silent: 2.0)})
def silent_clients(run):
    run.hard_limit(COUNTS[-1] + 24)
    speaker = run.connect()
    speaker.exchange(b"hello\n")
    result, silent = {}, 0
    for count in COUNTS:
        run.say(f"Beside {count:,} silent clients, A asks {MESSAGES} times.")
        run.crowd(count - silent)
        silent = count
        run.until(lambda: len(run.server.all("accept")) == count + 1)
        result[str(count)] = _one_message(run.server, speaker)
    return result


def _one_message(server, speaker):
    """What the counters grow by for each message; what asking for them costs is taken off."""
    stats = [_counters(server), _counters(server)]
    for _ in range(MESSAGES):
        speaker.exchange(b"hello\n")
    stats.append(_counters(server))
    asking, all_in_all = ({key: after[key] - before[key] for key in KEYS}
                          for before, after in zip(stats, stats[1:]))
    if server.variant.stage == 2:           # never asleep, so it need not be woken to be asked
        asking = dict.fromkeys(KEYS, 0)
    return {key: max(0.0, round((all_in_all[key] - asking[key]) / MESSAGES, 1)) for key in KEYS}


def _counters(server):
    """From its sleep, so that waking it costs the same each time."""
    server.wait_until(lambda: server.variant.stage == 2 or server.state() == "S", "asleep")
    return server.stats()
