"""What is expected of each scenario, stage by stage; scenarios/ only observe.

A row: what the scenario returns, key by key, under "all"; then what is otherwise in some
stages, under words such as "1", "2-5" or "3 6-select" (Variant.matches). A value is what is
expected, or a condition: at_least(3), at_most(0.5), anything (told, not judged).

The flaw that a stage is there to show is expected of it like everything else.
"""

from __future__ import annotations

from typing import Any, Callable

from harness import SANITIZED, Variant


class Condition:
    """A value is right if the test holds; prints as its text."""

    def __init__(self, text: str, test: Callable[[Any], bool]) -> None:
        self.text, self.test = text, test

    def __repr__(self) -> str:
        return self.text

    def __eq__(self, value: object) -> bool:
        try:
            return bool(self.test(value))
        except TypeError:
            return False

    __hash__ = None  # type: ignore[assignment]


def at_least(least: float) -> Condition:
    return Condition(f"at least {least:g}", lambda value: value >= least)


def at_most(most: float) -> Condition:
    return Condition(f"at most {most:g}", lambda value: value <= most)


def between(least: float, most: float) -> Condition:
    return Condition(f"{least:g} to {most:g}", lambda value: least <= value <= most)


def one_of(*values: Any) -> Condition:
    return Condition(" or ".join(map(repr, values)), lambda value: value in values)


def including(*wanted: Any) -> Condition:
    return Condition("including " + ", ".join(map(repr, wanted)),
                     lambda value: all(each in value for each in wanted))


anything = Condition("anything", lambda value: True)


def expected_for(scenario: str, variant: Variant) -> dict[str, Any]:
    """A scenario's row as it reads for that variant."""
    row = EXPECTED[scenario]
    merged = dict(row.get("all", {}))
    for which, values in row.items():
        if which != "all" and variant.matches(which):
            merged.update(values)
    return merged


