// program.hpp: what a program has around its work: command line, stop signal, narration, counters.
// The same file, byte for byte, in every stage.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "service.hpp"

/// What a stage says of itself.
struct Stage {
    int number;                // its ports are 9N01, 9N02 and 9N03 if the command line names none
    const char* name;          // as its folder is called
    bool waits;                // whether it has a wait that -t could limit
    const char* options = "";  // what it takes beside the common options, as getopt() is told
    const char* usage = "";    // and how that reads
};

struct Port {
    Service service;
    int number;  // 0: any free one
};

struct Options {
    std::string address = "127.0.0.1";
    std::vector<Port> ports{};
    double timeout = -1;  // seconds that one wait may last; negative: no limit
    bool verbose = false;
    bool quiet = false;
    bool probe = false;              // stage 2
    const char* selector = nullptr;  // stage 6
};

/// Calls made, and what they brought. NOTES.md says how each is counted.
struct Counters {
    std::uint64_t waits = 0, ready = 0, watch = 0, scanned = 0;
    std::uint64_t accept = 0, recv = 0, send = 0, would_block = 0;
    std::uint64_t bytes_in = 0, bytes_out = 0, clients = 0, max_clients = 0;
};

/// All that a signal handler can reach. A signal may strike between any two instructions: what the
/// handler does must still be in effect when the next system call is about to sleep.
namespace signals {

inline volatile std::sig_atomic_t pending = 0;             // something below is news
inline volatile std::sig_atomic_t stop = 0;                // SIGINT or SIGTERM, whichever came
inline volatile std::sig_atomic_t stats = 0;               // SIGUSR1 came
inline volatile std::sig_atomic_t blocking[2] = {-1, -1};  // what stage 1 may sleep in
inline int pipe[2] = {-1, -1};                             // the self-pipe; never closed

// Only async-signal-safe calls here (POSIX, 2.4.3): write() and fcntl() are.
extern "C" inline void handle_signal(int number) {
    const int saved = errno;
    (number == SIGUSR1 ? stats : stop) = number;
    pending = 1;
    // A flag alone is lost if the signal comes after it was checked and before the wait: the wait
    // would sleep on. A byte in a pipe stays there, and makes the wait return whenever it begins.
    // (When the pipe is full, it is readable already.)
    if (::write(pipe[1], "", 1) < 0) errno = saved;
    // Stage 1 has no wait, but sleeps in accept(), recv() or send(). One that sleeps already fails
    // with EINTR; one that is just about to begin finds its descriptor non-blocking, and does not.
    for (const int fd : {blocking[0], blocking[1]})
        if (fd >= 0) ::fcntl(fd, F_SETFL, O_NONBLOCK);
    errno = saved;
}

}  // namespace signals

/// The name of an errno value, as the manual pages spell it.
inline const char* errno_name(int error) {
    switch (error) {
    case 0: return "0";
    case EACCES: return "EACCES";
    case EADDRINUSE: return "EADDRINUSE";
    case EADDRNOTAVAIL: return "EADDRNOTAVAIL";
    case EAFNOSUPPORT: return "EAFNOSUPPORT";
    case EAGAIN: return "EAGAIN";
    case EBADF: return "EBADF";
    case ECONNABORTED: return "ECONNABORTED";
    case ECONNREFUSED: return "ECONNREFUSED";
    case ECONNRESET: return "ECONNRESET";
    case EEXIST: return "EEXIST";
    case EHOSTUNREACH: return "EHOSTUNREACH";
    case EINPROGRESS: return "EINPROGRESS";
    case EINTR: return "EINTR";
    case EINVAL: return "EINVAL";
    case EIO: return "EIO";
    case EISCONN: return "EISCONN";
    case EMFILE: return "EMFILE";
    case ENETDOWN: return "ENETDOWN";
    case ENETUNREACH: return "ENETUNREACH";
    case ENFILE: return "ENFILE";
    case ENOBUFS: return "ENOBUFS";
    case ENOENT: return "ENOENT";
    case ENOMEM: return "ENOMEM";
    case ENOPROTOOPT: return "ENOPROTOOPT";
    case ENOSPC: return "ENOSPC";
    case ENOTCONN: return "ENOTCONN";
    case ENOTSOCK: return "ENOTSOCK";
    case EPERM: return "EPERM";
    case EPIPE: return "EPIPE";
    case EPROTO: return "EPROTO";
    case ETIMEDOUT: return "ETIMEDOUT";
    default: return "EOTHER";
    }
}

