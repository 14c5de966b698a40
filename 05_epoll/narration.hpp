// narration.hpp, the same in every stage: the lines on stdout, and the counters.
#pragma once

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <string>

#include <fcntl.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include "options.hpp"
#include "text.hpp"

/// Calls made, and what came of them. NOTES.md says how each is counted.
struct Counters {
    unsigned long long waits = 0, ready = 0, watch = 0, scanned = 0;
    unsigned long long accept = 0, recv = 0, send = 0, would_block = 0;
    unsigned long long bytes_in = 0, bytes_out = 0, clients = 0, max_clients = 0;
};

/// Seconds on the monotonic clock: the same clock for every program on the machine.
inline double monotonic() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

/// `seconds` as poll() and epoll_wait() want them: whole milliseconds, -1 for no limit, 0 if it is
/// over. Rounded up: rounded down, a fraction of a millisecond becomes 0, and the loop spins.
inline int milliseconds(double seconds) {
    if (seconds == no_limit) return -1;
    if (seconds < 0) return 0;
    const int whole = static_cast<int>(seconds * 1000);
    return whole < seconds * 1000 ? whole + 1 : whole;
}

/// Writes the lines. A reader of stdout that is slow or hangs does not stop the service: a line for
/// which there is no room is dropped and counted. When the reader has left, the lines end.
class Narration {
public:
    const Options& options;
    Counters counters{};

    explicit Narration(const Options& read) : options(read) {
        // Started with stdout closed, the first socket would get its number, and the narration.
        for (int fd = 0; fd <= 2; ++fd)
            if (::fcntl(fd, F_GETFD) < 0) ::open("/dev/null", O_RDWR);
        unsaid_.reserve(longest);  // so that a line is written though memory has run out
        // A terminal with room for half a line makes write() wait for the rest. Opened once more,
        // it can be non-blocking for us and not for the shell, with which we share descriptor 1.
        // Not by its name: in a container it may have none.
        if (!::isatty(STDOUT_FILENO)) return;
        const int fd = ::open("/dev/fd/1", O_WRONLY | O_NOCTTY | O_NONBLOCK);
        if (fd < 0) return;
        ::dup2(fd, STDOUT_FILENO);
        ::close(fd);
    }

    /// Prints the start line.
    void start() {
        say("start", "stage=%s pid=%ld clock=%.6f%s%s", options.name, static_cast<long>(::getpid()),
            started_, options.selector.empty() ? "" : " selector=", options.selector.c_str());
        if (options.timeout != no_limit && options.stage < 3)
            narrate("note", "text=\"-t limits nothing here: this stage has no wait\"");
    }

    /// Whether events are described. Ask before computing what only a narrated line needs.
    bool narrating() const { return narrating_; }

    /// Whether -v was given.
    bool verbose() const { return narrating_ && options.verbose; }

    /// The time before a call that may sleep, in seconds; not asked for with -q.
    double stopwatch() const { return narrating_ ? monotonic() : 0; }

    /// One line: seconds since the start, a verb, key=value. Not with -q.
    [[gnu::format(printf, 3, 4)]] void narrate(const char* verb, const char* format, ...) {
        if (!narrating_) return;
        va_list values;
        va_start(values, format);
        put_line(verb, format, values, 0);
        va_end(values);
    }

    /// The same, for what -q shows, too.
    [[gnu::format(printf, 3, 4)]] void say(const char* verb, const char* format, ...) {
        va_list values;
        va_start(values, format);
        put_line(verb, format, values, 200);
        va_end(values);
    }

    void stats() {
        const Counters& c = counters;
        say("stats",
            "waits=%llu ready=%llu watch=%llu scanned=%llu accept=%llu recv=%llu send=%llu "
            "would_block=%llu bytes_in=%llu bytes_out=%llu clients=%llu max_clients=%llu",
            c.waits, c.ready, c.watch, c.scanned, c.accept, c.recv, c.send, c.would_block,
            c.bytes_in, c.bytes_out, c.clients, c.max_clients);
    }

private:
    // One write() for each line, if there is room for it within `patience` milliseconds.
    [[gnu::format(printf, 3, 0)]] void put_line(const char* verb, const char* format,
                                                va_list values, int patience) {
        if (reader_left_) return;
        const double seconds = monotonic() - started_;
        if (!stdout_has_room(patience) || !write_unsaid()) {
            ++lost_;
            return;
        }
        char line[longest];
        int length = 0;
        if (lost_ > 0)
            length = std::snprintf(line, sizeof line, "%8.3f lost    lines=%llu\n", seconds, lost_);
        lost_ = 0;
        length += std::snprintf(line + length, 64, "%8.3f %-7s ", seconds, verb);
        const auto space = sizeof line - static_cast<std::size_t>(length);
        length += std::vsnprintf(line + length, space, format, values);
        if (length > static_cast<int>(sizeof line) - 1) length = static_cast<int>(sizeof line) - 1;
        line[length++] = '\n';
        unsaid_.assign(line, static_cast<std::size_t>(length));
        if (!write_unsaid() && !reader_left_ && stdout_has_room(patience)) write_unsaid();
    }

    // Whether stdout takes something within that time. After one timeout, do not wait again until
    // stdout has room.
    bool stdout_has_room(int patience) {
        const bool found = has_room(STDOUT_FILENO, hangs_ ? 0 : patience);
        hangs_ = !found && (hangs_ || patience > 0);
        return found;
    }

    static bool has_room(int fd, int patience) {
        pollfd out{fd, POLLOUT, 0};
        return ::poll(&out, 1, patience) > 0;
    }

    // Writes a line, or the rest of one that a terminal took in part: that comes with the next
    // line. Returns whether all was taken.
    bool write_unsaid() {
        if (unsaid_.empty()) return true;
        const ssize_t count = ::write(STDOUT_FILENO, unsaid_.data(), unsaid_.size());
        if (count >= 0) {
            unsaid_.erase(0, static_cast<std::size_t>(count));
        } else if (errno != EINTR && errno != EAGAIN) {
            reader_left_ = true;
            narrating_ = false;
            if (has_room(STDERR_FILENO, 0))  // its reader may hang, too
                std::fprintf(stderr, "%s: stdout: %s: serving on without narration\n", options.name,
                             errno_name(errno));
        }
        return unsaid_.empty();
    }

    static constexpr std::size_t longest = 2048;  // bytes of a line

    const double started_ = monotonic();
    bool narrating_ = !options.quiet;
    bool reader_left_ = false;
    bool hangs_ = false;
    unsigned long long lost_ = 0;
    std::string unsaid_;
};
