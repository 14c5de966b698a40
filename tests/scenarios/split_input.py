"""TCP is a byte stream: however the bytes arrive, a line is what ends in a newline."""

from tests.harness import at_most, pump
from tests.harness.model import CHAT_TOO_LONG, GOODBYE, GREET_TOO_LONG, UNKNOWN
from tests.scenarios import scenario


def _text(data: bytes) -> str:
    return data.decode("latin-1")


def _pieces(run, client, *pieces):
    """Sends each piece once the one before it was received, so that each comes by itself."""
    server = run.server
    fd = server.accepted(client)["fd"]
    sizes = []
    for piece in pieces:
        mark = server.mark()
        client.send(piece)
        sizes.append(server.wait_for("recv", after=mark, fd=fd, bytes=bool)["bytes"])
    return sizes


@scenario("Lines that arrive one byte at a time", services=("greet",), expect={
    "all": {"answers": "hello good\nyou good\n good\n" + GOODBYE,
                 "received_at_a_time": 1}})
def lines_byte_by_byte(run):
    a = run.connect()
    a.recv_line()
    data = b"hello\r\nyou\n\nq\n"
    sizes = _pieces(run, a, *(data[i:i + 1] for i in range(len(data))))
    return {"answers": _text(a.recv_until_eof()), "received_at_a_time": max(sizes)}


@scenario("Many lines in one segment", services=("greet",), expect={
    "all": {"right_and_in_order": True}})
def lines_many_at_once(run):
    a = run.connect()
    a.recv_line()
    lines = [f"line {i}\n" for i in range(500)]
    a.send("".join(lines).encode())
    answers = a.recv_lines(500)
    right = [line[:-1].encode() + b" good\n" for line in lines]
    return {"right_and_in_order": answers == right}


@scenario("Lines that are split across segments", services=("greet",), expect={
    "all": {"answers": ["hello good\n", "world good\n", "and and good\n",
                      " good\n"]}})
def lines_split(run):
    a = run.connect()
    a.recv_line()
    _pieces(run, a, b"hel", b"lo\nwor", b"ld\nand", b" a", b"nd\n\n")
    return {"answers": [_text(line) for line in a.recv_lines(4)]}


@scenario("What is done to a carriage return?", services=("greet",), expect={
    "all": {
        "before_newline": "a good\n", "two": "a\r good\n", "alone": " good\n",
        "inside": "a\rb good\n", "split_off": "a good\n", "split_inside": "a\rb good\n",
        "newline_first": "a good\n\rb good\n", "q": GOODBYE}})
def lines_carriage_return(run):
    result = {}
    for name, pieces in {
            "before_newline": (b"a\r\n",), "two": (b"a\r\r\n",), "alone": (b"\r\n",),
            "inside": (b"a\rb\n",), "split_off": (b"a\r", b"\n"), "split_inside": (b"a\r", b"b\n"),
            "newline_first": (b"a\n\rb\n",), "q": (b"q\r\n",)}.items():
        client = run.connect()
        client.recv_line()
        _pieces(run, client, *pieces)
        client.half_close()
        result[name] = _text(client.recv_until_eof())
        client.close()
    return result


@scenario("How long may a line be, and what becomes of a longer one?", services=("greet",),
          expect={
    "all": {
        "4095": "taken", "4096": "taken", "4097": "refused", "4096 cr": "taken",
        "4097 cr": "refused", "4096 | newline": "taken", "4096 | cr newline": "taken",
        "4096 cr | newline": "taken", "4096 | cr | newline": "taken", "4096 cr | x": "refused",
        "4096 cr cr": "refused", "4096 | x": "refused", "4096 | end": "taken",
        "4096 cr | end": "taken", "4097 | end": "refused", "2000 | 2000 | 97": "refused",
        "among others": "one good\n" + GREET_TOO_LONG, "reason": "line_too_long"}})