def differences(observed: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """One line for whatever is not as expected; what nobody expects is a difference, too."""
    lines = []
    for key in [*expected, *(key for key in observed if key not in expected)]:
        if key not in observed:
            lines.append(f"{key}: expected {expected[key]!r}, but it was not observed")
        elif key not in expected:
            lines.append(f"{key}: {observed[key]!r} was observed, but the table has no such key")
        elif not expected[key] == observed[key]:
            lines.append(f"{key}: expected {expected[key]!r}, observed {observed[key]!r}")
    return lines


MANY = "2-6"                                   # the stages that serve many at once
WAITING = "3-6"                                # those that have a wait
SELECT = "3 6-select"                          # those that are bound to FD_SETSIZE

ANY = anything
TOO_LONG = "error: a line is 4096 bytes at the most\n"
BAD_NAME = "* a name is 1 to 20 letters, digits, - or _\n"
TAKEN = "* that name is taken\n"
UNKNOWN = "* no such command: there are /nick NAME and /who\n"


def _names(first: int, last: int, *, without: int = 0) -> str:
    return ", ".join(f"guest-{i}" for i in range(first, last + 1) if i != without)


def _stopped(service: str, bye: str, **second: Any) -> dict[str, Any]:
    """Both signals do the same."""
    row = {"first": bye, "first_ended": "eof", "second": bye, "second_ended": "eof", "status": 0,
           "within_a_second": True, "reasons": ["stop"], **second}
    return {f"{service} SIGINT": row, f"{service} SIGTERM": row}


def _all_stopped(**second: Any) -> dict[str, Any]:
    return {**_stopped("echo", "", **second),
            **_stopped("greet", "goodbye: the server stops\n", **second),
            **_stopped("chat", "* the server stops\n", **second)}


def _beside(scanned: Callable[[int], Any], **figures: Any) -> dict[str, Any]:
    """What one message costs beside so many silent clients."""
    cost = {"watch": 0.0, "accept": 0.0, "recv": 1.0, "send": 1.0, "would_block": 0.0, **figures}
    return {str(silent): {**cost, "scanned": scanned(silent)} for silent in (0, 10, 100, 1000)}


EXPECTED: dict[str, dict[str, dict[str, Any]]] = {

    # crowds.py

    "second_client": {
        "all": {"answered_while_first_is_silent": True, "answer_in_the_end": "hello\n",
                "milliseconds": ANY, "first_is_gone": "eof"},
        # One thread sleeps in recv() for the first: the second waits until that one leaves.
        "1": {"answered_while_first_is_silent": False, "milliseconds": at_least(200)},
    },
    "second_listener": {
        "all": {"while_the_first_has_a_client": True, "when_that_one_has_left": True,
                "first_listener_goes_on": "again\n", "says_why_not": False},
        # One thread waits in one accept(), for ever.
        "1": {"while_the_first_has_a_client": False, "when_that_one_has_left": False,
              "says_why_not": True},
    },
    "all_listeners": {
        "all": {"echo": "first\n",
                "greet": "welcome: every line comes back with ' good' behind it, q ends\n",
                "chat": "* you are guest-1, alone here\n", "echo_again": "second\n",
                "listeners": ["echo", "greet", "chat", "echo"], "ports_differ": True},
        "1": {"greet": None, "chat": None, "echo_again": None},
    },
    "two_clients": {
        "all": {"answered_while_all_are_there": 2, "got_exactly_their_own": 2, "ended_well": 2},
        "1": {"answered_while_all_are_there": 1},
    },
    "fifty_clients": {
        "all": {"answered_while_all_are_there": 50, "got_exactly_their_own": 50, "ended_well": 50},
        "1": {"answered_while_all_are_there": 1},
    },
    "ping_pong": {"all": {"right_answers": 100}},
    "past_fd_setsize": {
        "all": {"served_at_once": 1100, "served_in_the_end": 1100, "limit_is_fd_setsize": False,
                "limit_is_what_the_system_allows": True, "highest_descriptor": at_least(1100),
                "paused_for_lack_of_descriptors": False},
        "1": {"served_at_once": 1, "highest_descriptor": at_most(10),
              "limit_is_what_the_system_allows": False},
        # A descriptor of 1024 or more does not fit an fd_set; the rest waits in the backlog.
        SELECT: {"served_at_once": between(1000, 1022), "highest_descriptor": 1023,
                 "limit_is_fd_setsize": True, "limit_is_what_the_system_allows": False,
                 "paused_for_lack_of_descriptors": True},
    },

    # protocol.py

    "echo_bytes": {"all": {"spoke_first": False, "back": True, "more": "", "ended": "eof",
                           "reason": "eof"}},
    "greet_talk": {"all": {
        "welcome": "welcome: every line comes back with ' good' behind it, q ends\n",
        "answers": ["hello good\n", " good\n", " q good\n", "Q good\n", "quit good\n",
                    "two words good\n", "\x00\x1b[31m\xff good\n"],
        "at_q": "goodbye\n", "ended": "eof", "reason": "quit"}},
    "greet_after_q": {"all": {"welcome": True, "answers": "one good\ngoodbye\n", "ended": "eof",
                              "reason": "quit"}},
    "greet_last_line": {"all": {
        "text": ["hello good\n", "eof", "eof"], "q": ["goodbye\n", "eof", "quit"],
        "with_cr": ["hello good\n", "eof", "eof"], "nothing": ["", "eof", "eof"],
        "after_lines": ["one good\ntwo good\nthree good\n", "eof", "eof"]}},
    "chat_alone": {"all": {
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
        "last_line": "* here: a-b_C9\n", "ended": "eof"}},
    "chat_talk": {"all": {
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
              "* x leaves\n", "* anna leaves\n", "* here: bert\n"]}},
    "chat_second_member": {
        "all": {"first": "* you are guest-1, alone here\n", "second_at_once": True,
                "second": "* you are guest-2, here: guest-1\n"},
        # By the time that it gets in, the first has left.
        "1": {"second_at_once": False, "second": "* you are guest-2, alone here\n"},
    },
    "chat_full_room": {"all": {
        "hello_2": "* you are guest-2, here: guest-1\n",
        "hello_51": f"* you are guest-51, here: {_names(1, 50)}\n",
        "hello_52": f"* you are guest-52, here: {_names(1, 50)} and 1 more\n",
        "hello_53": f"* you are guest-53, here: {_names(1, 50)} and 2 more\n",
        "joins": ["* guest-2 joins\n", "* guest-53 joins\n"],
        "who": f"* here: {_names(1, 50)} and 3 more\n",
        "leaves": "* guest-21 leaves\n",
        "who_then": f"* here: {_names(1, 51, without=21)} and 2 more\n"}},
    "chat_harmful_bytes": {"all": {name: f"guest-1: {text}\n" for name, text in {
        "escape": "?[2J?]0;title?", "controls": "?" * 12, "nul": "a?b", "delete": "a?b",
        "tab": "a?b", "cr": "a?b", "c1": "????31m??", "not_c1": "\xc2\xa0",
        "umlaut": "gr\u00f6\u00dfer \u20ac\U0001d11e".encode().decode("latin-1"),
        "invalid": "???", "cut_short": "??", "cut_in_the_middle": "??x", "overlong": "??",
        "overlong_3": "???", "surrogate": "???", "beyond": "????", "raw_c1": "?31m"}.items()}},

    # lines.py

    "lines_byte_by_byte": {"all": {"answers": "hello good\nyou good\n good\ngoodbye\n",
                                   "received_at_a_time": 1}},
    "lines_many_at_once": {"all": {"right_and_in_order": True}},
    "lines_split": {"all": {"answers": ["hello good\n", "world good\n", "and and good\n",
                                        " good\n"]}},
    "lines_carriage_return": {"all": {
        "before_newline": "a good\n", "two": "a\r good\n", "alone": " good\n",
        "inside": "a\rb good\n", "split_off": "a good\n", "split_inside": "a\rb good\n",
        "newline_first": "a good\n\rb good\n", "q": "goodbye\n"}},
    "lines_limit": {"all": {
        "4095": "taken", "4096": "taken", "4097": "refused", "4096 cr": "taken",
        "4097 cr": "refused", "4096 | newline": "taken", "4096 | cr newline": "taken",
        "4096 cr | newline": "taken", "4096 | cr | newline": "taken", "4096 cr | x": "refused",
        "4096 cr cr": "refused", "4096 | x": "refused", "4096 | end": "taken",
        "4096 cr | end": "taken", "4097 | end": "refused", "2000 | 2000 | 97": "refused",
        "among others": "one good\n" + TOO_LONG, "reason": "line_too_long"}},
    "line_without_end": {"all": {"told": TOO_LONG, "server_goes_on": "welcome:",
                                 "reason": "line_too_long"}},
    "chat_line_limit": {"all": {"4096": "* here: guest-1\n",
                                "4097": "* a line is 4096 bytes at the most\n", "ended": "eof",
                                "reason": "line_too_long"}},
    "told_no_more": {"all": {"it_waits": True, "room": "* here: guest-2\n",
                             "rest_is_right": True, "ended": "eof",
                             "reason": "line_too_long"}},
    "last_words": {"all": {"close": [500, 1, 1], "urgent, reset": [500, 1, 1]}},
    "many_commands": {"all": {"any": [True, ""], "small": [True, ""]}},
    "paste": {"all": {"heard_all": 10, "longest_read": at_most(1024)}},
    "chat_longest_line": {"all": {"whole": True, "next": "guest-1: short\n"}},

    # bulk.py

    "echo_8_mib": {"all": {"same": True, "bytes_in": 8 << 20, "bytes_out": 8 << 20}},
    "echo_late_reader": {
        "all": {"same": True, "short_sends": at_least(1)},
        "1": {"short_sends": 0},               # a blocking send() sleeps until all is taken
    },
    "half_close": {"all": {"same": True, "ended": "eof", "reason": "eof"}},
    "half_close_queued": {
        "all": {"same": True, "ended": "eof", "reason": "eof",
                "queued_when_the_half_close_was_seen": True},
        "1": {"queued_when_the_half_close_was_seen": False},   # it is asleep in send()
    },
    "greet_pipelined": {"all": {"same": True, "ended": "eof", "welcomed": True}},
    "beside_bulk": {"all": {"right_answers": 20, "same": True}},

    # stops.py

    "stop_idle": {"all": {
        **{name: {"status": 0, "within_a_second": True, "told": [name], "stats_at_the_end": True}
           for name in ("SIGINT", "SIGTERM")},
        "blocked_at_the_start": 0}},
    "stop_with_clients": {
        "all": _all_stopped(),
        # The second was never accepted: the kernel ends it when the listener is closed.
        "1": _all_stopped(second="", second_ended="reset"),
    },
    "stop_while_starting": {"all": {"stopped": at_least(1), "too_early_to_be_caught": ANY,
                                    "slowest": at_most(1), "other": [], "lost": 0}},
    "stop_while_talking": {"all": {"stopped": 20, "too_early_to_be_caught": 0,
                                   "slowest": at_most(1), "other": [], "lost": 0}},
    "restart": {"all": {"connections_in_time_wait": at_least(1), "same_port": True,
                        "serves": "welcome"}},

    # costs.py

    "idle": {
        # SIGUSR1, which asks for the counters, wakes it.
        "all": {"served": 50, "asleep": True, "seconds": ANY, "cpu_share": ANY, "empty_calls": 0,
                "other_calls": 0, "waits": between(1, 2)},
        "1": {"served": 1, "waits": 0, "other_calls": between(0, 2)},   # ... from recv()
        # Nobody says anything, and it asks all of them for ever: a whole CPU, if it gets one.
        "2": {"waits": 0, "empty_calls": at_least(1000), "asleep": False},
    },
    "socket_flags": {
        "all": {"listener_may_sleep": False, "client_may_sleep": False, "kept_back": False},
        "1": {"listener_may_sleep": True, "client_may_sleep": True},
    },
    "message_cost": {
        "all": {"waits": 1.0, "ready": 1.0, "watch": 0.0, "recv": 1.0, "send": 1.0,
                "would_block": 0.0},
        "1": {"waits": 0.0, "ready": 0.0},
        "2": {"waits": 0.0, "ready": 0.0, "recv": at_least(1), "would_block": at_least(0.5)},
    },
    "counters": {
        "all": {"welcomed_at_once": 3, "bytes_in": 0, "bytes_out": 0, "clients": 0,
                "max_clients": 3, "accepts_that_brought_nobody": 0, "waits_narrated": True,
                "scanned_per_watched": 2.0, "scanned_per_ready": at_least(2.1)},
        "1": {"welcomed_at_once": 1, "max_clients": 1, "accepts_that_brought_nobody": one_of(0, 1),
              "scanned_per_watched": None, "scanned_per_ready": None},
        "2": {"accepts_that_brought_nobody": at_least(3), "scanned_per_watched": None,
              "scanned_per_ready": None},
        "5 6-epoll": {"scanned_per_watched": at_most(1.5), "scanned_per_ready": 2.0},
    },
    "ready_list": {
        "all": {"on_client": ["r"], "watching": [4], "ready": [1], "selector": None},
        "1": {"stage": "01_blocking", "call": [], "on_client": [], "watching": [], "ready": []},
        "2": {"stage": "02_nonblocking_busyloop", "call": [], "on_client": [], "watching": [],
              "ready": []},
        "3": {"stage": "03_select", "call": ["select"]},
        "4": {"stage": "04_poll", "call": ["poll"]},
        "5": {"stage": "05_epoll", "call": ["epoll_wait"]},
        "6": {"stage": "06_selector_callbacks"},
        "6-select": {"call": ["select"], "selector": "select"},
        "6-poll": {"call": ["poll"], "selector": "poll"},
        "6-epoll": {"call": ["epoll_wait"], "selector": "epoll"},
    },
    "one_round": {
        # All that are ready are served before the next wait.
        "all": {"served": 10, "waits": 1},
        "1": {"served": 1, "waits": 0},
        "2": {"waits": 0},
    },
    "sleeping": {
        "all": {"wait": at_least(2), "recv": 0},
        "1": {"wait": 0, "recv": at_least(2)},
        "2": {"wait": 0},
    },
    "time_limit": {
        "all": {"shortest": at_least(0.05), "longest": at_most(5), "nothing_on": True,
                "says_that_it_has_no_wait": False, "serves": "hello\n"},
        "1-2": {"shortest": None, "longest": None, "says_that_it_has_no_wait": True},
    },
    "no_time_limit": {"all": {"ended_for_nothing": 0}},
    "verbose": {
        "all": {"other_calls": including("setsockopt"), "empty_calls": False,
                "watched_for": ["rx", "-"],
                "data": ["hello\n", "x" * 40], "more": [0, 60]},
        "1": {"watched_for": []},
        "2": {"watched_for": [], "empty_calls": True},
    },
    "quiet": {"all": {"verbs": ["listen", "start", "stats"], "bytes": [6, 6]}},
    "spinning": {
        "all": {"lines": False, "rounds_in_a_line": 0, "lines_in_all": at_most(10)},
        "2": {"lines": True, "rounds_in_a_line": at_least(1000)},
    },

    # beside.py

    "silent_clients": {
        # select and poll look at everybody, in the kernel and in the program: twice all there are.
        "all": _beside(waits=1.0, ready=1.0, scanned=lambda silent: between(
            2 * silent, 2 * silent + 10)),
        "1": _beside(waits=0.0, ready=0.0, scanned=lambda silent: 0.0),
        "2": _beside(waits=0.0, ready=0.0, scanned=lambda silent: at_least(0.9 * silent),
                     accept=ANY, recv=at_least(1), would_block=at_least(0.5)),
        "5 6-epoll": _beside(waits=1.0, ready=1.0, scanned=lambda silent: 2.0),
    },

    # places.py

    "ipv6": {"all": {"address": "[::1]", "peer": "[::1]", "back": "hello\n"}},
    "default_ports": {"all": {"echo": True, "greet": True, "chat": True}},
    "ports_asked_for": {"all": {"services": ["chat", "echo", "chat"], "hosts": ["127.0.0.1"],
                                "first_answers": "* you are guest-1, alone here\n"}},
}