/// `bytes` in quotes, on one line, harmless to a terminal; after the first 40, `+` how many more.
inline std::string in_quotes(std::string_view bytes) {
    constexpr std::size_t most = 40;
    constexpr char hex[] = "0123456789abcdef";
    std::string text = "\"";
    for (const char c : bytes.substr(0, most)) {
        const auto byte = static_cast<unsigned char>(c);
        if (c == '\n') text += "\\n";
        else if (c == '\r') text += "\\r";
        else if (c == '\t') text += "\\t";
        else if (c == '"' || c == '\\') text += {'\\', c};
        else if (byte >= 0x20 && byte < 0x7F) text += c;
        else text += {'\\', 'x', hex[byte >> 4], hex[byte & 15]};
    }
    text += '"';
    return bytes.size() > most ? text + "+" + std::to_string(bytes.size() - most) : text;
}

/// Seconds on the monotonic clock: the same clock for every program on the machine.
inline double monotonic() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

/// `seconds` as poll() and epoll_wait() want them: whole milliseconds, -1 for no limit. Rounded up:
/// rounded down, the last part of a millisecond would be spent in waits that do not wait.
inline int milliseconds(double seconds) {
    return seconds < 0 ? -1 : static_cast<int>(std::ceil(seconds * 1000));
}

/// The running program. One for each process: the signal handler knows no other.
class Program {
public:
    const Stage stage;
    Options options;
    Counters counters;

    /// Reads the command line; a bad word ends the program with one line and status 2.
    Program(int argc, char* argv[], const Stage& described) : stage(described) {
        open_standard_descriptors();
        catch_signals();
        parse(argc, argv);
        open_terminal();
        narrating_ = !options.quiet;
    }

    /// Whether to describe events. Ask before computing what only a narrated line needs.
    bool narrating() const { return narrating_; }

    /// The time before a call that may sleep; costs nothing with -q.
    double stopwatch() const { return narrating_ ? monotonic() : 0; }

    /// The first lines: from here on the services are about to be had.
    void start() {
        const std::string selector =
            options.selector ? " selector=" + std::string(options.selector) : "";
        say("start", "stage=%s pid=%ld clock=%.6f%s", stage.name, static_cast<long>(::getpid()),
            started_, selector.c_str());
        if (options.timeout >= 0 && !stage.waits)
            narrate("note", "text=\"-t limits nothing here: this stage has no wait\"");
    }

    /// Sets how many descriptors this process may have: `most`, or as many as the system allows.
    void limit_descriptors(rlim_t most) {
        rlimit limit{};
        ::getrlimit(RLIMIT_NOFILE, &limit);
        limit.rlim_cur = std::min(most, limit.rlim_max);
        ::setrlimit(RLIMIT_NOFILE, &limit);
        ::getrlimit(RLIMIT_NOFILE, &limit);
        narrate("limit", "descriptors=%llu", static_cast<unsigned long long>(limit.rlim_cur));
    }

    /// One line of narration: seconds since the start, a verb, key=value. Nothing with -q.
    [[gnu::format(printf, 3, 4)]] void narrate(const char* verb, const char* format, ...) {
        if (!narrating_) return;
        va_list values;
        va_start(values, format);
        put_line(verb, format, values, 0);
        va_end(values);
    }

    /// The same for what only -v wants to see.
    [[gnu::format(printf, 3, 4)]] void detail(const char* verb, const char* format, ...) {
        if (!narrating_ || !options.verbose) return;
        va_list values;
        va_start(values, format);
        put_line(verb, format, values, 0);
        va_end(values);
    }

    /// A line that -q shows, too.
    [[gnu::format(printf, 3, 4)]] void say(const char* verb, const char* format, ...) {
        va_list values;
        va_start(values, format);
        put_line(verb, format, values, 200);
        va_end(values);
    }

    /// Ends the program with one line on stderr. Status 2: a bad word; 1: the system refused.
    [[noreturn, gnu::format(printf, 3, 4)]] void fail(int status, const char* format, ...) const {
        char text[512];
        va_list values;
        va_start(values, format);
        std::vsnprintf(text, sizeof text, format, values);
        va_end(values);
        std::fprintf(stderr, "%s: %s\n", stage.name, text);
        std::exit(status);
    }

    /// The self-pipe's end to watch: readable as soon as a signal has come.
    int signal_fd() const { return signals::pipe[0]; }

    /// Stage 1's: the next call on `fd` may sleep, and a signal has to end that. `which`: 0 for the
    /// listener, 1 for the client; -1 as `fd`: no longer.
    static void may_sleep_in(int which, int fd) { signals::blocking[which] = fd; }

    /// Whether to stop. Prints the stats asked for on the way; to be called once a round.
    bool stopped() {
        if (!signals::pending || stopping_) return stopping_;
        do {
            signals::pending = 0;  // before anything else, so that a signal from here on is seen
            char bytes[64];
            while (::read(signals::pipe[0], bytes, sizeof bytes) > 0) {}
            for (const int fd : {signals::blocking[0], signals::blocking[1]})
                if (fd >= 0) ::fcntl(fd, F_SETFL, 0);  // blocking again
        } while (signals::pending &&
                 !signals::stop);  // one struck meanwhile, and what it did may be undone
        if (signals::stats) {
            signals::stats = 0;
            stats();
        }
        stopping_ = signals::stop != 0;
        if (stopping_) narrate("stop", "signal=%s", signals::stop == SIGINT ? "SIGINT" : "SIGTERM");
        return stopping_;
    }

