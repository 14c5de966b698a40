"""What the comparison asks, and what each picture teaches.

ROWS      the questions of the matrix: which scenario answers it, how its observation reads in a
          few words, and what makes a cell one of the worst. What is right or wrong for a stage
          is not said here: the scenario does, for the tests and for the comparison alike.
LESSONS   by scenario, the sentence behind each cell: under "all", or for some stages.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

from tests.harness import Variant
from tests.output.figures import milliseconds, number

Observed = dict[str, Any]

TITLES = {"1": "blocking", "2": "busy loop", "3": "select", "4": "poll", "5": "epoll",
          "6-select": "select, callbacks", "6-poll": "poll, callbacks",
          "6-epoll": "epoll, callbacks"}
SLEEPS_IN = {"3": "select", "4": "poll", "5": "epoll_wait", "6-select": "select",
             "6-poll": "poll", "6-epoll": "epoll_wait"}          # stage 1: whatever it calls

# The story of `make replay` that goes step by step through what a scenario shows.
REPLAYED = {"second_client": "second_client", "idle": "idle", "mute_reader": "slow_reader",
            "half_close_queued": "half_close", "sixteen_descriptors": "sixteen_descriptors"}


class Row(NamedTuple):
    id: str
    question: str
    scenario: str
    cell: Callable[[Observed], str]
    worst: Callable[[Observed], bool]


def calls(counters: dict[str, float], stage: str = "") -> float:
    """How many system calls were counted (not those that make a socket ready for use, or close
    it). To change what is watched is one where the kernel keeps the list, in stage 5 and in stage 6
    on epoll; elsewhere the list is the program's own."""
    kinds = ["waits", "accept", "recv", "send"] + ["watch"] * keeps_list(stage)
    return sum(counters.get(kind, 0) for kind in kinds)


def keeps_list(stage: str) -> bool:
    """Whether the kernel keeps the watched list."""
    return stage in ("5", "6-epoll", "edge_triggered", "read_until_empty", "watch_then_write",
                     "workers", "one_shot", "coroutines")


def _one_message(seen: Observed) -> str:
    cost = seen["0"]
    text = ", ".join(name if cost[key] == 1 else f"{number(cost[key])} {name}" for key, name in (
        ("waits", "wait"), ("recv", "recv"), ("send", "send"), ("accept", "accept")) if cost[key])
    empty = f"; {number(cost['would_block'])} for nothing" if cost["would_block"] else ""
    return f"{number(calls(cost))}: {text}{empty}"


def _beside(count: str) -> tuple[Callable[[Observed], str], Callable[[Observed], bool]]:
    def cell(seen: Observed) -> str:
        cost = seen[count]
        if cost["would_block"]:
            more = f"{number(cost['would_block'])} for nothing"
        elif cost["scanned"]:
            more = f"{number(cost['scanned'])} looked at"
        else:                                      # stage 1 does not know that they are there
            more = "the others wait"
        return f"{number(calls(cost))} calls, {more}"
    return cell, lambda seen: seen[count]["scanned"] >= 100


def _many(seen: Observed) -> str:
    if seen["served_at_once"] == 1:
        return "1, the rest one by one"
    if seen["paused_for_lack_of_descriptors"]:
        return f"{number(seen['served_at_once'])}, the rest as others leave"
    return f"all {number(seen['served_at_once'])}; the system sets the limit"


def _full(seen: Observed) -> str:
    text = (f"{seen['inside']} inside, {seen['served_in_the_end']} of 60 in the end, "
            f"{seen['cpu_share_while_full'] * 100:.0f} % CPU")
    return text + ("" if seen["says_so"] or seen["inside"] == 1 else ", without a word")


def _urgent(seen: Observed) -> str:
    if [seen[key] for key in ("before", "between", "after")] != ["first\n", "second\n", "third\n"]:
        return "harms the rest"
    return f"{len(seen['narrated'])} of 3 seen apart" if seen["narrated"] else "not told of it"


def _stops(seen: Observed) -> str:
    if not all(end["status"] == 0 and end["within_a_second"] for end in seen.values()):
        return "badly"
    told = all(end["second_ended"] == "eof" for end in seen.values())
    return "at once, status 0, " + ("all told" if told else "who waits is reset")


