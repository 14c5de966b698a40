"""TCP's urgent byte: it stands beside the stream, and must not keep a server awake."""

import time

from tests.harness import between
from tests.scenarios import scenario


@scenario("Urgent data before, between and after ordinary bytes: is anything harmed?", expect={
    "all": {"before": "first\n", "between": "second\n", "after": "third\n",
            "amidst": "one two\n", "rest": "", "ended": "eof", "narrated": ["1", "2", "3"],
            "waits_for_urgent": 3, "waits_then": between(1, 2)},  # SIGUSR1's
    # Nobody tells them: the byte stands beside the stream, and nobody fetches it.
    "1-2": {"narrated": [], "waits_for_urgent": 0, "waits_then": 0}})
def urgent_data(run):
    server, result = run.server, {}

    def told(client, count):
        """Until that many urgent bytes are narrated, or the server sleeps without a word."""
        fd = server.accepted(client)["fd"]
        run.until(lambda: len(server.all("urgent", fd=fd)) >= count, 0.05,
                  time.sleep) if run.variant.stage > 2 else None

    a = run.connect()
    a.urgent(b"1")
    told(a, 1)
    a.send(b"first\n")
    result["before"] = a.recv_line().decode()
    a.urgent(b"2")
    told(a, 2)
    a.send(b"second\n")
    result["between"] = a.recv_line().decode()
    a.send(b"third\n")
    a.urgent(b"3")
    result["after"] = a.recv_line().decode()
    told(a, 3)
    before = server.stats()
    time.sleep(0.1)                    # a window to look through
    result["waits_then"] = server.stats()["waits"] - before["waits"]
    a.half_close()
    result["rest"], result["ended"] = a.recv_until_eof().decode(), a.ended
    result["narrated"] = [event["data"].decode() for event in server.all("urgent")]
    result["waits_for_urgent"] = sum("x" in "".join(event.get("on", {}).values())
                                     for event in server.all("wait"))
    a.close()

    b = run.connect()                  # all in one go, so that they are in the kernel together
    server.accepted(b)
    with server.paused():
        b.send(b"one ")
        b.urgent(b"!")
        b.send(b"two\n")
    result["amidst"] = b.recv_line().decode()
    b.close()
    return result


@scenario("Many urgent bytes in a row, among lines: do the lines come back whole?", expect={
    "all": {"whole": 50, "ended": "eof", "narrated": True, "waits_then": between(1, 2)},
    "1-2": {"narrated": False, "waits_then": 0}})
def urgent_in_a_row(run):
    server, right = run.server, 0
    a = run.connect()
    # Only the last one stands beside the stream; one that is overtaken before it was fetched
    # falls into it (or is lost). So what is not a digit is what has to come back.
    ordinary = str.maketrans("", "", "0123456789")
    for i in range(50):
        for n in range(run.random.randrange(1, 6)):
            a.urgent(b"%d" % n)
        a.send(b"a line that is whole\n")
        right += a.recv_line().decode().translate(ordinary) == "a line that is whole\n"
    before = server.stats()
    time.sleep(0.1)                    # a window to look through
    waits = server.stats()["waits"] - before["waits"]
    a.half_close()
    a.recv_until_eof()
    return {"whole": right, "ended": a.ended, "waits_then": waits,
            "narrated": bool(server.all("urgent"))}


@scenario("The urgent byte is gone when it is asked for (EINVAL): does its sender have to go?",
          not_for={"1-2": "they are not told of urgent data"}, expect={
    "all": {"back": "hello\n", "narrated": ["!"]}})
def urgent_overtaken(run):
    server = run.start(faults="recv_oob EINVAL 1 0 1")
    a = run.connect()
    a.urgent(b"!")
    run.until(lambda: server.all("urgent"))
    return {"back": a.exchange(b"hello\n").decode(),
            "narrated": [event["data"].decode() for event in server.all("urgent")]}
