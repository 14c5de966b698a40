"""What one message costs while others are connected and say nothing: where the stages part."""

from scenarios import scenario

COUNTS = (0, 10, 100, 1000)
KEYS = ("waits", "ready", "watch", "scanned", "accept", "recv", "send", "would_block")
MESSAGES = 50


@scenario("What does one message cost beside 0, 10, 100, 1,000 silent clients?")
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