    /// Sleeps for `seconds`, or until a signal comes.
    void rest(double seconds) const {
        pollfd signal{signal_fd(), POLLIN, 0};
        ::poll(&signal, 1, milliseconds(seconds));
    }

    void stats() {
        const Counters& c = counters;
        const auto n = [](std::uint64_t value) { return static_cast<unsigned long long>(value); };
        say("stats",
            "waits=%llu ready=%llu watch=%llu scanned=%llu accept=%llu recv=%llu send=%llu "
            "would_block=%llu bytes_in=%llu bytes_out=%llu clients=%llu max_clients=%llu",
            n(c.waits), n(c.ready), n(c.watch), n(c.scanned), n(c.accept), n(c.recv), n(c.send),
            n(c.would_block), n(c.bytes_in), n(c.bytes_out), n(c.clients), n(c.max_clients));
    }

private:
    // Started with stdout closed, the first socket would get its number, and the narration.
    static void open_standard_descriptors() {
        for (int fd = 0; fd <= 2; ++fd)
            if (::fcntl(fd, F_GETFD) < 0) ::open("/dev/null", O_RDWR);
    }

    void catch_signals() {
        struct sigaction action {};
        sigfillset(&action.sa_mask);
        action.sa_handler = signals::handle_signal;  // and no SA_RESTART: what sleeps shall wake
        for (const int number : {SIGINT, SIGTERM, SIGUSR1}) ::sigaction(number, &action, nullptr);
        action.sa_handler = SIG_IGN;  // a peer that is gone is told by EPIPE, and ends nobody else
        ::sigaction(SIGPIPE, &action, nullptr);
        sigset_t ours;
        sigemptyset(&ours);
        for (const int number : {SIGINT, SIGTERM, SIGUSR1}) sigaddset(&ours, number);
        ::sigprocmask(SIG_UNBLOCK, &ours, nullptr);  // whoever started us may block them
        if (::pipe(signals::pipe) < 0) fail(1, "no pipe: %s", errno_name(errno));
        for (const int fd : signals::pipe) ::fcntl(fd, F_SETFL, O_NONBLOCK);
    }

    // A terminal that has room for half a line makes write() wait for the rest. Opened once more,
    // it can be non-blocking for us, and not for the shell, with which we share the descriptor we
    // have.
    static void open_terminal() {
        const char* terminal = ::ttyname(STDOUT_FILENO);
        const int fd = terminal ? ::open(terminal, O_WRONLY | O_NOCTTY | O_NONBLOCK) : -1;
        if (fd < 0) return;
        ::dup2(fd, STDOUT_FILENO);
        ::close(fd);
    }

    void parse(int argc, char* argv[]) {
        const std::string known = std::string("+:a:e:g:c:t:vqh") + stage.options;
        opterr = 0;  // the one line is ours
        for (int word = 1, option; (option = ::getopt(argc, argv, known.c_str())) != -1;
             word = optind)
            switch (option) {
            case 'a': options.address = address(); break;
            case 'e': options.ports.push_back({Service::echo, port(option)}); break;
            case 'g': options.ports.push_back({Service::greet, port(option)}); break;
            case 'c': options.ports.push_back({Service::chat, port(option)}); break;
            case 't': options.timeout = number(option, 0.001, 86400); break;
            case 'v': options.verbose = true; break;
            case 'q': options.quiet = true; break;
            case 'p': options.probe = true; break;
            case 's': options.selector = optarg; break;
            case 'h': help();
            case ':': fail(2, "-%c wants a value; %s", optopt, usage().c_str());
            default: fail(2, "unknown option %s; %s", unknown(argv[word]).c_str(), usage().c_str());
            }
        if (optind < argc)
            fail(2, "unknown word %s; %s", in_quotes(argv[optind]).c_str(), usage().c_str());
        if (options.verbose && options.quiet) fail(2, "either -v or -q, not both");
        if (options.ports.empty())
            for (const Service service : {Service::echo, Service::greet, Service::chat})
                options.ports.push_back(
                    {service, 9001 + 100 * stage.number + static_cast<int>(service)});
    }

    // What getopt() did not know. Of --foo it says no more than that '-' is no option.
    static std::string unknown(std::string_view word) {
        const std::string option{'-', static_cast<char>(optopt)};
        return in_quotes(word.starts_with("--") ? word : option);
    }

