// The truth table: what each of the four ways to wait says of a descriptor, state by state, and
// what recv, send and SO_ERROR say then. Every cell is asked of the kernel that it runs on.
//
//     make truth                      the whole table
//     make truth ARGS="full refused"  these rows alone
//     make truth ARGS=--json          for programs
//
// A state is made the same way each time: open, register, ask until the edge-triggered wait has no
// more to tell, and only then let happen what the state is about. So the edge-triggered column
// answers: "what do I hear of this, if I have heard all before it?"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <span>
#include <string_view>

#include <sys/select.h>
#include <sys/utsname.h>

#include "../output/print.hpp"
#include "scene.hpp"

namespace {

// ---- Asking ------------------------------------------------------------------------------------

struct Row {
    std::string select, poll, level, edge, edge_again, recv, send, so_error;
};

std::string ask_select(const Scene& scene) {
    if (scene.number >= FD_SETSIZE) return "no room";  // FD_SET would write behind the set
    fd_set sets[3];
    for (fd_set& set : sets) {
        FD_ZERO(&set);
        if (scene.wanted) FD_SET(scene.number, &set);
    }
    timeval at_once{};
    if (::select(scene.number + 1, &sets[0], &sets[1], &sets[2], &at_once) < 0)
        return errno_name(errno);
    std::string text;
    for (std::size_t i = 0; i < 3; ++i)
        if (FD_ISSET(scene.number, &sets[i])) text += "rwx"[i];
    return text.empty() ? "-" : text;
}

std::string ask_poll(const Scene& scene) {
    std::vector<pollfd> array(scene.entries, {scene.number, static_cast<short>(scene.wanted), 0});
    check(::poll(array.data(), array.size(), 0), "poll");
    std::string text;
    for (const pollfd& entry : array)
        text += (text.empty() ? "" : " ") + letters(static_cast<unsigned short>(entry.revents));
    return text;
}

/// Both answers, or one if the second is the same.
std::string both(const std::string& first, const std::string& again) {
    return first == again ? first : first + ", " + again;
}

std::string result(ssize_t value) { return value < 0 ? errno_name(errno) : std::to_string(value); }

std::string receive(int fd) {
    char buffer[64];
    const ssize_t bytes = ::recv(fd, buffer, sizeof buffer, 0);
    return result(bytes < 0 && errno == ENOTSOCK ? ::read(fd, buffer, sizeof buffer) : bytes);
}

std::string try_accept(const Scene& scene) {
    const Descriptor fd(::accept4(scene.number, nullptr, nullptr, SOCK_NONBLOCK));
    if (fd.get() < 0) return errno_name(errno);
    if (scene.reset_comes) wait_for(fd, POLLERR);
    return "ok: " + receive(fd.get());
}

std::string try_recv(const Scene& scene) {
    int listens = 0;
    socklen_t size = sizeof listens;
    ::getsockopt(scene.number, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size);
    if (listens) return try_accept(scene);
    char byte;
    const bool urgent = ::recv(scene.number, &byte, 1, MSG_OOB) == 1;
    const std::string first = receive(scene.number), again = receive(scene.number);
    return (urgent ? "oob 1, " : "") + both(first, again);
}

std::string try_send(const Scene& scene) {
    const ssize_t bytes = ::send(scene.number, "!", 1, 0);
    return result(bytes < 0 && errno == ENOTSOCK ? ::write(scene.number, "!", 1) : bytes);
}

std::string try_so_error(const Scene& scene) {
    int error = 0;
    socklen_t size = sizeof error;
    const int done = ::getsockopt(scene.number, SOL_SOCKET, SO_ERROR, &error, &size);
    return errno_name(done < 0 ? errno : error);
}

/// recv, send and SO_ERROR get a scene each: who is told of an error takes it from the others. To
/// wait takes nothing.
Row ask(void (*make)(Scene&)) {
    const auto in_new_scene = [&](const std::function<void(Scene&)>& question) {
        Scene scene;
        make(scene);
        question(scene);
    };
    Row row;
    in_new_scene([&](Scene& scene) {
        row.select = ask_select(scene);
        row.poll = ask_poll(scene);
        row.level = scene.level.ask(20);  // a listener's news have no lock that queued() could take
        row.level = both(row.level, scene.level.ask());
        row.edge = scene.edge.ask(20);
        row.edge_again = scene.edge.ask();
    });
    in_new_scene([&](Scene& scene) { row.recv = try_recv(scene); });
    in_new_scene([&](Scene& scene) { row.send = try_send(scene); });
    in_new_scene([&](Scene& scene) {
        row.so_error = try_so_error(scene);
        row.so_error = both(row.so_error, try_so_error(scene));
    });
    return row;
}

// ---- The states --------------------------------------------------------------------------------

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
const State states[] = {
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

const Question questions[] = {
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

// ---- Telling ------------------------------------------------------------------------------------

constexpr char legend[] = R"(
r readable   w writable   x urgent data (PRI)   d peer sends no more (RDHUP)
h hang-up (HUP)   e error (ERR)   n not open (NVAL)   - nothing
Asked for: r w x d, unless the row says otherwise. select tells e as r and w, h as r (select(2)).
first, again: what edge-triggered tells of this when all before was heard, and when asked once more.
The other waits tell the same each time. recv, SO_ERROR: the second time, too, where it differs.
recv: 0 is the end of input; oob is recv(MSG_OOB); of a listener accept(); after "ok:" recv then.
What is no socket gets read() and write().
)";
// clang-format on

using Told = std::pair<const State*, Row>;

void print_table(const std::vector<Told>& table, const char* kernel) {
    constexpr char line[] = "  %-19s%-41s%-8s%-7s%-7s%-7s%-7s%-16s%-13s%-15s %2s\n";
    print("What Linux %s says of a descriptor\n\n%75s  %5s  %s\n", kernel, "", "epoll",
          "edge-triggered");
    print(line, "", "", "select", "poll", "level", "first", "again", "recv", "send", "SO_ERROR",
          " Q");
    for (const auto& [state, row] : table) {
        if (*state->group) print("%s\n", state->group);
        const std::string question = state->question ? std::to_string(state->question) : "-";
        print(line, state->name, state->title, row.select.c_str(), row.poll.c_str(),
              row.level.c_str(), row.edge.c_str(), row.edge_again.c_str(), row.recv.c_str(),
              row.send.c_str(), row.so_error.c_str(), question.c_str());
    }
    print("%s\nWhy\n", legend);
    for (const auto& [state, row] : table)
        print("  %-19s%s [%s]\n", state->name, state->why, state->source);
    print("\nQ: what learners ask most\n");
    for (int number = 1; const auto& [asked, answer] : questions) {
        const auto answers = [&](const Told& told) { return told.first->question == number; };
        if (std::any_of(table.begin(), table.end(), answers))
            print("  %2d  %s %s\n", number, asked, answer);
        ++number;
    }
}

std::string in_quotes(std::string_view text) {
    std::string json = "\"";
    for (const char letter : text) {
        char code[8];
        std::snprintf(code, sizeof code, "\\u%04x", static_cast<unsigned char>(letter));
        const bool plain = letter >= ' ' && letter != '"' && letter != '\\';
        json += plain ? std::string(1, letter) : code;
    }
    return json + '"';
}

/// {"name": "value", ...}: every value is a string.
std::string object(const std::vector<std::pair<const char*, std::string>>& members) {
    std::string json;
    for (const auto& [name, value] : members)
        json += (json.empty() ? "{" : ", ") + in_quotes(name) + ": " + in_quotes(value);
    return json + "}";
}

void print_json(const std::vector<Told>& table, const char* kernel) {
    print("{\"kernel\": %s, \"states\": [", in_quotes(kernel).c_str());
    const char* between = "\n";
    for (const auto& [state, row] : table) {
        const std::string json = object({{"state", state->name},
                                         {"title", state->title},
                                         {"select", row.select},
                                         {"poll", row.poll},
                                         {"level", row.level},
                                         {"edge", row.edge},
                                         {"edge_again", row.edge_again},
                                         {"recv", row.recv},
                                         {"send", row.send},
                                         {"so_error", row.so_error},
                                         {"question", std::to_string(state->question)},
                                         {"why", state->why},
                                         {"source", state->source}});
        print("%s%s", std::exchange(between, ",\n"), json.c_str());
    }
    print("\n], \"questions\": [");
    between = "\n";
    for (const auto& [asked, answer] : questions)
        print("%s%s", std::exchange(between, ",\n"),
              object({{"question", asked}, {"answer", answer}}).c_str());
    print("\n]}\n");
}

[[noreturn]] void unknown(std::string_view word) {
    std::string line =
        "truth: unknown word " + in_quotes(word) + "; there are --json and the states";
    for (const State& state : states) line += std::string(" ") + state.name;
    std::fprintf(stderr, "%s\n", line.c_str());
    std::exit(2);
}

Told told_by_kernel(const State& state) {
    try {
        return {&state, ask(state.make)};
    } catch (const Unavailable&) {
        return {&state, {"n/a", "n/a", "n/a", "n/a", "n/a", "n/a", "n/a", "n/a"}};
    } catch (const std::exception& error) {
        std::fprintf(stderr, "truth: %s cannot be made: %s\n", state.name, error.what());
        std::exit(1);
    }
}

/// Lets there be a descriptor number that select has no room for, where the system allows it.
void raise_limit() {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = std::max(limit.rlim_cur, std::min<rlim_t>(limit.rlim_max, 2 * FD_SETSIZE));
    ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

int main(int argc, char* argv[]) {
    bool json = false;
    std::vector<const State*> wanted;
    for (const std::string_view word : std::span(argv + 1, argv + argc)) {
        const auto named = [&](const State& state) { return state.name == word; };
        const State* const state = std::find_if(std::begin(states), std::end(states), named);
        if (state != std::end(states)) wanted.push_back(state);
        else if (word == "--json") json = true;
        else unknown(word);
    }
    if (wanted.empty())
        for (const State& state : states) wanted.push_back(&state);

    require_stdout();
    std::signal(SIGPIPE, SIG_IGN);  // or the first EPIPE would be the end of this program
    raise_limit();
    std::vector<Told> table;
    for (const State* const state : wanted) table.push_back(told_by_kernel(*state));
    utsname system{};
    ::uname(&system);
    (json ? print_json : print_table)(table, system.release);
}
