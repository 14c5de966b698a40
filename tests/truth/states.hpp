// states.hpp: the states, each with the reason for what the kernel says of it; and the questions.
#pragma once

#include "ask.hpp"

struct State {
    const char* group;  // the heading above it, where a new group begins
    const char* name;   // on the command line
    const char* title;
    int question;  // the one below that it answers, or 0
    void (*make)(Scene&);
    const char* why;
    const char* source;
};

// clang-format off
inline const State states[] = {
    {"A connection", "fresh", "just connected", 1,
     [](Scene& s) { s.connect(), s.watch(); },
     "room in the send buffer is readiness: watched for w, an idle socket is told in every round",
     "socket(7)"},
    {"", "unread", "10 bytes came, sent as 5 and 5", 2,
     [](Scene& s) { s.open(), s.arrive(5), s.arrive(5); },
     "a stream of bytes: one recv takes what two sends sent; one edge tells of all that has come",
     "tcp(7), epoll(7)"},
    {"", "read-partly", "10 bytes came, 4 were read", 3,
     [](Scene& s) { s.open(), s.arrive(10), s.hear_all(), s.take(4); },
     "to read is no change: edge-triggered is silent about the 6 bytes left, the others are not",
     "epoll(7)"},
    {"", "read-partly-more", "10 came, 4 were read, 1 more came", 3,
     [](Scene& s) { s.open(), s.arrive(10), s.hear_all(), s.take(4), s.arrive(1); },
     "an arrival is a change, whatever lies there already; what is told is the whole state, w too",
     "epoll(7)"},
    {"", "urgent", "an urgent byte came", 0,
     [](Scene& s) { s.open(), s.urgent_arrives(); },
     "x without r: it is not in the stream; x stays until recv(MSG_OOB), or a plain recv passes it",
     "tcp(7), RFC 6093"},
    {"", "urgent-passed", "an urgent byte came, plain recv tried", 0,
     [](Scene& s) { s.open(), s.urgent_arrives(), s.hear_all(), receive(s.number); },
     "that recv said EAGAIN and threw the urgent byte away: on x, ask for it first, then recv",
     "recv(2), tcp(7)"},

    {"The peer leaves", "half-closed-tail", "peer half-closed, 10 bytes unread", 4,
     [](Scene& s) { s.open(), s.arrive(10), s.hear_all(), s.peer_half_closes(); },
     "d says that no more will come, not that nothing is there: to close on d loses the 10 bytes",
     "poll(2), epoll_ctl(2)"},
    {"", "half-closed", "peer half-closed, nothing unread", 5,
     [](Scene& s) { s.open(), s.peer_half_closes(); },
     "recv says 0 each time, so r stays: watch it no more; the answer can still go the other way",
     "recv(2), RFC 9293 3.6.1"},
    {"", "own-shutdown", "own end shut down (SHUT_WR)", 0,
     [](Scene& s) { s.open(), s.shut_down(); },
     "w, since a send would not sleep: it would fail; the peer may go on sending",
     "shutdown(2), send(2)"},
    {"", "both-shut-down", "both directions ended", 0,
     [](Scene& s) { s.open(), s.shut_down(), s.peer_half_closes(POLLHUP); },
     "on TCP h means both; socket(7) gives it to one already, which is d in truth",
     "poll(2), tcp_poll() in Linux"},
    {"", "closed-then-sent", "peer closed, we sent, RST came back", 6,
     [](Scene& s) {
         s.open(), s.peer.close(), s.happened(POLLRDHUP), s.hear_all();
         try_send(s), s.happened(POLLERR);
     },
     "that first send succeeded; the next is EPIPE, and SIGPIPE ends who does not ignore it",
     "send(2), signal(7), RFC 9293 3.6.1"},
    {"", "reset", "peer reset (RST)", 0,
     [](Scene& s) { s.open(), s.peer_resets(); },
     "select knows no errors, it says r and w; the error is told once, to whichever asks first",
     "select(2), socket(7), RFC 9293 3.5.3"},
    {"", "reset-unread", "peer reset, 10 bytes unread", 4,
     [](Scene& s) { s.open(), s.arrive(10), s.hear_all(), s.peer_resets(); },
     "Linux still hands out what came before, the RFC has it thrown away: rely on neither",
     "RFC 9293 3.10.7.4"},

    {"Sending", "full", "send buffer full", 7,
     [](Scene& s) { s.fill(); },
     "the kernel takes no more: EAGAIN; on a blocking socket send sleeps, and everybody else waits",
     "send(2)"},
    {"", "drained-quarter", "full, then a quarter drained", 7,
     [](Scene& s) { s.fill(), s.drain(25); },
     "send takes some again, but w comes only when a third is free, so that it pays to wake up",
     "sk_stream_is_writeable() in Linux"},
    {"", "drained-half", "full, then half drained", 7,
     [](Scene& s) { s.fill(), s.drain(50); },
     "more than a third is free: w, and an edge",
     "sk_stream_is_writeable() in Linux"},
    {"", "drained", "full, then all drained", 7,
     [](Scene& s) { s.fill(), s.drain(100); },
     "one edge for all the way from full to empty: the next comes only after it was full again",
     "epoll(7)"},

    {"Connecting", "unconnected", "new socket, connect() not called", 8,
     [](Scene& s) { s.fd = tcp_socket(), s.watch(); },
     "h, as after a connection: registered before connect(), a socket is told at once",
     "recv(2), send(2) BUGS, tcp_poll() in Linux"},
    {"", "connecting", "connect() under way", 8,
     [](Scene& s) {
         s.other = bound(0);
         s.peer = newcomer(s.other);  // the backlog is full: who comes now is not answered
         s.fd = tcp_socket();
         start_connect(s.fd, s.other);
         s.watch();
     },
     "nothing yet; SO_ERROR says 0 here, too, so ask it only after w",
     "connect(2)"},
    {"", "established", "connect() succeeded", 8,
     [](Scene& s) {
         s.other = bound(1);
         s.fd = tcp_socket();
         s.watch_from_now();
         start_connect(s.fd, s.other);
         until([&] { return information(s.fd).tcpi_state == TCP_ESTABLISHED; });
     },
     "w, and SO_ERROR says 0: both together mean connected",
     "connect(2)"},
    {"", "refused", "connect() refused", 8,
     [](Scene& s) {
         s.other = bound(std::nullopt);  // the port is taken, and nobody listens
         s.fd = tcp_socket();
         s.watch_from_now();
         start_connect(s.fd, s.other);
         s.happened(POLLERR);
     },
     "w here, too: SO_ERROR says why, once; then close it and take a new socket",
     "connect(2), RFC 9293 3.5.2"},

    {"Listening", "listener", "nobody waits in the backlog", 0,
     [](Scene& s) { s.fd = bound(8), s.watch(); },
     "no r: nothing to accept; a listener is never w",
     "accept(2)"},
    {"", "waiting", "one waits in the backlog", 0,
     [](Scene& s) { s.listen(), s.peer = newcomer(s.fd); },
     "r: there is something to accept; edge-triggered, accept until EAGAIN, or one may stay there",
     "accept(2), epoll(7)"},
    {"", "waiting-reset", "one waited, and has reset", 0,
     [](Scene& s) { s.listen(), s.peer = newcomer(s.fd), s.reset_comes = true, reset(s.peer); },
     "Linux hands out the dead connection, and recv tells; others say ECONNABORTED, or drop it",
     "accept(2)"},
    {"", "waiting-taken", "one waited, somebody else accepted it", 9,
     [](Scene& s) { s.listen(), s.peer = newcomer(s.fd), s.other = accepted(s.fd); },
     "who was told r before that finds nothing: a blocking accept sleeps, and everybody else waits",
     "accept(2)"},
    {"", "waiting-no-room", "one waits, accept had no descriptor", 10,
     [](Scene& s) {
         s.listen(), s.peer = newcomer(s.fd), s.hear_all();
         s.none_free.emplace(), try_accept(s);
     },
     "it stays in the backlog: level-triggered says r every time, and spins; edge-triggered stalls",
     "accept(2), epoll(7)"},

    {"The registration", "no-events", "no events asked; half-closed, 10 unread", 11,
     [](Scene& s) { s.wanted = 0, s.open(), s.arrive(10), s.peer_half_closes(); },
     "what is not asked for is not told",
     "poll(2), epoll_ctl(2)"},
    {"", "no-events-reset", "no events asked; peer reset", 11,
     [](Scene& s) { s.wanted = 0, s.open(), s.peer_resets(); },
     "e and h come unasked, in every round: nothing but taking it off the list silences it",
     "poll(2), epoll_ctl(2)"},
    {"", "twice", "registered twice", 0,
     [](Scene& s) { s.connect(), s.watch(), s.watch(), s.entries = 2; },
     "a set holds it once, an array as often as you wrote it; epoll refuses, the first one stays",
     "epoll(7), poll(2)"},
    {"", "closed", "closed while watched", 12,
     [](Scene& s) { s.open(), s.fd.close(); },
     "select fails as a whole, poll marks that entry, epoll has forgotten it without a word",
     "select(2), poll(2), epoll(7)"},
    {"", "closed-dup", "closed, a dup() lives, 10 bytes came", 12,
     [](Scene& s) {
         s.open();
         s.fd = Descriptor(check(::dup(s.number), "dup"));
         ::close(s.number);
         s.arrive(10);
     },
     "epoll goes by what the number stood for: it tells of a closed one, and DEL of that is EBADF",
     "epoll(7), dup(2)"},
    {"", "reused", "closed, number reused, 10 bytes came", 13,
     [](Scene& s) {
         s.open();
         Scene newer;
         newer.connect();
         check(::dup2(newer.fd.get(), s.number), "dup2");  // closes the old one on the way
         s.peer = std::move(newer.peer);
         s.arrive(10);
     },
     "numbers are given out again at once: select and poll tell of the new one, epoll of neither",
     "open(2), dup(2), epoll(7)"},
    {"", "number-1024", "just connected, its number is 1024", 14,
     [](Scene& s) {
         s.connect();
         s.fd = Descriptor(::fcntl(s.fd.get(), F_DUPFD, FD_SETSIZE));
         if (s.fd.get() < 0) throw Unavailable();
         s.watch();
     },
     "the number counts, not how many: FD_SET of it writes behind the set (undefined)",
     "select(2) NOTES, BUGS"},

    {"Not a socket", "file", "regular file, at its end", 15,
     [](Scene& s) { s.fd = file(), s.watch(); },
     "always ready, even at its end: to wait until more is appended never sleeps; epoll refuses it",
     "POSIX poll(), epoll_ctl(2)"},
    {"", "pipe-no-writer", "pipe, empty, no writer left", 4,
     [](Scene& s) { s.pipe(true), s.peer.close(); },
     "h without r, where a socket says r and d: who reads on r alone never sees the end, and spins",
     "pipe(7), poll(2)"},
    {"", "pipe-end-unread", "pipe, 10 bytes unread, no writer left", 4,
     [](Scene& s) { s.pipe(true), s.arrive(10), s.hear_all(), s.peer.close(); },
     "h beside r: read on, the end comes after the last byte",
     "pipe(7), poll(2)"},
    {"", "pipe-no-reader", "pipe, no reader left", 6,
     [](Scene& s) { s.pipe(false), s.peer.close(); },
     "e beside w: write says EPIPE, and SIGPIPE ends who does not ignore it",
     "pipe(7), poll(2)"},
    {"", "pipe-more", "pipe, 10 bytes unread, 10 more came", 3,
     [](Scene& s) { s.pipe(true), s.arrive(10), s.hear_all(), s.arrive(10); },
     "an edge for each write; Linux 5.5 to 5.13: only for a write into an empty pipe",
     "epoll(7)"},
};