    double number(int option, double least, double most) const {
        char* end = optarg;
        const double value = std::strtod(optarg, &end);
        // Written so that what is no number (nan) fails, too.
        if (end == optarg || *end != '\0' || !(value >= least && value <= most))
            fail(2, "-%c %s: a number from %g to %g is wanted", option, in_quotes(optarg).c_str(),
                 least, most);
        return value;
    }

    // An address in full: getaddrinfo() alone would take 1.2.3 for 1.2.0.3.
    const char* address() const {
        const std::string_view given(optarg);
        const std::string plain(given.substr(0, given.find('%')));  // fe80::1%eth0 names its link
        in6_addr parsed;
        if (::inet_pton(AF_INET, optarg, &parsed) != 1 &&
            ::inet_pton(AF_INET6, plain.c_str(), &parsed) != 1)
            fail(2, "-a %s: an IPv4 or IPv6 address is wanted, such as 127.0.0.1 or ::1",
                 in_quotes(given).c_str());
        return optarg;
    }

    int port(int option) const {
        const double value = number(option, 0, 65535);
        if (std::string_view(optarg).find_first_not_of("0123456789") != std::string_view::npos)
            fail(2, "-%c %s: a port is a whole number", option, in_quotes(optarg).c_str());
        return static_cast<int>(value);
    }

    std::string usage() const {
        return "usage: " + std::string(stage.name) +
               " [-a ADDRESS] [-e PORT] [-g PORT] [-c PORT] [-t SECONDS] [-v | -q] [-h]" +
               stage.usage;
    }

    [[noreturn]] void help() const {
        const int first = 9001 + 100 * stage.number;
        std::printf(
            "%s\n"
            "  -e, -g, -c PORT  the port of echo, greet, chat; 0: any free one. None named: all\n"
            "                   three, on %d, %d and %d. Some named: those, in that order.\n"
            "  -a ADDRESS       listen on this IPv4 or IPv6 address, not on 127.0.0.1\n"
            "  -t SECONDS       how long one wait lasts at the most (stages 3 to 6)\n"
            "  -v               narrate every system call\n"
            "  -q               only start, listen and stats\n"
            "SIGUSR1 prints the counters; SIGINT (Ctrl-C) and SIGTERM stop.\n",
            usage().c_str(), first, first + 1, first + 2);
        if (std::fflush(stdout) != 0) fail(1, "cannot print the help: %s", errno_name(errno));
        std::exit(0);
    }

    // One write() for each line. A reader of stdout who is slow or hangs must not stop the service:
    // a line for which there is no room within `patience` milliseconds is dropped, and counted.
    [[gnu::format(printf, 3, 0)]] void put_line(const char* verb, const char* format,
                                                va_list values, int patience) {
        if (deaf_) return;
        const double seconds = monotonic() - started_;
        if (!stdout_has_room(patience) || !write_unsaid()) {
            ++lost_;
            return;
        }
        char line[2048];
        int length = 0;
        if (lost_ > 0)
            length = std::snprintf(line, sizeof line, "%8.3f lost    lines=%llu\n", seconds,
                                   static_cast<unsigned long long>(lost_));
        lost_ = 0;
        length += std::snprintf(line + length, 64, "%8.3f %-7s ", seconds, verb);
        const auto space = sizeof line - static_cast<std::size_t>(length);
        length += std::vsnprintf(line + length, space, format, values);
        length = std::min(length, static_cast<int>(sizeof line) - 1);
        line[length++] = '\n';
        unsaid_.assign(line, static_cast<std::size_t>(length));
        if (!write_unsaid() && !deaf_ && stdout_has_room(patience)) write_unsaid();
    }

    // Whether stdout takes something within that time. Who waited in vain once does not wait again
    // for a reader who hangs.
    bool stdout_has_room(int patience) {
        pollfd out{STDOUT_FILENO, POLLOUT, 0};
        const bool found = ::poll(&out, 1, hangs_ ? 0 : patience) > 0;
        hangs_ = !found && (hangs_ || patience > 0);
        return found;
    }

    // Writes a line, or the rest of one that a terminal took in part: that comes with the next
    // line. Whether all was taken.
    bool write_unsaid() {
        if (unsaid_.empty()) return true;
        const ssize_t count = ::write(STDOUT_FILENO, unsaid_.data(), unsaid_.size());
        if (count >= 0) {
            unsaid_.erase(0, static_cast<std::size_t>(count));
        } else if (errno != EINTR && errno != EAGAIN) {
            deaf_ = true;  // whoever read us has left: stop talking, and serve on
            narrating_ = false;
            std::fprintf(stderr, "%s: stdout: %s: serving on without narration\n", stage.name,
                         errno_name(errno));
        }
        return unsaid_.empty();
    }

    const double started_ = monotonic();
    bool narrating_ = false;
    bool stopping_ = false;
    bool deaf_ = false;
    bool hangs_ = false;
    std::uint64_t lost_ = 0;
    std::string unsaid_;
};
