"""More clients than FD_SETSIZE, by far: where select ends, and the others go on."""


from tests.harness import SELECT, Crowd, Unavailable, anything, at_least, at_most, between
from tests.scenarios import scenario

ALONE = {"1": "it serves one at a time, however many wait"}


@scenario("1,100 clients at once, more than FD_SETSIZE: who is served, and who when?", expect={
    "all": {"served_at_once": 1100, "served_in_the_end": 1100, "limit_is_fd_setsize": False,
            "limit_is_what_the_system_allows": True, "highest_descriptor": at_least(1100),
            "paused_for_lack_of_descriptors": False},
    "1": {"served_at_once": 1, "highest_descriptor": at_most(10),
          "limit_is_what_the_system_allows": False},
    # A descriptor of 1024 or more does not fit an fd_set; the rest waits in the backlog.
    SELECT: {"served_at_once": between(1000, 1022), "highest_descriptor": 1023,
             "limit_is_fd_setsize": True, "limit_is_what_the_system_allows": False,
             "paused_for_lack_of_descriptors": True}})
def past_fd_setsize(run):
    count = 1100
    hard = run.hard_limit(count + 100)
    server = run.start(nofile=(min(1024, hard), hard))
    crowd = run.crowd(count)
    crowd.send(lambda i: b"%04d" % i)
    at_once = run.answers(crowd)
    limit = server.all("limit")
    crowd.half_close()
    got = crowd.recv_until_eof()
    server.wait_until(lambda: len(server.all("close")) == count, "all have left")
    highest = max(event["fd"] for event in server.all("accept") if "service" in event.fields)
    return {
        "served_at_once": at_once,
        "served_in_the_end": sum(got[i] == b"%04d" % i for i in range(count)),
        "limit_is_fd_setsize": bool(limit) and limit[0]["descriptors"] == 1024,
        "limit_is_what_the_system_allows": bool(limit) and limit[0]["descriptors"] == hard,
        "highest_descriptor": highest,
        "paused_for_lack_of_descriptors": bool(server.all("pause", reason="EMFILE")),
    }


def _backlog():
    """How many newcomers the kernel keeps for one listener."""
    try:
        with open("/proc/sys/net/core/somaxconn") as limit:
            return int(limit.read())
    except OSError:
        return 128


def _crowd(run, wanted, *args):
    """That many clients (fewer, where the system does not allow so many descriptors) of a server
    with so many listeners that all of them fit into the backlogs; each has sent its number.

    They come while the server stands still, so that all of them are there at once, and it is
    not woken ten thousand times for one of them.
    """
    hard = run.hard_limit(1200)
    count = min(wanted, hard - 150)
    # One newcomer a listener and round: with few listeners a busy loop would be long about it.
    listeners = max(40, 1 + count // (_backlog() // 2 + 1))
    if listeners > 100:
        raise Unavailable(f"a backlog holds {_backlog()} here: too few for {count} clients")
    server = run.start(*["echo"] * listeners, args=args, nofile=(min(1024, hard), hard))
    with server.paused():
        crowd = Crowd(run.connect(index=i % listeners, connect=False) for i in range(count))
        for client in crowd:
            client.connected()
        crowd.send(lambda i: b"%05d" % i)
    return crowd


@scenario("1,500 clients at once: who is served, and who when some leave?", not_for=ALONE, expect={
    "all": {"clients": at_least(1000), "served_at_once": at_least(1000), "left_waiting": 0,
            "those_inside_are_served": True, "more_when_200_have_left": 0,
            "never_served": 0, "highest_descriptor": at_least(1024)},
    SELECT: {"served_at_once": between(900, 1019), "left_waiting": at_least(1),
             "more_when_200_have_left": at_least(1), "highest_descriptor": 1023}})
def clients_1500(run):
    crowd = _crowd(run, 1500)
    server, count = run.server, len(crowd)
    at_once = run.answers(crowd)
    inside = Crowd(client for client in crowd if client.answered(0))
    outside = [client for client in crowd if client not in set(inside)]
    inside.recv(lambda i: 5)
    right = inside.exchange(lambda i: b"%05d" % i) == [b"%05d" % i for i in range(len(inside))]
    leaving = set(run.random.sample(inside, 200))
    for client in leaving:
        client.close()

    def came_in():
        return sum(client.answered(0) for client in outside)

    run.until(lambda: came_in() >= min(200, len(outside)))
    then = came_in()
    staying = Crowd(client for client in crowd if client not in leaving)
    staying.half_close()
    staying.recv_until_eof()
    return {
        "clients": count,
        "served_at_once": at_once,
        "left_waiting": count - at_once,
        "those_inside_are_served": right,
        "more_when_200_have_left": then,
        "never_served": sum(client.received < 5 for client in crowd),
        "highest_descriptor": max(event["fd"] for event in server.all("accept", peer=bool)),
    }


@scenario("10,000 clients at once: is every one served?", not_for=ALONE, expect={
    "all": {"clients": at_least(1000), "fewer_than_wanted": anything,
            "served_at_once": at_least(1000), "left_waiting": 0,
            "most_at_once": at_least(1000), "not_their_own": 0, "ended_badly": 0},
    SELECT: {"served_at_once": between(900, 1019), "left_waiting": at_least(1),
             "most_at_once": between(900, 1019)}})
def clients_10000(run):
    wanted = 10000
    crowd = _crowd(run, wanted, "-q")
    count = len(crowd)
    run.until(lambda: crowd[-1].answered(0))     # cheaper than to look at all of them all the time
    at_once = run.answers(crowd)
    with run.server.paused():
        crowd.half_close()
    got = crowd.recv_until_eof()
    return {
        "clients": count,
        "fewer_than_wanted": wanted - count,
        "served_at_once": at_once,
        "left_waiting": count - at_once,
        "most_at_once": run.server.stats()["max_clients"],
        "not_their_own": sum(got[i] != b"%05d" % i for i in range(count)),
        "ended_badly": sum(client.ended != "eof" for client in crowd),
    }