ROWS = [
    Row("second_client", "A second client asks while the first is silent: answered after",
        "second_client",
        lambda seen: milliseconds(seen["milliseconds"]) if seen["answered_while_first_is_silent"]
        else "waits until the first leaves",
        lambda seen: not seen["answered_while_first_is_silent"]),
    Row("second_listener", "A client of a second listener",
        "second_listener",
        lambda seen: "answered" if seen["while_the_first_has_a_client"] else "never answered",
        lambda seen: not seen["while_the_first_has_a_client"]),
    Row("fifty", "Fifty at once: answered while all are there", "fifty_clients",
        lambda seen: f"{seen['answered_while_all_are_there']} of 50",
        lambda seen: seen["answered_while_all_are_there"] < 50),
    Row("idle_cpu", "Fifty are idle: CPU used", "idle",
        lambda seen: f"{seen['cpu_share'] * 100:.0f} %", lambda seen: seen["cpu_share"] > 0.1),
    Row("idle_wakes", "... wake-ups a second", "idle",
        # The signal that asks for the counters wakes it once or twice.
        lambda seen: "never asleep" if seen["empty_calls"] > 20 else number(
            round(max(0, seen["waits"] - 2) / seen["seconds"])),
        lambda seen: seen["waits"] > 20 or seen["empty_calls"] > 20),
    Row("idle_empty", "... empty calls a second", "idle",
        lambda seen: number(round(seen["empty_calls"] / seen["seconds"])),
        lambda seen: seen["empty_calls"] > 20),
    Row("message", "System calls for one message, nobody else there", "silent_clients",
        _one_message, lambda seen: seen["0"]["would_block"] >= 0.5),
    Row("beside_10", "... beside 10 silent clients", "silent_clients", *_beside("10")),
    Row("beside_100", "... beside 100", "silent_clients", *_beside("100")),
    Row("beside_1000", "... beside 1,000", "silent_clients", *_beside("1000")),
    Row("most", "1,100 clients at once: served while all are there", "past_fd_setsize",
        _many, lambda seen: seen["served_at_once"] < 1100),
    Row("full", "16 descriptors, 60 clients", "sixteen_descriptors",
        _full, lambda seen: seen["served_in_the_end"] < 60 or seen["cpu_share_while_full"] > 0.1),
    Row("mute", "One sends 64 MiB and reads nothing", "mute_reader",
        lambda seen: f"others served, {seen['memory_grown_mib']:+.1f} MiB"
        if seen["others_served_meanwhile"] else "everybody waits",
        lambda seen: not seen["others_served_meanwhile"]),
    Row("resets", "200 clients reset, in four ways", "resets",
        lambda seen: f"{seen['served_meanwhile']} of 20 served meanwhile",
        lambda seen: seen["served_meanwhile"] < 20),
    Row("half_close", "Half-close, the answer still queued: what comes back", "half_close_queued",
        lambda seen: "all, then the end" if seen["same"] and seen["ended"] == "eof"
        else "the tail is lost", lambda seen: not seen["same"]),
    Row("urgent", "Urgent data among ordinary bytes", "urgent_data",
        _urgent, lambda seen: seen["between"] != "second\n"),
    Row("stop", "Told to stop, with clients", "stop_with_clients",
        _stops, lambda seen: any(end["second_ended"] != "eof" for end in seen.values())),
]