struct Question {
    const char* asked;
    const char* answer;
};

inline const Question questions[] = {
    {"Writable fires all the time: is edge-triggered the cure?",
     "No: ask for w only while something waits to be sent."},
    {"Is one recv one message?", "No: bytes; where a message ends is yours to find."},
    {"Bytes are left: why is edge-triggered silent?",
     "It tells of changes: read until EAGAIN, or nobody tells you again."},
    {"The peer hung up (d, h): close at once?", "No: read to the end, the tail is still there."},
    {"recv said 0: is the connection over?", "Half of it: what you owe can still be sent."},
    {"The program just ended, why?",
     "Exit status 141 is 128 + 13, SIGPIPE: ignore it, and handle EPIPE."},
    {"Does a slow client hurt only itself?",
     "Only if send never sleeps, and what waits for the client is bounded."},
    {"Does writable mean connected?", "No: refused is writable, too; SO_ERROR tells."},
    {"It is ready: may the call block, then?", "No: it may be gone by the time you come."},
    {"Is a failing accept harmless?",
     "No: the newcomer stays, and the wait never sleeps again: stop watching until one is free."},
    {"Do no events mean silence?", "No: errors and hang-ups come all the same."},
    {"Does close() take it off every list?",
     "Only off epoll's, and only if no copy (dup, fork) lives: take it off before you close it."},
    {"Does the rest of a batch hold after a close?",
     "No: its number may be somebody else's by now; close after the batch."},
    {"Does FD_SETSIZE mean 1024 clients?", "No: descriptor numbers up to 1023, whatever they are."},
    {"Can I wait for a file?", "No: it is always ready."},
};
// clang-format on
