"""What echo, greet and chat say."""

from tests.harness.model import BAD_NAME, GOODBYE, TAKEN, UNKNOWN, WELCOME
from tests.scenarios import scenario


def _names(first, last, *, without=0):
    return ", ".join(f"guest-{i}" for i in range(first, last + 1) if i != without)


ALONE = {"1": "the room has one member at a time"}


def _text(data: bytes) -> str:
    """Bytes as they came, one character each, so that JSON can hold them."""
    return data.decode("latin-1")


@scenario("Does echo give back every byte as it came, and nothing else?", expect={
    "all": {"spoke_first": False, "back": True, "more": "", "ended": "eof",
         "reason": "eof"}})
def echo_bytes(run):
    a = run.connect()
    every = bytes(range(256))
    spoke_first = a.answered(0.05)
    back = a.exchange(every + every[::-1])
    a.half_close()
    rest = a.recv_until_eof()
    return {"spoke_first": spoke_first, "back": back == every + every[::-1], "more": _text(rest),
            "ended": a.ended, "reason": run.server.closed(a)["reason"]}


@scenario("Does greet answer line by line, up to q?", services=("greet",), expect={
    "all": {
        "welcome": WELCOME,
        "answers": ["hello good\n", " good\n", " q good\n", "Q good\n", "quit good\n",
                    "two words good\n", "\x00\x1b[31m\xff good\n"],
        "at_q": GOODBYE, "ended": "eof", "reason": "quit"}})
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
          services=("greet",), expect={
    "all": {"welcome": True, "answers": "one good\n" + GOODBYE, "ended": "eof",
            "reason": "quit"}})
def greet_after_q(run):
    a = run.connect()
    welcome = a.recv_line()
    with run.server.paused():          # more than one recv() takes has come when it looks again:
        a.send(b"one\nq\ntwo\nq\n" + b"three\n" * 6000)   # closing with bytes unread resets
    return {"welcome": welcome.endswith(b"ends\n"), "answers": _text(a.recv_until_eof()),
            "ended": a.ended, "reason": run.server.closed(a)["reason"]}


@scenario("Is a last line without newline, at half-close, a line too?", services=("greet",),
          expect={
    "all": {
        "text": ["hello good\n", "eof", "eof"], "q": [GOODBYE, "eof", "quit"],
        "with_cr": ["hello good\n", "eof", "eof"], "nothing": ["", "eof", "eof"],
        "after_lines": ["one good\ntwo good\nthree good\n", "eof", "eof"]}})
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


@scenario("What does chat say to somebody who is alone?", services=("chat",), expect={
    "all": {
        "hello": "* you are guest-1, alone here\n",
        "answers": [
            ["/who", "* here: guest-1\n"],
            ["", ""],
            ["to nobody", ""],
            ["/nick anna", "* guest-1 is now anna\n"],
            ["/nick Anna", "* anna is now Anna\n"],       # one's own name is not taken
            ["/nick anna", "* Anna is now anna\n"],
            ["/nick", BAD_NAME],
            ["/nick ", BAD_NAME],
            ["/nick two words", BAD_NAME],
            ["/nick  x", BAD_NAME],
            ["/nick a!", BAD_NAME],
            ["/nick \xe9", BAD_NAME],
            ["/nick a\x1b", BAD_NAME],
            ["/nick " + "x" * 20, f"* anna is now {'x' * 20}\n"],
            ["/nick " + "x" * 21, BAD_NAME],
            ["/nick guest-7", TAKEN],
            ["/nick GUEST-x", TAKEN],
            ["/nick guest", f"* {'x' * 20} is now guest\n"],
            ["/nick server", TAKEN],
            ["/nick SERVER", TAKEN],
            ["/nick a-b_C9", "* guest is now a-b_C9\n"],
            ["/nickel", UNKNOWN],
            ["/WHO", UNKNOWN],
            ["/who now", UNKNOWN],
            ["/", UNKNOWN],
            ["/quit", UNKNOWN],
            [" /who", ""],
            ["q", ""],
        ],
        "last_line": "* here: a-b_C9\n", "ended": "eof"}})
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


@scenario("Who hears what in a chat of three?", services=("chat",), not_for=ALONE, expect={
    "all": {
        "A": ["* you are guest-1, alone here\n", "* guest-2 joins\n", "* guest-3 joins\n",
              "* guest-2 is now bert\n", "bert: bert: guest-1: hi\n", "* guest-1 is now anna\n",
              "* bert is now x\n", "* guest-3 is now bert\n", "* x leaves\n"],
        "B": ["* you are guest-2, here: guest-1\n", "* guest-3 joins\n", "guest-1: hello\n",
              "* guest-2 is now bert\n", "* guest-1 is now anna\n", "* bert is now x\n",
              "* guest-3 is now bert\n", "anna: last words\n"],
        "C": ["* you are guest-3, here: guest-1, guest-2\n", "guest-1: hello\n",
              "* guest-2 is now bert\n", TAKEN, "* here: guest-1, bert, guest-3\n",
              "bert: bert: guest-1: hi\n", UNKNOWN, "* guest-1 is now anna\n",
              "* bert is now x\n", "* guest-3 is now bert\n", "anna: last words\n",
              "* x leaves\n", "* anna leaves\n", "* here: bert\n"]}})
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


@scenario("When does a second member get into the room?", services=("chat",), expect={
    "all": {"first": "* you are guest-1, alone here\n", "second_at_once": True,
            "second": "* you are guest-2, here: guest-1\n"},
    # By the time that it gets in, the first has left.
    "1": {"second_at_once": False, "second": "* you are guest-2, alone here\n"}})
def chat_second_member(run):
    a = run.connect()
    first = _text(a.recv_line())
    b = run.connect()
    at_once = run.answered(b)
    a.close()
    run.server.closed(a)
    return {"first": first, "second_at_once": at_once, "second": _text(b.recv_line())}


@scenario("How is a room of 53 listed?", services=("chat",), not_for=ALONE, expect={
    "all": {
        "hello_2": "* you are guest-2, here: guest-1\n",
        "hello_51": f"* you are guest-51, here: {_names(1, 50)}\n",
        "hello_52": f"* you are guest-52, here: {_names(1, 50)} and 1 more\n",
        "hello_53": f"* you are guest-53, here: {_names(1, 50)} and 2 more\n",
        "joins": ["* guest-2 joins\n", "* guest-53 joins\n"],
        "who": f"* here: {_names(1, 50)} and 3 more\n",
        "leaves": "* guest-21 leaves\n",
        "who_then": f"* here: {_names(1, 51, without=21)} and 2 more\n"}})
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


@scenario("Can a member drive another's terminal?", services=("chat",), not_for=ALONE, expect={
    "all": {name: f"guest-1: {text}\n" for name, text in {
        "escape": "?[2J?]0;title?", "controls": "?" * 12, "nul": "a?b", "delete": "a?b",
        "tab": "a?b", "cr": "a?b", "c1": "????31m??", "not_c1": "\xc2\xa0",
        "umlaut": "gr\u00f6\u00dfer \u20ac\U0001d11e".encode().decode("latin-1"),
        "invalid": "???", "cut_short": "??", "cut_in_the_middle": "??x", "overlong": "??",
        "overlong_3": "???", "surrogate": "???", "beyond": "????", "raw_c1": "?31m"}.items()}})
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