def lines_limit(run):
    def kind(length, answer, client):
        if answer == b"x" * length + b" good\n":
            return "taken"
        if _text(answer) == GREET_TOO_LONG and client.ended == "eof":
            return "refused"
        return _text(answer[-80:])

    result = {}
    for name, length, pieces in (
            ("4095", 4095, (b"x" * 4095 + b"\n",)),
            ("4096", 4096, (b"x" * 4096 + b"\n",)),
            ("4097", 4097, (b"x" * 4097 + b"\n",)),
            ("4096 cr", 4096, (b"x" * 4096 + b"\r\n",)),
            ("4097 cr", 4097, (b"x" * 4097 + b"\r\n",)),
            ("4096 | newline", 4096, (b"x" * 4096, b"\n")),
            ("4096 | cr newline", 4096, (b"x" * 4096, b"\r\n")),
            ("4096 cr | newline", 4096, (b"x" * 4096 + b"\r", b"\n")),
            ("4096 | cr | newline", 4096, (b"x" * 4096, b"\r", b"\n")),
            ("4096 cr | x", 4097, (b"x" * 4096 + b"\r", b"x")),
            ("4096 cr cr", 4097, (b"x" * 4096 + b"\r\r\n",)),
            ("4096 | x", 4097, (b"x" * 4096, b"x")),
            ("4096 | end", 4096, (b"x" * 4096,)),
            ("4096 cr | end", 4096, (b"x" * 4096 + b"\r",)),
            ("4097 | end", 4097, (b"x" * 4097,)),
            ("2000 | 2000 | 97", 4097, (b"x" * 2000, b"x" * 2000, b"x" * 97 + b"\n"))):
        client = run.connect()
        client.recv_line()
        _pieces(run, client, *pieces)
        client.half_close()
        result[name] = kind(length, client.recv_until_eof(), client)
        client.close()
    a = run.connect()
    a.recv_line()
    a.send(b"one\n" + b"x" * 5000 + b"\ntwo\n")         # what came before it is answered
    result["among others"] = _text(a.recv_until_eof())
    result["reason"] = run.server.closed(a)["reason"]
    return result


@scenario("A line of a mebibyte: is its sender told why the connection ends?", services=("greet",),
          expect={
    "all": {"told": GREET_TOO_LONG, "server_goes_on": "welcome:",
"reason": "line_too_long"}})
def line_without_end(run):
    a = run.connect()
    a.recv_line()
    answer = a.exchange(b"x" * (1 << 20), size=1 << 20)      # not all of it: the server hangs up
    b = run.connect()
    return {"told": _text(answer), "server_goes_on": _text(b.recv_line())[:8],
            "reason": run.server.closed(a)["reason"]}


@scenario("An over-long line in the chat", services=("chat",), expect={
    "all": {"4096": "* here: guest-1\n",
              "4097": CHAT_TOO_LONG, "ended": "eof",
              "reason": "line_too_long"}})
def chat_line_limit(run):
    a = run.connect()
    a.recv_line()
    a.send(b"x" * 4096 + b"\n/who\n")
    longest = a.recv_line()
    a.send(b"x" * 4097 + b"\n/who\n")
    return {"4096": _text(longest), "4097": _text(a.recv_until_eof()), "ended": a.ended,
            "reason": run.server.closed(a)["reason"]}


@scenario("A member's line is too long, and much waits for it: does it hear what is said then?",
          services=("chat",), not_for={"1": "the room has one member at a time"}, expect={
    "all": {"it_waits": True, "room": "* here: guest-2\n",
           "rest_is_right": True, "ended": "eof",
           "reason": "line_too_long"}})
