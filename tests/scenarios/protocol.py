"""What echo, greet and chat say."""

from scenarios import scenario

ALONE = {"1": "the room has one member at a time"}


def _text(data: bytes) -> str:
    """Bytes as they came, one character each, so that JSON can hold them."""
    return data.decode("latin-1")


@scenario("Does echo give back every byte as it came, and nothing else?")
def echo_bytes(run):
    a = run.connect()
    every = bytes(range(256))
    spoke_first = a.answered(0.05)
    back = a.exchange(every + every[::-1])
    a.half_close()
    rest = a.recv_until_eof()
    return {"spoke_first": spoke_first, "back": back == every + every[::-1], "more": _text(rest),
            "ended": a.ended, "reason": run.server.closed(a)["reason"]}


@scenario("Does greet answer line by line, up to q?", services=("greet",))
def greet_talk(run):
    a = run.connect()
    welcome = a.recv_line()
    answers = []
    for line in (b"hello", b"", b" q", b"Q", b"quit", b"two words", b"\x00\x1b[31m\xff"):
        a.send(line + b"\n")
        answers.append(_text(a.recv_line()))
    a.send(b"q\n")
    return {"welcome": _text(welcome), "answers": answers, "at_q": _text(a.recv_until_eof()),
            "ended": a.ended, "reason": run.server.closed(a)["reason"]}


@scenario("Is what comes after q left unanswered, and the goodbye not lost over it?",
          services=("greet",))
def greet_after_q(run):
    a = run.connect()
    welcome = a.recv_line()
    run.server.pause()                 # more than one recv() takes has come when it looks again:
    a.send(b"one\nq\ntwo\nq\n" + b"three\n" * 6000)       # closing with bytes unread resets
    run.server.go_on()
    return {"welcome": welcome.endswith(b"ends\n"), "answers": _text(a.recv_until_eof()),
            "ended": a.ended, "reason": run.server.closed(a)["reason"]}


@scenario("Is a last line without newline, at half-close, a line too?", services=("greet",))
def greet_last_line(run):
    result = {}
    for name, data in {"text": b"hello", "q": b"q", "with_cr": b"hello\r", "nothing": b"",
                       "after_lines": b"one\ntwo\nthree"}.items():
        client = run.connect()
        client.recv_line()
        client.send(data)
        client.half_close()
        result[name] = [_text(client.recv_until_eof()), client.ended,
                        run.server.closed(client)["reason"]]
        client.close()
    return result


@scenario("What does chat say to somebody who is alone?", services=("chat",))
def chat_alone(run):
    a = run.connect()
    result = {"hello": _text(a.recv_line()), "answers": []}
    for line in ("/who", "", "to nobody", "/nick anna", "/nick Anna", "/nick anna", "/nick",
                 "/nick ", "/nick two words", "/nick  x", "/nick a!", "/nick \xe9", "/nick a\x1b",
                 "/nick " + "x" * 20, "/nick " + "x" * 21, "/nick guest-7", "/nick GUEST-x",
                 "/nick guest", "/nick server", "/nick SERVER", "/nick a-b_C9", "/nickel", "/WHO",
                 "/who now", "/", "/quit", " /who", "q"):
        a.send(line.encode("latin-1") + b"\n/who\n")   # what gets no answer shows by the next one
        answer = a.recv_line()
        silent = answer.startswith(b"* here: ") and line != "/who"
        result["answers"].append([line, "" if silent else _text(answer)])
        if not silent:
            a.recv_line()
    a.send(b"/who")                                   # a last line without newline is a line
    a.half_close()
    result["last_line"] = _text(a.recv_until_eof())
    result["ended"] = a.ended
    return result


@scenario("Who hears what in a chat of three?", services=("chat",), not_for=ALONE)
def chat_talk(run):
    a = run.connect()
    heard = {"A": [_text(a.recv_line())], "B": [], "C": []}
    b = run.connect()
    heard["B"] += [_text(b.recv_line())]
    heard["A"] += [_text(a.recv_line())]
    c = run.connect()
    heard["C"] += [_text(c.recv_line())]
    everybody = {"A": a, "B": b, "C": c}
    run.server.accepted(c)
    for who, line in (("A", "hello"), ("B", ""), ("B", "/nick bert"), ("C", "/nick BERT"),
                      ("C", "/who"), ("B", "bert: guest-1: hi"), ("C", "/no"), ("A", "/nick anna"),
                      ("B", "/nick x"), ("C", "/nick bert"), ("A", "last words")):
        # Each line has been heard by all before the next is said: /who is the proof.
        everybody[who].send(line.encode() + b"\n")
        for name, client in everybody.items():
            client.send(b"/who\n")
            while not (line_heard := client.recv_line()).startswith(b"* here: "):
                heard[name].append(_text(line_heard))
            if line == "/who" and name == who:
                heard[name].append(_text(line_heard))
                client.recv_line()
    b.close()
    heard["A"].append(_text(a.recv_line()))
    heard["C"].append(_text(c.recv_line()))
    a.reset()
    heard["C"].append(_text(c.recv_line()))
    c.send(b"/who\n")
    heard["C"].append(_text(c.recv_line()))
    return heard


@scenario("When does a second member get into the room?", services=("chat",))
def chat_second_member(run):
    a = run.connect()
    first = _text(a.recv_line())
    b = run.connect()
    at_once = run.answered(b)
    a.close()
    run.server.closed(a)
    return {"first": first, "second_at_once": at_once, "second": _text(b.recv_line())}


@scenario("How is a room of 53 listed?", services=("chat",), not_for=ALONE)
def chat_full_room(run):
    crowd = [run.connect() for _ in range(53)]
    hello = [client.recv_line() for client in crowd]
    crowd[0].send(b"/who\n")
    *joins, who = crowd[0].recv_lines(53)
    crowd[20].close()
    leaves = crowd[0].recv_line()
    crowd[0].send(b"/who\n")
    return {"hello_2": _text(hello[1]), "hello_51": _text(hello[50]), "hello_52": _text(hello[51]),
            "hello_53": _text(hello[52]), "joins": [_text(joins[0]), _text(joins[-1])],
            "who": _text(who), "leaves": _text(leaves), "who_then": _text(crowd[0].recv_line())}


@scenario("Can a member drive another's terminal?", services=("chat",), not_for=ALONE)
def chat_harmful_bytes(run):
    a, b = run.connect(), run.connect()
    b.recv_line()
    a.recv_lines(2)
    heard = {}
    for name, data in {
            "escape": b"\x1b[2J\x1b]0;title\x07", "controls": bytes(range(1, 10)) + b"\x0b\x0c\x0e",
            "nul": b"a\x00b", "delete": b"a\x7fb", "tab": b"a\tb", "cr": b"a\rb",
            "c1": b"\xc2\x80\xc2\x9b31m\xc2\x9f", "not_c1": b"\xc2\xa0",
            "umlaut": "größer €𝄞".encode(), "invalid": b"\xff\xfe\x80",
            "cut_short": b"\xe2\x82", "cut_in_the_middle": b"\xe2\x82x", "overlong": b"\xc0\xaf",
            "overlong_3": b"\xe0\x80\xaf", "surrogate": b"\xed\xa0\x80",
            "beyond": b"\xf4\x90\x80\x80", "raw_c1": b"\x9b31m"}.items():
        a.send(data + b"\n")
        heard[name] = _text(b.recv_line())
    return heard