# --- rough clients, and many ------------------------------------------------------------------

def _none_but(*values: str) -> Condition:
    return Condition("none but " + ", ".join(values), lambda found: set(found) <= set(values))


BROKEN_OFF = _none_but("ECONNRESET", "EPIPE", "eof")

EXPECTED.update({

    # rough.py

    "resets": {"all": {"closed": 220, "reasons": BROKEN_OFF, "served_meanwhile": 20,
                       "clients": 0}},
    "vanishes": {"all": {"closed": 20, "reasons": _none_but("ECONNRESET", "EPIPE"),
                         "serves": "hello good\n"}},
    "reset_in_backlog": {"all": {"right_answers": 100, "reasons": BROKEN_OFF, "served": True}},
    "reset_unread": {
        "all": {case: {"reason": one_of("ECONNRESET", "EPIPE"), "asleep": True, "served": True}
                for case in ("outbox full", "half-closed")},
        "2": {case: {"reason": one_of("ECONNRESET", "EPIPE"), "asleep": False, "served": True}
              for case in ("outbox full", "half-closed")},
    },
    "mute_reader": {
        "all": {"kept_back": True, "others_served_meanwhile": 5,
                # The sanitizers keep memory for a while that was given back.
                "memory_grown_mib": at_most(40 if SANITIZED else 2),
                "waits": between(0, 2),    # SIGUSR1's
                "waits_that_it_ended": 0, "asleep_in_send": False,
                "all_back_when_it_reads": True},
        "1": {"others_served_meanwhile": 0, "asleep_in_send": True},
    },
    "mute_reader_watched": {"all": {
        "at_first": "r", "while_mute": "w", "when_it_has_read": "r", "kept_back": True,
        "waits_for_it": between(256 * 1024, 256 * 1024 + 16 * 1024), "all_back": True}},
    "mute_reader_stop": {"all": {name: {"status": 0, "within_a_second": True,
                                        "something_waited": True, "reasons": ["stop"]}
                                 for name in ("SIGINT", "SIGTERM")}},
    "small_windows": {"all": {window: [True, "eof"] for window in (
        "2304 536", "4096 536", "4096 1400", "8192 1400", "65536 1400")}},
    "mute_member": {"all": {
        "dropped": ["slow_reader"], "others_heard_all": True,
        "others_heard_besides": ["* guest-1 leaves\n", "guest-2: end\n"],
        "speaker_heard": "* guest-1 leaves\n",
        "memory_grown_mib": at_most(40 if SANITIZED else 2),
        "mute_ended": one_of("eof", "reset"), "mute_got_a_part": True}},
    "room_empties": {
        # A sanitizer keeps for a while what is freed.
        "all": {"members": 500, "closed": 500,
                "memory_grown_mib": at_most(8 if SANITIZED else 1)}},
    "busy_room": {
        "all": {"all_right": True, "dropped": ["slow_reader"] * 5, "rounds_that_it_took": 1,
                "events_in_the_round_of_the_accept": 0},
        "2": {"rounds_that_it_took": None,       # not narrated
              "events_in_the_round_of_the_accept": None},
    },
    "flooder": {
        "all": {"right_answers": 200, "flooded": True, "most_reads_of_one_client_a_round": 1,
                "longest_read": at_most(16384)},
        "2": {"most_reads_of_one_client_a_round": None},
    },
    "urgent_data": {
        "all": {"before": "first\n", "between": "second\n", "after": "third\n",
                "amidst": "one two\n", "rest": "", "ended": "eof", "narrated": ["1", "2", "3"],
                "waits_for_urgent": 3, "waits_then": between(1, 2)},      # SIGUSR1's
        # Nobody tells them: the byte stands beside the stream, and nobody fetches it.
        "1-2": {"narrated": [], "waits_for_urgent": 0, "waits_then": 0},
    },
    "urgent_in_a_row": {
        "all": {"whole": 50, "ended": "eof", "narrated": True, "waits_then": between(1, 2)},
        "1-2": {"narrated": False, "waits_then": 0},
    },
    "events_for_the_dead": {
        "all": {"wrong": [], "numbers_handed_out_again": at_least(300),
                "events_in_the_round_of_the_accept": 0, "calls_in_vain": 0},
        "2": {"events_in_the_round_of_the_accept": None, "calls_in_vain": ANY},
    },

    # many.py

    "clients_1500": {
        "all": {"clients": at_least(1000), "served_at_once": at_least(1000), "left_waiting": 0,
                "those_inside_are_served": True, "more_when_200_have_left": 0,
                "never_served": 0, "highest_descriptor": at_least(1024)},
        SELECT: {"served_at_once": between(900, 1019), "left_waiting": at_least(1),
                 "more_when_200_have_left": at_least(1), "highest_descriptor": 1023},
    },
    "clients_10000": {
        "all": {"clients": at_least(1000), "fewer_than_wanted": ANY,
                "served_at_once": at_least(1000), "left_waiting": 0,
                "most_at_once": at_least(1000), "not_their_own": 0, "ended_badly": 0},
        SELECT: {"served_at_once": between(900, 1019), "left_waiting": at_least(1),
                 "most_at_once": between(900, 1019)},
    },
})