def told_no_more(run):
    server = run.server
    a, speaker = run.connect(rcvbuf=16384, mss=1400), run.connect()
    a.recv_lines(2), speaker.recv_line()
    fd, said = server.accepted(a)["fd"], b""

    def speak(line):
        speaker.send(line + b"\n/nick\n")
        speaker.recv_line()                        # it has been passed on
        return b"guest-2: " + line + b"\n"

    for sent in range(1000, 5001, 1000):
        while "left" not in server.all("send", fd=fd)[-1].fields and len(said) < 1 << 24:
            said += speak(b"x" * 4000)
        a.send(b"x" * 1000)                        # the kernel may take more after that: once again
        run.until(lambda: sum(event["bytes"] for event in server.all("recv", fd=fd)) == sent)
    speak(b"not for those who leave")
    speaker.send(b"/who\n")
    while not (room := speaker.recv_line()).startswith(b"* here"):
        pass
    waits = not server.all("close")
    rest = a.recv_until_eof()
    return {"it_waits": waits, "room": room.decode(), "ended": a.ended,
            "reason": server.closed(a)["reason"],
            "rest_is_right": rest == said + CHAT_TOO_LONG.encode()}


@scenario("A member speaks and leaves while others talk to it: are its last words heard?",
          services=("chat",), not_for={"1": "the room has one member at a time"}, expect={
    "all": {"close": [500, 1, 1], "urgent, reset": [500, 1, 1]}})
def last_words(run):
    server = run.server
    a, b, c = run.connect(), run.connect(), run.connect()
    server.accepted(c)
    heard = {}
    for how in ("close", "urgent, reset"):
        leaver = run.connect()
        number = leaver.recv_line().decode().split()[3].rstrip(",")
        for each in (a, b, c):
            while not each.recv_line().endswith(f"{number} joins\n".encode()):
                pass
        with server.paused():
            a.send(b"hello\n")
            b.send(b"hello\n")
            leaver.send(b"bye\n" * 500)
            leaver.urgent() if how != "close" else None
            leaver.close() if how == "close" else leaver.reset()
        lines = []
        while not lines or not lines[-1].endswith("leaves\n"):
            lines.append(c.recv_line().decode())
        heard[how] = [lines.count(f"{number}: bye\n"), lines.count("guest-1: hello\n"),
                      lines.count("guest-2: hello\n")]
    return heard


@scenario("Eight thousand commands at once from a member who reads: are all answered?",
          services=("chat",), expect={
    "all": {"any": [True, ""], "small": [True, ""]}})
def many_commands(run):
    unknown, result = UNKNOWN.encode(), {}
    for window, how in (("any", {}), ("small", {"rcvbuf": 16384, "mss": 1400})):
        a = run.connect(**how)
        a.recv_line()
        back = a.exchange(b"/\n" * 8000, len(unknown) * 8000)
        result[window] = [back == unknown * 8000, a.ended]
        a.close()
        run.server.closed(a)                       # or the next one hears of it
    return result


@scenario("One member pastes 100,000 lines: does everybody hear them all, and is it read in turns?",
          services=("chat",), not_for={"1": "the room has one member at a time"}, expect={
    "all": {"heard_all": 10, "longest_read": at_most(1024)}})
def paste(run):
    server = run.server
    hearers, a = run.crowd(10), run.connect()
    name = a.recv_line().split()[3].strip(b",")
    hearers.recv_lines()                           # who they are; who came later is heard below
    wanted = (name + b": x\n") * 100000
    a._out = memoryview(b"x\n" * 100000)
    pump([a, *hearers], lambda c: not c._out if c is a else c._in.count(b"x\n") == 100000)
    heard = [bytes(c._in).endswith(wanted) and not c.ended for c in hearers]
    fd = server.accepted(a)["fd"]
    return {"heard_all": sum(heard),
            "longest_read": max(event["bytes"] for event in server.all("recv", fd=fd))}


@scenario("The longest line, relayed", services=("chat",),
          not_for={"1": "the room has one member at a time"}, expect={
    "all": {"whole": True, "next": "guest-1: short\n"}})
def chat_longest_line(run):
    a, b = run.connect(), run.connect()
    b.recv_line()
    a.recv_lines(2)
    a.send(b"y" * 4096 + b"\r\n" + b"\n" + b"short\n")
    first, second = b.recv_lines(2)
    return {"whole": first == b"guest-1: " + b"y" * 4096 + b"\n", "next": _text(second)}