LESSONS: dict[str, dict[str, str]] = {
    "second_client": {
        "all": "The server sleeps in one call that wakes for A, for B and for newcomers alike, so "
               "B's question wakes it, and A may stay silent for as long as it likes.",
        "1": "One thread can sleep in one call only. It sleeps in recv() for A; B is connected "
             "(the kernel did that), has asked, and waits until A leaves.",
        "2": "No call sleeps, so nobody waits for anybody. But between the two moments when "
             "something happened, the server asked many thousand times whether something had.",
        "4": "One call wakes for whoever speaks first, as in stage 3. Only the question is put "
             "differently: as an array of descriptors, as long as it needs to be.",
        "5": "One call wakes for whoever speaks first, so A may stay silent for as long as it "
             "likes. The kernel keeps the list of sockets, and returns only the one that is "
             "ready: B's.",
        "6": "One call wakes for whoever speaks first. The loop does not know what it woke for: "
             "it calls the callback that was registered with the socket.",
    },
    "second_listener": {
        "all": "A listener is one more descriptor to wait for: any number of them fit into one "
               "wait, and whichever has somebody is served.",
        "1": "One thread waits in one accept(), on one listener. Whoever connects to the other "
             "is connected, and never answered.",
        "2": "Both listeners are tried in turn, in every round, for ever.",
    },
    "fifty_clients": {
        "all": "Fifty clients, one thread: whoever is ready is served, nobody has to be first.",
        "1": "They are served one after the other, each for as long as it stays: one is answered, "
             "forty-nine wait.",
        "2": "All fifty are served, as fast as anywhere: trying all in turn finds who has "
             "something to say, at the price of asking those who have not.",
    },
    "idle": {
        "all": "Nothing happens, so the server does nothing: it is asleep, the kernel wakes it "
               "when somebody says something, and that costs no CPU, however long it takes.",
        "1": "It sleeps in recv(), for the one client that it serves: no CPU. The other "
             "forty-nine have not been answered, either.",
        "2": "Nothing happens, and it runs hot: every socket is asked, again and again, and every "
             "call comes back empty. It takes a whole CPU, if it can get one, to learn nothing.",
    },
    "silent_clients": {
        "all": "Each wait carries the whole list of watched descriptors into the kernel; it is "
               "walked there, and walked again by the program to find the one that is ready. "
               "Twice as many entries as there are clients, for every message: the cost grows "
               "with those who say nothing.",
        "1": "Two calls, whatever else is there: it knows nobody but the client that it serves. "
             "The others are not cheap, they are not served.",
        "2": "To find the one who speaks, everybody is asked: a thousand calls come back empty "
             "for one that does not.",
        "5": "The kernel keeps the list, and who becomes ready puts itself on a short one: only "
             "that is looked at. The cost is flat, however many are silent.",
        "6-epoll": "The kernel keeps the list, and returns only who is ready: the cost is flat, "
                   "and the callback adds no system call.",
    },
    "past_fd_setsize": {
        "all": "As many as the system allows descriptors: the server raises its own limit.",
        "1": "One at a time. The others wait in the backlog: connected, not served.",
        "3 6-select": "An fd_set has room for descriptors below FD_SETSIZE, 1,024. The server "
                      "lowers its own limit to that, so that the rest wait in the backlog "
                      "instead of being written over somebody else's memory.",
    },
    "sixteen_descriptors": {
        "all": "No descriptor is left for a newcomer, so the server stops watching its listeners "
               "until somebody leaves: nobody is lost, nothing spins, those inside are served. "
               "A listener that is watched all the same is ready at once, in every round.",
        "1": "One client needs one descriptor: the limit is not felt, and the others wait anyway.",
        "2": "The listeners are left alone until somebody leaves; the clients are tried in turn, "
             "as ever, so it is as hot as ever.",
    },
    "mute_reader": {
        "all": "When 256 KiB wait for the mute client, it is read no more until it has drained: "
               "the kernel's flow control stops it from sending, memory stays where it was, and "
               "the others are served as if nothing were.",
        "1": "The server sleeps in send() until the mute client reads, and with it everybody else.",
        "2": "The mute client's share waits in its outbox, is bounded, and is tried again in every "
             "round; the others are served.",
    },
    "resets": {
        "all": "A reset ends the connection that it belongs to, and nothing else: ECONNRESET and "
               "EPIPE are answers of recv() and send() like any other, and SIGPIPE is ignored.",
    },
    "half_close_queued": {
        "all": "A half-close says \"I have said all\", not \"I have heard all\": what is still "
               "queued goes out first, and then the end.",
        "1": "A blocking send() has sent it all before the server reads on, so nothing is queued "
             "when the half-close comes.",
    },
    "urgent_data": {
        "all": "The third set of select, POLLPRI and EPOLLPRI tell of an urgent byte; it is read "
               "apart from the others, once, so that the wait does not return for it again.",
        "1": "recv() neither sees nor mentions the urgent byte: TCP keeps it apart from the "
             "ordinary ones, which come unharmed.",
        "2": "Trying recv() tells of ordinary bytes only; the urgent one is kept apart, unseen, "
             "and harms nobody.",
    },
    "stop_with_clients": {
        "all": "The signal becomes one more readable descriptor in the same wait, so it cannot be "
               "lost: clients are told, everything is closed, the status is 0.",
        "1": "The signal interrupts whatever call the server sleeps in. Who waited in the backlog "
             "was never accepted: the kernel resets it when the listener is closed.",
        "2": "The stop flag is looked at in every round, and a round is never far.",
    },
}


def lesson(scenario: str, variant: Variant) -> str:
    """The sentence for that picture; "" for a scenario that is not part of the matrix."""
    found = ""
    for which, text in LESSONS.get(scenario, {}).items():
        if which == "all" or variant.matches(which):
            found = text
    return found