# --- limits, faults, signals and harm -------------------------------------------------------

EPOLL = "5 6-epoll"
GIVES_UP = "status 1, 1 line"
BOTH_STOPS = ("SIGINT", "SIGTERM")
WITHOUT_STDOUT = (">&-", ">&- 2>&-", "<&- >&- 2>&-")
MEMORY = ANY if SANITIZED else False           # a sanitizer keeps what was freed

EXPECTED.update({

    # limits.py

    "sixteen_descriptors": {
        "all": {"inside": 10, "insiders_answered": 10, "outsiders_answered": 0, "says_so": True,
                "waits_while_full": at_most(3), "accepts_while_full": 0,
                "asleep_while_full": True, "cpu_share_while_full": ANY, "served_in_the_end": 60,
                "insiders_not_served": 0},
        "1": {"inside": 1, "insiders_answered": 1, "says_so": False},
        "2": {"asleep_while_full": False},
        EPOLL: {"inside": 9, "insiders_answered": 9},      # epoll has a descriptor of its own
    },
    "thirty_two_descriptors": {
        "all": {"room": 26, "served_in_the_end": 60},
        "1": {"room": 1},
        EPOLL: {"room": 25},
    },
    "two_listeners_run_out": {
        "all": {"inside": 9, "both_were_ready": True, "waits_while_full": at_most(3),
                "accepts_while_full": 0, "asleep_while_full": True, "cpu_share_while_full": ANY,
                "served_in_the_end": 24},
        "2": {"both_were_ready": None, "asleep_while_full": False},
        EPOLL: {"inside": 8},
    },
    "no_room_at_all": {
        # It tries again once a second.
        "all": {"answered_without_room": False, "refusals": at_most(5), "reasons": [["EMFILE", 0]],
                "waits_while_full": at_most(5), "accepts_while_full": at_most(2),
                # It may be awake just then to try again.
                "asleep_while_full": ANY, "cpu_share_while_full": ANY,
                "answer_in_the_end": "hello\n", "still_there": True},
    },
    "limits_at_the_start": {
        "all": {"4": GIVES_UP, "5": GIVES_UP, "6": "no room", "7": "serves", "8": "serves"},
        EPOLL: {"6": GIVES_UP, "7": "no room"},
    },

    # faults.py

    "accept_fails_once": {"all": {
        **{fault: ["hello\n", [fault], False] for fault in
           ("ENFILE", "ENOBUFS", "ENOMEM")},
        # These are over by the next round, and no reason to pause.
        **{fault: ["hello\n", [], False] for fault in
           ("ECONNABORTED", "EPROTO", "ENETDOWN", "EHOSTUNREACH", "EHOSTDOWN", "ENONET",
            "EOPNOTSUPP", "EPERM", "EINTR", "EAGAIN")}}},
    "accept_fails_for_good": {
        "all": {fault: {"inside": "hello\n", "answered_inside": 20, "outside": False,
                        "calls_in_vain": at_most(5), "waits": between(20, 40), "status": 0,
                        "within_a_second": True} for fault in ("ENFILE", "ENOMEM")},
        "1-2": {fault: {"inside": "hello\n", "answered_inside": 20, "outside": False,
                        "calls_in_vain": at_most(5), "waits": 0, "status": 0,
                        "within_a_second": True} for fault in ("ENFILE", "ENOMEM")},
    },
    **{name: {"all": {"echo": True, "greet": True, "ended": ["eof", "eof"],
                      "serves_on": "hello\n", "stops": [0, 0]}}
       for name in ("interrupted_calls", "one_byte_calls", "ready_in_vain")},
    "one_client_fails": {"all": {
        f"{call} {fault}": ["hello\n", "hello\n", ended, fault, "still here?\n"]
        for call, ended in (("recv", "reset"), ("send", "eof"))      # unread bytes: a reset
        for fault in ("ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH", "ENOBUFS", "EPIPE", "EIO")}},
    "wait_fails": {"all": {"back": "hello\n", "failures": 1, "serves_on": "hello\n",
                           "waits_when_it_lasts": between(1, 5), "stops": 0}},
    "refused_watch": {"all": {fault: ["hello\n", "", "eof", fault, "hello\n", 4]
                              for fault in ("ENOMEM", "ENOSPC")}},
    "refused_change": {"all": {"reason": "ENOMEM", "inside": "again\n", "next": "hello\n",
                               "same_number": True, "watching": 4}},
    "refused_listener": {"all": {"first": "hello\n", "second": "hello\n", "still_there": True}},
    "urgent_overtaken": {"all": {"back": "hello\n", "narrated": ["!"]}},
    "faults_at_the_start": {
        "all": {fault: [1, 1] for fault in
                ("pipe EMFILE", "socket ENFILE", "socket ENOBUFS", "listen EADDRINUSE")},
        EPOLL: {fault: [1, 1] for fault in ("epoll_create1 ENOMEM", "epoll_add ENOMEM")},
    },

    # signals.py

    "signal_storm": {"all": {"all_came_back": True, "rounds": at_least(1), "signals": at_least(6),
                             "stats": at_least(1)}},
    "stops_at_random": {"all": {"all_ended": True, "too_early_to_be_caught": ANY, "lost": 0,
                                "other": [], "slowest": at_most(5)}},
    "stop_while_flooded": {"all": {
        name: {"status": 0, "within_a_second": True, "stops": 1} for name in BOTH_STOPS}},
    "stop_twice": {"all": {"status": [0], "stops": [1], "stats": [True],
                           "within_a_second": [True]}},
    "without_stdout": {
        "all": {closed: [True, at_least(5), 0, ""] for closed in WITHOUT_STDOUT},
        "2": {closed: [True, ANY, 0, ""] for closed in WITHOUT_STDOUT},
    },
    "reader_leaves": {"all": {"served": 20, "after_sigusr1": "again\n", "status": 0,
                              "lines_on_stderr": 1, "says_why": True}},
    "reader_hangs": {"all": {
        reader: {"right_answers": 1000, "served_after_sigusr1": [True, True, True],
                 "served_in_a_storm": True, "lines_lost": at_least(50), "and_no_more": True,
                 "waits_once": True, "malformed": 0,
                 "goes_on_narrating": True, "last_line": "stats", "status": 0}
        for reader in ("pipe", "terminal", "nameless")}},
    "both_readers_gone": {"all": {"served": 20, "status": 0}},
    "file_is_full": {"all": {"served": 20, "status": 0, "says_why": True}},
    "stop_while_reader_hangs": {"all": {"right_answers": 200, "status": 0,
                                        "within_a_second": True}},

    # harm.py

    "harm_to_the_narration": {"all": {
        service: {"control_bytes": 0, "beyond_ascii": 0, "forged_lines": 0, "received": True}
        for service in ("echo", "greet", "chat")}},
    "harm_to_members": {"all": {"as_the_model_says": True, "control_bytes": 0, "c1_controls": 0,
                                "invalid_utf8": 0}},
    "newlines_100000": {"all": {"answers": True, "in_the_chat": "* here: guest-1\n"}},
    "false_names": {"all": {
        **{ascii(name): TAKEN for name in ("anna", "ANNA", "Anna", "anna\r", "server", "Server",
                                           "SERVER", "guest-1", "guest-2", "GUEST-3")},
        **{ascii(name): BAD_NAME for name in (
            "anna ", " anna", "anna\0", "\u0430nna", "anna\u200b", "anna:", "*", "* anna",
            "\u202eanna", "anna\x1b[0m", "anna\tx")},
        "here": "* here: anna, guest-2\n", "left": "* anna leaves\n",
        "free_again": "* guest-2 is now anna\n"}},
    "endless_line": {"all": {
        "told_or_reset": True, "reason": "line_too_long",
        "others_hear": "* guest-1 leaves\n", "others_are_served": "* here: guest-2\n",
        "memory_grew": MEMORY}},
    "ten_thousand_connects": {"all": {"served": "still here?\n", "clients": 1, "bytes_in": 18,
                                      "memory_grew": MEMORY}},
    "fuzz_greet": {"all": {"conversations": 60, "differ": []}},
    "fuzz_chat": {"all": {"members": at_least(2), "differ": []}},

    # instants.py

    "stop_before_a_call": {
        "3-6": {"wait 0": 0, "wait 1": 0, "wait 2": 0},
        "1": {"accept 0": 0, "accept 1": 0, "recv 0": 0, "recv 1": 0},
    },
    "both_at_once": {"all": {"ready_for": "rw", "done": ["recv", "send"], "same": True}},

    # endings.py

    "last_answers": {"all": {
        name: {"welcome": True, "all": True, "ended": "eof", "reason": reason}
        for name, reason in (("q", "quit"), ("too_long", "line_too_long"))}},
    "lingers": {"all": {
        "others_served": 4, "waits_in_vain": at_most(3), "stays": {"reason": "quit", "not_before": True},
        "mute": {"reason": "slow_reader", "not_before": True},
        "sends_on": {"reason": "quit", "not_before": True}},
        "2-6": {"mute_and_ended": {"reason": "slow_reader", "not_before": True}},
        "1": {"others_served": 0, "mute": {"reason": one_of("slow_reader", "quit"),
                                           "not_before": True}}},
    "stop_before_the_answer": {"all": {"answer": "goodbye\n", "ended": "eof", "status": 0,
                                       "reason": "quit"}},
    "unread_at_the_stop": {"all": {"member": "* the server stops\n"[-20:],
                                   "guest": "goodbye: the server stops\n", "ended": ["eof", "eof"]}},

    "a_signal_and_an_error": {"all": {"reason": "ECONNRESET"}},
    "stop_while_it_rests": {"all": {"status": 0, "at_once": True},
                            "1": {"paused": True}, "2": {"paused": True}},
    "goodbye_to_a_mute_client": {"all": {"status": 0, "within_a_second": True}},

    # shortage.py

    "outbox_never_empty": {"all": {"same": True, "was_never_empty": True, "memory_grew": MEMORY}},
    "memory_after_a_burst": {"all": {"all_back": True, "kept": MEMORY}},
    "five_descriptors": {"all": {"back": "hello\n"}},

    "limit_raised": {"all": {"served": True, "inside_at_first": at_least(5), "reasons": []},
                     "3 6-select": {"reasons": ["EMFILE"]}},
    "limit_lowered": {"all": {"served": 50, "reasons": {}},
                      "4 6-poll": {"reasons": {"EMFILE": between(20, 25)}}},
    "no_memory": {"all": {"served": ["still here?\n", "hello\n"], "still_there": True,
                          "reasons": including("ENOMEM")}},
    "allocation_fails": {"all": {
        "outcomes": {"served True, 2 sockets left, status 0": at_least(10)},
        "reasons": one_of(["ENOMEM"], [])}},
})
