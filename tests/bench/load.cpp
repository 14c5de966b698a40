// load: puts echo and chat servers under load, checks every byte that comes back, and says what it
// cost them. `make bench` is its user; build/load -h says how to use it by hand.
//
// How it measures:
//   - A slice loads one server: every connection has its messages under way, each answer is
//   followed
//     by the next message, and the slice ends when the last answer has come. So the server's CPU
//     time over the slice belongs to whole messages.
//   - Several servers take turns in short slices. What changes the machine's speed in between (the
//     clock rate, another program) then hits all alike: ratios repeat where figures do not.
//   - Pinned to one CPU, server and load never run at the same time; no cache line travels between
//     CPUs and nobody is woken from another one, which is where most of the noise comes from. CPU
//     time per message then repeats within a few per cent. Messages a second mean little there.
//   - Latencies go into a histogram, so that however long it runs, it keeps all of them. With -r a
//     message's latency counts from when it should have left: a server that stalls is late for all
//     the messages of that time, not for the one that noticed ("coordinated omission").

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#if __has_include(<sys/epoll.h>)
#include <sys/epoll.h>
#define LOAD_HAS_EPOLL 1
#else
#define LOAD_HAS_EPOLL 0
#endif

namespace {

using Nanoseconds = std::int64_t;
constexpr Nanoseconds second = 1'000'000'000, millisecond = 1'000'000;

/// Ends the load with one line. Status 2: a bad word; 1: the server or the system failed.
[[noreturn, gnu::format(printf, 2, 3)]] void fail(int status, const char* format, ...) {
    char text[512];
    va_list values;
    va_start(values, format);
    std::vsnprintf(text, sizeof text, format, values);
    va_end(values);
    std::fprintf(stderr, "load: %s\n", text);
    std::exit(status);
}

/// The exit status of a load that has printed all it has to. A reader that left is no error.
int printed() {
    if (std::fflush(stdout) == 0 && !std::ferror(stdout)) return 0;
    if (errno != EPIPE) fail(1, "stdout: %s", std::strerror(errno));
    return 0;
}

Nanoseconds read_clock(clockid_t clock) {
    timespec now{};
    return ::clock_gettime(clock, &now) < 0 ? -1 : now.tv_sec * second + now.tv_nsec;
}

Nanoseconds now() { return read_clock(CLOCK_MONOTONIC); }

// ---- What is asked for -------------------------------------------------------------------------

enum class Mode { echo, connect, chat };

struct Named {
    std::string name;
    int port = 0;
    pid_t pid = 0;     // 0: not given, and nothing is said of what it cost
    long silent = -1;  // -1: as many as -k says
};

struct Options {
    Mode mode = Mode::echo;
    std::string address = "127.0.0.1";
    std::size_t connections = 1, depth = 1, bytes = 64, silent = 0;
    double seconds = 2, warmup = 0.2, rate = 0, slice = 0, patience = 10;
    int cpu = -1;
    std::vector<Named> targets{};
};

constexpr const char* usage =
    "usage: load [-m echo|connect|chat] [-c CONNECTIONS] [-d DEPTH] [-s BYTES] [-k SILENT]\n"
    "            [-t SECONDS] [-w SECONDS] [-r RATE] [-l MILLISECONDS] [-p CPU] [-o SECONDS]\n"
    "            [-a ADDRESS] [-h] [NAME=]PORT[:PID[:SILENT]] ...\n";

constexpr const char* help =
    "Loads the servers on these ports, and prints what came of it as JSON.\n"
    "  -m MODE     echo: messages, each answered by the same bytes, each byte checked\n"
    "              connect: connections opened, used for one message, and closed\n"
    "              chat: one speaks, CONNECTIONS others listen, each line checked\n"
    "  -c, -d, -s  so many active connections (1), with so many messages under way each (1), of\n"
    "              so many bytes (64). -c 0: only opens the silent ones, and says what they take\n"
    "  -k SILENT   so many connections beside them that say nothing (0); behind a PID, for that\n"
    "              server alone\n"
    "  -t, -w      measures for so long (2), for each server, after a warm-up (0.2)\n"
    "  -r RATE     so many messages a second, and not each as soon as the last is answered;\n"
    "              their latency counts from when they should have left\n"
    "  -l MS       the servers take turns in slices of so many milliseconds (50 with several\n"
    "              servers; all in one slice with a single one)\n"
    "  -p CPU      puts itself and the servers (those with a PID) on that one CPU meanwhile\n"
    "  -o SECONDS  gives up when nothing has been answered for so long (10)\n"
    "  -a ADDRESS  where the servers are (127.0.0.1)\n"
    "With a PID: CPU time for each message, memory and context switches of that process.\n"
    "Exit status 1, and one line, if a byte came back wrong, or none came.\n"
    "    build/05_epoll -q -e 9501 &\n"
    "    build/load -c 50 9501:$!\n";

double number(int option, const char* text, double least, double most, bool whole) {
    char* end = nullptr;
    const double value = std::strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= least && value <= most) ||
        (whole && value != std::floor(value)))
        fail(2, "-%c '%.40s': %s from %g to %.9g is wanted", option, text,
             whole ? "a whole number" : "a number", least, most);
    return value;
}

/// [NAME=]PORT[:PID[:SILENT]]
Named target(const std::string& word) {
    Named named;
    const std::size_t equals = word.find('=');
    named.name = equals == word.npos ? "" : word.substr(0, equals);
    std::vector<std::string> parts{""};
    for (const char c : equals == word.npos ? word : word.substr(equals + 1))
        if (c == ':') parts.emplace_back();
        else parts.back() += c;
    std::array<int, 3> numbers{0, 0, -1};
    bool good = parts.size() <= numbers.size() && named.name.find_first_of("\"\\") == word.npos;
    for (std::size_t i = 0; good && i < parts.size(); ++i) {
        good = !parts[i].empty() && parts[i].size() < 10 &&
               parts[i].find_first_not_of("0123456789") == word.npos;
        if (good) numbers[i] = std::stoi(parts[i]);
    }
    if (!good || numbers[0] < 1 || numbers[0] > 65535 || numbers[2] > 1'000'000)
        fail(2, "'%.60s' is no server: [NAME=]PORT[:PID[:SILENT]] is wanted", word.c_str());
    named.port = numbers[0];
    named.pid = numbers[1];
    named.silent = numbers[2];
    if (named.name.empty()) named.name = parts[0];
    if (named.pid && ::kill(named.pid, 0) < 0 && errno == ESRCH)
        fail(2, "'%.60s': there is no process %d", word.c_str(), numbers[1]);
    return named;
}

Options parse(int argc, char* argv[]) {
    Options options;
    opterr = 0;  // the one line is ours
    const auto count = [](int option, double most) {
        return static_cast<std::size_t>(
            number(option, optarg, option == 'c' || option == 'k' ? 0 : 1, most, true));
    };
    for (int option; (option = ::getopt(argc, argv, "+:m:c:d:s:k:t:w:r:l:p:o:a:h")) != -1;)
        switch (option) {
        case 'm': {
            const std::string word = optarg;
            if (word == "echo") options.mode = Mode::echo;
            else if (word == "connect") options.mode = Mode::connect;
            else if (word == "chat") options.mode = Mode::chat;
            else fail(2, "-m '%.40s': echo, connect or chat is wanted", optarg);
            break;
        }
        case 'c': options.connections = count(option, 100'000); break;
        case 'd': options.depth = count(option, 100'000); break;
        case 's': options.bytes = count(option, 64 << 20); break;
        case 'k': options.silent = count(option, 1'000'000); break;
        case 't': options.seconds = number(option, optarg, 0.001, 86400, false); break;
        case 'w': options.warmup = number(option, optarg, 0, 86400, false); break;
        case 'r': options.rate = number(option, optarg, 0.001, 1e9, false); break;
        case 'l': options.slice = number(option, optarg, 1, 1e6, false) / 1000; break;
        case 'p': options.cpu = static_cast<int>(number(option, optarg, 0, 1023, true)); break;
        case 'o': options.patience = number(option, optarg, 0.01, 86400, false); break;
        case 'a': options.address = optarg; break;
        case 'h': std::printf("%s%s", usage, help); std::exit(printed());
        case ':': fail(2, "-%c wants a value; load -h tells more", optopt);
        default: fail(2, "unknown option '%.40s'; load -h tells more", argv[optind - 1]);
        }
    for (; optind < argc; ++optind) options.targets.push_back(target(argv[optind]));
    if (options.targets.empty())
        fail(2, "which server? [NAME=]PORT[:PID[:SILENT]] is wanted; load -h tells more");
    if (options.rate > 0 && options.mode != Mode::echo) fail(2, "-r goes with -m echo only");
    if (options.connections == 0 && options.mode != Mode::echo)
        fail(2, "-c 0 goes with -m echo only");
    if (options.mode == Mode::chat && (options.bytes < 2 || options.bytes > 4097))
        fail(2, "-s %zu: a line of chat is 2 to 4097 bytes, its newline included", options.bytes);
    if (options.slice == 0) options.slice = options.targets.size() > 1 ? 0.05 : options.seconds;
    return options;
}

// ---- What is measured --------------------------------------------------------------------------

/// Counts durations in buckets that grow with the value, 64 to each doubling: below 2 % off
/// anywhere between a nanosecond and centuries, in 30 KB.
class Histogram {
public:
    void add(Nanoseconds value) {
        const auto v = static_cast<std::uint64_t>(std::max<Nanoseconds>(value, 0));
        ++buckets_[bucket(v)];
        ++count_;
        max_ = std::max(max_, v);
    }

    /// The value that `share` of all do not exceed: the upper end of the bucket that it lies in.
    std::uint64_t quantile(double share) const {
        const auto rank =
            static_cast<std::uint64_t>(std::ceil(share * static_cast<double>(count_)));
        std::uint64_t seen = 0;
        for (std::size_t i = 0; i < buckets_.size(); ++i)
            if ((seen += buckets_[i]) >= rank && seen > 0) return std::min(upper_end(i), max_);
        return max_;
    }

    std::uint64_t count() const { return count_; }
    std::uint64_t max() const { return max_; }

private:
    // Up to 127, a bucket each. From there on, the value without its lower bits, so that seven are
    // left: 64 to 127; and how many were dropped says which 64 buckets are meant.
    static std::size_t bucket(std::uint64_t value) {
        const int dropped = std::max(static_cast<int>(std::bit_width(value)) - 7, 0);
        return static_cast<std::size_t>(dropped) * 64 + static_cast<std::size_t>(value >> dropped);
    }
    static std::uint64_t upper_end(std::size_t bucket) {
        const std::size_t dropped = bucket < 128 ? 0 : bucket / 64 - 1;
        return ((static_cast<std::uint64_t>(bucket - dropped * 64) + 1) << dropped) - 1;
    }

    std::array<std::uint64_t, 58 * 64 + 64> buckets_{};
    std::uint64_t count_ = 0, max_ = 0;
};

/// What a process has used up, as far as the system tells: -1 where it does not.
struct Used {
    Nanoseconds cpu = -1;
    long long voluntary = -1, involuntary = -1;  // context switches: it slept; it was sent away
};

/// What a line of /proc that begins with `key` says; -1 if there is none.
long long proc_value(const std::filesystem::path& file, const std::string& key) {
    std::ifstream lines(file);
    for (std::string line; std::getline(lines, line);)
        if (line.starts_with(key)) return std::atoll(line.c_str() + key.size());
    return -1;
}

/// CPU time of all threads of a process, to the nanosecond. (On Linux the same clock as the first
/// number in /proc/PID/task/*/schedstat, summed up; this way of asking is POSIX.)
Nanoseconds cpu_time(pid_t pid) {
    clockid_t clock{};
    return pid && ::clock_getcpuclockid(pid, &clock) == 0 ? read_clock(clock) : -1;
}

Used used(pid_t pid) {
    Used sum{cpu_time(pid), -1, -1};
    std::error_code error;
    for (const auto& thread :
         std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task", error)) {
        sum.voluntary = std::max(sum.voluntary, 0LL) +
                        proc_value(thread.path() / "status", "voluntary_ctxt_switches:");
        sum.involuntary = std::max(sum.involuntary, 0LL) +
                          proc_value(thread.path() / "status", "nonvoluntary_ctxt_switches:");
    }
    return sum;
}

/// Bytes of memory that are the process's own: what it wrote to and no file stands behind. Buffers
/// of sockets are the kernel's, and are not in it.
long long own_memory(pid_t pid) {
    const long long kilobytes =
        pid ? proc_value("/proc/" + std::to_string(pid) + "/smaps_rollup", "Anonymous:") : -1;
    return kilobytes < 0 ? -1 : kilobytes * 1024;
}

long long resident(pid_t pid) {
    const long long kilobytes =
        pid ? proc_value("/proc/" + std::to_string(pid) + "/status", "VmRSS:") : -1;
    return kilobytes < 0 ? -1 : kilobytes * 1024;
}

struct Spread {
    double low = 0, median = 0, high = 0;  // quartiles
};

Spread spread(std::vector<double> values) {
    if (values.empty()) return {};
    std::sort(values.begin(), values.end());
    const auto at = [&](double share) {
        const double place = share * static_cast<double>(values.size() - 1);
        const auto below = static_cast<std::size_t>(place);
        const double part = place - static_cast<double>(below);
        return values[below] * (1 - part) + values[std::min(below + 1, values.size() - 1)] * part;
    };
    return {at(0.25), at(0.5), at(0.75)};
}

// ---- What waits --------------------------------------------------------------------------------

struct Event {
    std::size_t index;
    bool readable, writable;
};

/// Which of many connections are ready? epoll where there is one, poll elsewhere.
class Waiter {
public:
#if LOAD_HAS_EPOLL
    Waiter() : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {}
    ~Waiter() { ::close(epoll_); }

    void add(int fd, std::size_t index, bool write) { control(EPOLL_CTL_ADD, fd, index, write); }
    void change(int fd, std::size_t index, bool write) { control(EPOLL_CTL_MOD, fd, index, write); }
    void remove(int fd, std::size_t) { ::epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr); }

    const std::vector<Event>& wait(Nanoseconds longest) {
        // epoll_wait() counts in milliseconds, too coarse for -r: pselect() watches its descriptor.
        const bool whole = longest >= 100 * millisecond || longest <= 0;
        if (!whole && epoll_ < FD_SETSIZE) {
            fd_set set;
            FD_ZERO(&set);
            FD_SET(epoll_, &set);
            const timespec limit{0, static_cast<long>(longest)};
            ::pselect(epoll_ + 1, &set, nullptr, nullptr, &limit, nullptr);
        }
        const int count = ::epoll_wait(epoll_, found_.data(), static_cast<int>(found_.size()),
                                       whole ? static_cast<int>(longest / millisecond) : 0);
        events_.clear();
        for (int i = 0; i < count; ++i) {
            const epoll_event& entry = found_[static_cast<std::size_t>(i)];
            events_.push_back({static_cast<std::size_t>(entry.data.u64),
                               (entry.events & ~EPOLLOUT) != 0, (entry.events & EPOLLOUT) != 0});
        }
        return events_;
    }

private:
    void control(int what, int fd, std::size_t index, bool write) {
        epoll_event entry{};
        entry.events = EPOLLIN | (write ? EPOLLOUT : 0U);
        entry.data.u64 = index;
        if (::epoll_ctl(epoll_, what, fd, &entry) < 0)
            fail(1, "epoll_ctl: %s", std::strerror(errno));
    }

    const int epoll_;
    std::array<epoll_event, 1024> found_{};
#else
    void add(int fd, std::size_t index, bool write) {
        if (index >= list_.size()) list_.resize(index + 1, pollfd{-1, 0, 0});
        list_[index] = {fd, static_cast<short>(POLLIN | (write ? POLLOUT : 0)), 0};
    }
    void change(int fd, std::size_t index, bool write) { add(fd, index, write); }
    void remove(int, std::size_t index) { list_[index].fd = -1; }

    const std::vector<Event>& wait(Nanoseconds longest) {
        ::poll(list_.data(), static_cast<nfds_t>(list_.size()),
               static_cast<int>(std::max<Nanoseconds>(longest, 0) / millisecond));
        events_.clear();
        for (std::size_t i = 0; i < list_.size(); ++i)
            if (list_[i].fd >= 0 && list_[i].revents)
                events_.push_back(
                    {i, (list_[i].revents & ~POLLOUT) != 0, (list_[i].revents & POLLOUT) != 0});
        return events_;
    }

private:
    std::vector<pollfd> list_;
#endif
    std::vector<Event> events_;
};

// ---- The bytes ---------------------------------------------------------------------------------

/// Where byte `place` of a stream lies in a text of `length` bytes that is repeated without end.
std::size_t within(std::uint64_t place, std::size_t length) {
    return static_cast<std::size_t>(place % length);
}

/// What is sent is a stretch of one long sequence, over and over, and each connection begins at
/// another place of it: a byte that is lost, doubled, changed or somebody else's shows.
class Sequence {
public:
    /// Any stretch of up to `longest` bytes can be had in one piece.
    explicit Sequence(std::size_t longest) : bytes_(period + longest) {
        std::minstd_rand random(20);
        for (std::size_t i = 0; i < bytes_.size(); ++i)
            bytes_[i] = i < period ? static_cast<char>(random() >> 8) : bytes_[i - period];
    }

    const char* at(std::uint64_t place) const { return bytes_.data() + within(place, period); }
    std::size_t longest() const { return bytes_.size() - period; }

private:
    static constexpr std::size_t period = 8191;  // a prime: no message size hides behind it
    std::vector<char> bytes_;
};

/// First in, first out, in as little memory as that takes: with hundreds of connections, what the
/// load touches drives out of the caches what the server needs.
class Times {
public:
    void push_back(Nanoseconds time) {
        if (count_ == ring_.size()) {
            std::rotate(ring_.begin(), ring_.begin() + static_cast<std::ptrdiff_t>(first_),
                        ring_.end());
            ring_.resize(std::max<std::size_t>(2 * ring_.size(), 1));
            first_ = 0;
        }
        ring_[(first_ + count_++) % ring_.size()] = time;
    }
    void pop_front() {
        first_ = (first_ + 1) % ring_.size();
        --count_;
    }
    Nanoseconds front() const { return ring_[first_]; }
    Nanoseconds operator[](std::size_t i) const { return ring_[(first_ + i) % ring_.size()]; }
    std::size_t size() const { return count_; }

private:
    std::vector<Nanoseconds> ring_;
    std::size_t first_ = 0, count_ = 0;
};

/// One connection of ours. Places count from the beginning of its stream.
struct Connection {
    int fd = -1;
    std::uint64_t begin = 0;     // where in the sequence its stream begins
    std::uint64_t to_send = 0;   // up to here there are messages
    std::uint64_t sent = 0;      // up to here the kernel took them
    std::uint64_t received = 0;  // up to here they came back
    Times left{};                //  when each message under way left, or should have
    bool watched_for_writing = false;
    bool established = true;  // -m connect: connect() has succeeded
};

sockaddr_storage server_address(const std::string& host, int port, socklen_t& size) {
    sockaddr_storage address{};
    auto& v4 = reinterpret_cast<sockaddr_in&>(address);
    auto& v6 = reinterpret_cast<sockaddr_in6&>(address);
    if (::inet_pton(AF_INET, host.c_str(), &v4.sin_addr) == 1) {
        v4.sin_family = AF_INET;
        v4.sin_port = htons(static_cast<in_port_t>(port));
        size = sizeof v4;
    } else if (::inet_pton(AF_INET6, host.c_str(), &v6.sin6_addr) == 1) {
        v6.sin6_family = AF_INET6;
        v6.sin6_port = htons(static_cast<in_port_t>(port));
        size = sizeof v6;
    } else {
        fail(2, "-a '%.60s': an IPv4 or IPv6 address is wanted", host.c_str());
    }
    return address;
}

// ---- One server under load ---------------------------------------------------------------------

class Target {
public:
    Target(const Options& options, const Named& named, const Sequence& sequence)
        : options_(options),
          named_(named),
          sequence_(sequence),
          address_(server_address(options.address, named.port, address_size_)),
          buffer_(256 * 1024) {}

    ~Target() {
        for (const int fd : silent_) ::close(fd);
        for (const Connection& connection : connections_)
            if (connection.fd >= 0) ::close(connection.fd);
    }

    const Named& named() const { return named_; }

    /// Opens everything, the silent ones first: they are accepted in that order, so that once an
    /// active one is answered, all the silent ones are the server's.
    void open() {
        memory_before_ = own_memory(named_.pid);
        const std::size_t silent =
            named_.silent < 0 ? options_.silent : static_cast<std::size_t>(named_.silent);
        for (std::size_t i = 0; i < silent; ++i) {
            silent_.push_back(connected());
            // So that no more wait to be accepted than fit into its backlog.
            if (options_.mode == Mode::chat) expect_lines(silent_.back(), 1);
            else if (i % 100 == 99 || i + 1 == silent) touch(silent_.back());
        }
        if (options_.mode == Mode::chat && silent) drain_silent();
        settle();
        memory_with_silent_ = own_memory(named_.pid);
        if (options_.mode == Mode::connect) {
            connections_.resize(options_.connections);
        } else {
            const std::size_t count = options_.connections + (options_.mode == Mode::chat ? 1 : 0);
            for (std::size_t i = 0; i < count; ++i) {
                Connection connection;
                connection.fd = connected();
                connection.begin = i * 7919;
                if (options_.mode == Mode::chat) welcome(connection.fd, i);
                ::fcntl(connection.fd, F_SETFL, O_NONBLOCK);
                waiter_.add(connection.fd, i, false);
                connections_.push_back(connection);
            }
            if (options_.mode == Mode::chat) everybody_is_in();
        }
    }

    /// Loads it for so long. What comes of it is counted if `counts`.
    void slice(double seconds, bool counts) {
        counting_ = counts;
        const std::uint64_t before = messages_;
        const Used used_before = used(named_.pid);
        const Nanoseconds own_before = read_clock(CLOCK_PROCESS_CPUTIME_ID);
        began_ = last_answer_ = now();
        end_ = began_ + static_cast<Nanoseconds>(seconds * second);
        slice_messages_ = 0;
        due_ = 0;
        start_messages();
        while (under_way_ > 0 || now() < end_) {
            Nanoseconds longest = 100 * millisecond;
            if (options_.rate > 0) longest = send_what_is_due();
            for (const Event& event : waiter_.wait(longest)) handle(event);
            if (under_way_ > 0 &&
                now() - last_answer_ > static_cast<Nanoseconds>(options_.patience * second))
                fail(1, "%s: nothing was answered for %g seconds; %llu messages are under way",
                     name(), options_.patience, static_cast<unsigned long long>(under_way_));
            if (under_way_ == 0 && options_.rate <= 0) break;
        }
        const Nanoseconds took = now() - began_,
                          own = read_clock(CLOCK_PROCESS_CPUTIME_ID) - own_before;
        settle();  // the server still has to find out that there is nothing more
        const Used used_after = used(named_.pid);
        if (!counts) {
            messages_ = before;
            return;
        }
        messages_ += slice_messages_;
        wall_ += took;
        own_cpu_ += own;
        if (used_before.cpu >= 0 && used_after.cpu < 0)
            fail(1, "%s: process %d is gone", name(), static_cast<int>(named_.pid));
        if (used_after.cpu < 0) return;
        const Nanoseconds spent = used_after.cpu - used_before.cpu;
        cpu_ += spent;
        voluntary_ += used_after.voluntary - used_before.voluntary;
        involuntary_ += used_after.involuntary - used_before.involuntary;
        // Zero: not measured. No message came through in a slice that was too short, or a machine
        // that was held up itself charged nothing for it.
        per_message_.push_back(slice_messages_ == 0 ? 0
                                                    : static_cast<double>(spent) /
                                                          static_cast<double>(slice_messages_));
    }

    /// Silent ones have nothing to hear, and nobody has ended them.
    void check_silent() {
        if (options_.mode == Mode::chat) return;
        for (const int fd : silent_) {
            char byte = 0;
            const ssize_t count = ::recv(fd, &byte, 1, MSG_DONTWAIT);
            if (count == 0) fail(1, "%s: closed a silent connection", name());
            if (count > 0) fail(1, "%s: spoke to a silent connection", name());
            if (errno != EAGAIN && errno != EWOULDBLOCK)
                fail(1, "%s: a silent connection broke: %s", name(), std::strerror(errno));
        }
    }

    double busy() const {
        return wall_ ? static_cast<double>(own_cpu_) / static_cast<double>(wall_) : 0;
    }

    /// Its part of the JSON.
    void print(const Target& first) const {
        const double seconds = static_cast<double>(wall_) / 1e9;
        const auto count = static_cast<double>(messages_);
        std::printf("    {\"name\": \"%s\", \"port\": %d, \"pid\": %d, \"silent\": %zu,\n",
                    named_.name.c_str(), named_.port, static_cast<int>(named_.pid), silent_.size());
        std::printf("     \"messages\": %llu, \"bytes\": %llu, \"seconds\": %.6f,\n",
                    static_cast<unsigned long long>(messages_),
                    static_cast<unsigned long long>(messages_ * options_.bytes), seconds);
        std::printf("     \"messages_per_second\": %.1f, \"bytes_per_second\": %.0f,\n",
                    seconds > 0 ? count / seconds : 0,
                    seconds > 0 ? count * static_cast<double>(options_.bytes) / seconds : 0);
        const auto micro = [&](double share) {
            return static_cast<double>(latencies_.quantile(share)) / 1000;
        };
        std::printf(
            "     \"latency_us\": {\"p50\": %.3f, \"p99\": %.3f, \"p99.9\": %.3f, \"max\": %.3f, "
            "\"counted\": %llu},\n",
            micro(0.5), micro(0.99), micro(0.999), static_cast<double>(latencies_.max()) / 1000,
            static_cast<unsigned long long>(latencies_.count()));
        std::vector<double> measured;
        // Slice against slice, as they took turns: what hit both at that time cancels out.
        std::vector<double> ratios;
        for (std::size_t i = 0; i < per_message_.size(); ++i) {
            if (per_message_[i] <= 0) continue;
            measured.push_back(per_message_[i]);
            if (i < first.per_message_.size() && first.per_message_[i] > 0)
                ratios.push_back(per_message_[i] / first.per_message_[i]);
        }
        if (measured.empty()) {
            std::printf("     \"cpu_ns_per_message\": null,\n");
        } else {
            const Spread cost = spread(measured);
            std::printf(
                "     \"cpu_ns_per_message\": {\"median\": %.1f, \"low\": %.1f, \"high\": %.1f, "
                "\"mean\": %.1f, "
                "\n      \"slices\": [",
                cost.median, cost.low, cost.high, static_cast<double>(cpu_) / count);
            for (std::size_t i = 0; i < measured.size(); ++i)
                std::printf("%s%.1f", i ? ", " : "", measured[i]);
            std::printf("]},\n");
            const Spread ratio = spread(ratios);
            std::printf(
                "     \"ratio_to_first\": {\"median\": %.4f, \"low\": %.4f, \"high\": %.4f},\n",
                ratio.median, ratio.low, ratio.high);
        }
        const auto known = [](long long value) {
            return value < 0 ? std::string("null") : std::to_string(value);
        };
        const bool told = !per_message_.empty() && voluntary_ >= 0;
        std::printf("     \"context_switches\": {\"voluntary\": %s, \"involuntary\": %s},\n",
                    told ? std::to_string(voluntary_).c_str() : "null",
                    told ? std::to_string(involuntary_).c_str() : "null");
        char per_silent[32] = "null";
        if (memory_before_ >= 0 && memory_with_silent_ >= 0 && !silent_.empty())
            std::snprintf(per_silent, sizeof per_silent, "%.1f",
                          static_cast<double>(memory_with_silent_ - memory_before_) /
                              static_cast<double>(silent_.size()));
        std::printf(
            "     \"memory\": {\"resident\": %s, \"own\": %s, \"own_before\": %s, "
            "\"own_with_silent\": %s, "
            "\"per_silent\": %s},\n",
            known(resident_).c_str(), known(own_).c_str(), known(memory_before_).c_str(),
            known(memory_with_silent_).c_str(), per_silent);
        std::printf("     \"load_busy\": %.3f}", busy());
    }

    /// While the connections are still open.
    void look_at_memory() {
        resident_ = resident(named_.pid);
        own_ = own_memory(named_.pid);
    }

private:
    const char* name() const { return named_.name.c_str(); }

    /// A new connection, still blocking, on which a call fails after a time limit.
    int connected() {
        const int fd = ::socket(address_.ss_family, SOCK_STREAM, 0);
        if (fd < 0) fail(1, "socket: %s", std::strerror(errno));
        set_options(fd);
        const timeval limit{static_cast<time_t>(options_.patience),
                            static_cast<suseconds_t>(std::fmod(options_.patience, 1) * 1e6)};
        ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
        if (::connect(fd, reinterpret_cast<const sockaddr*>(&address_), address_size_) < 0)
            fail(1, "%s: connect: %s", name(),
                 std::strerror(errno == EINPROGRESS ? ETIMEDOUT : errno));
        return fd;
    }

    // What we send leaves at once: if anything stalls, it is not our side's Nagle.
    static void set_options(int fd) {
        const int on = 1;
        ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }

    /// One byte, there and back.
    void touch(int fd) {
        char byte = 'x';
        if (::send(fd, &byte, 1, MSG_NOSIGNAL) != 1 || ::recv(fd, &byte, 1, 0) != 1)
            fail(1, "%s: silent connection %zu is not answered", name(), silent_.size());
    }

    /// A moment in which the server can do what it still has to, and go to sleep.
    static void settle() {
        const timespec moment{0, 300'000};
        ::nanosleep(&moment, nullptr);
    }

    // Echo

    void start_messages() {
        if (options_.rate > 0) return;
        if (options_.mode == Mode::connect) {
            for (std::size_t i = 0; i < connections_.size(); ++i) open_one(i);
            return;
        }
        const std::size_t speakers = options_.mode == Mode::chat ? 1 : connections_.size();
        for (std::size_t i = 0; i < speakers; ++i) {
            const Nanoseconds at = now();
            for (std::size_t n = 0; n < options_.depth; ++n) add_message(i, at);
            send_some(i);
        }
    }

    /// One more message for this connection to send.
    void add_message(std::size_t index, Nanoseconds at) {
        Connection& connection = connections_[index];
        connection.to_send += options_.bytes;
        connection.left.push_back(at);
        ++under_way_;
    }

    /// With -r: message n is due n / RATE seconds after the start, on connection n modulo C.
    /// Returns how long it is until the next one is due.
    Nanoseconds send_what_is_due() {
        for (;;) {
            const Nanoseconds due =
                began_ + static_cast<Nanoseconds>(static_cast<double>(due_) * 1e9 / options_.rate);
            if (due >= end_)
                return under_way_ ? 100 * millisecond : std::max<Nanoseconds>(end_ - now(), 1);
            const Nanoseconds left = due - now();
            if (left > 0) return left;
            const std::size_t index = within(due_++, connections_.size());
            if (under_way_ == 0) last_answer_ = now();  // patience begins with the first that waits
            add_message(index, due);
            send_some(index);
        }
    }

    void send_some(std::size_t index) {
        Connection& connection = connections_[index];
        while (connection.sent < connection.to_send) {
            const auto length = static_cast<std::size_t>(
                std::min<std::uint64_t>(connection.to_send - connection.sent, sequence_.longest()));
            const char* bytes = options_.mode == Mode::chat
                                    ? line_.data() + within(connection.sent, options_.bytes)
                                    : sequence_.at(connection.begin + connection.sent);
            const std::size_t most =
                options_.mode == Mode::chat
                    ? std::min(length, options_.bytes - within(connection.sent, options_.bytes))
                    : length;
            const ssize_t count = ::send(connection.fd, bytes, most, MSG_NOSIGNAL);
            if (count < 0) {
                if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) break;
                fail(1, "%s: connection %zu: send: %s", name(), index, std::strerror(errno));
            }
            connection.sent += static_cast<std::uint64_t>(count);
        }
        const bool waits = connection.sent < connection.to_send;
        if (waits != connection.watched_for_writing) {
            connection.watched_for_writing = waits;
            waiter_.change(connection.fd, index, waits);
        }
    }

    void handle(const Event& event) {
        if (options_.mode == Mode::connect) return handle_short_lived(event);
        if (event.readable) {
            if (options_.mode == Mode::chat) hear(event.index);
            else receive(event.index);
        }
        if (event.writable) send_some(event.index);
    }

    std::size_t receive_bytes(std::size_t index) {
        const ssize_t count = ::recv(connections_[index].fd, buffer_.data(), buffer_.size(), 0);
        if (count > 0) return static_cast<std::size_t>(count);
        if (count == 0) fail(1, "%s: connection %zu: the server ended it", name(), index);
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            fail(1, "%s: connection %zu: recv: %s", name(), index, std::strerror(errno));
        return 0;
    }

    void receive(std::size_t index) {
        Connection& connection = connections_[index];
        const std::size_t count = receive_bytes(index);
        if (count == 0) return;
        check(index, count);
        const std::uint64_t whole = connection.received / options_.bytes;
        connection.received += count;
        const Nanoseconds at = now();
        const std::uint64_t answered = connection.received / options_.bytes - whole;
        last_answer_ = at;
        const bool goes_on = options_.rate <= 0 && at < end_;
        for (std::uint64_t n = 0; n < answered; ++n) {
            answer(connection, at);
            if (goes_on) add_message(index, at);
        }
        if (goes_on && answered) send_some(index);
    }

    void answer(Connection& connection, Nanoseconds at) {
        if (counting_) latencies_.add(at - connection.left.front());
        connection.left.pop_front();
        ++slice_messages_;
        --under_way_;
    }

    /// The bytes just received are those that were sent.
    void check(std::size_t index, std::size_t count) {
        const Connection& connection = connections_[index];
        if (connection.received + count > connection.sent)
            fail(1, "%s: connection %zu: more came back than was sent: %llu bytes, not %llu",
                 name(), index, static_cast<unsigned long long>(connection.received + count),
                 static_cast<unsigned long long>(connection.sent));
        for (std::size_t done = 0; done < count;) {
            const std::size_t length = std::min(count - done, sequence_.longest());
            const char* wanted = sequence_.at(connection.begin + connection.received + done);
            if (std::memcmp(buffer_.data() + done, wanted, length) != 0) {
                std::size_t i = 0;
                while (buffer_[done + i] == wanted[i]) ++i;
                fail(1, "%s: connection %zu: byte %llu came back as 0x%02x, not 0x%02x", name(),
                     index, static_cast<unsigned long long>(connection.received + done + i),
                     static_cast<unsigned char>(buffer_[done + i]),
                     static_cast<unsigned char>(wanted[i]));
            }
            done += length;
        }
    }

    // Connections opened, used once, and closed

    void open_one(std::size_t index) {
        Connection& connection = connections_[index];
        connection = Connection{};
        connection.begin = (opened_++ % 100'003) * 7919;
        connection.fd = ::socket(address_.ss_family, SOCK_STREAM, 0);
        if (connection.fd < 0) fail(1, "socket: %s", std::strerror(errno));
        set_options(connection.fd);
        ::fcntl(connection.fd, F_SETFL, O_NONBLOCK);
        take_turns(connection.fd);
        add_message(index, now());
        connection.established = false;
        if (::connect(connection.fd, reinterpret_cast<const sockaddr*>(&address_), address_size_) <
                0 &&
            errno != EINPROGRESS)
            fail(1, "%s: connect: %s", name(), std::strerror(errno));
        connection.watched_for_writing = true;
        waiter_.add(connection.fd, index, true);
    }

    /// The side that closes first keeps the port for a minute (TIME_WAIT), and there are some
    /// 28,000. Where all of 127.0.0.0/8 is ours, as on Linux, take turns with several addresses of
    /// our own.
    void take_turns([[maybe_unused]] int fd) {
#ifdef IP_BIND_ADDRESS_NO_PORT
        if (options_.address != "127.0.0.1") return;
        const int on = 1;
        ::setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        sockaddr_in own{};
        own.sin_family = AF_INET;
        own.sin_addr.s_addr = htonl(INADDR_LOOPBACK + static_cast<in_addr_t>(opened_ % 16));
        ::bind(fd, reinterpret_cast<sockaddr*>(&own), sizeof own);
#endif
    }

    void handle_short_lived(const Event& event) {
        Connection& connection = connections_[event.index];
        if (connection.fd < 0) return;
        if (!connection.established) {
            int error = 0;
            socklen_t size = sizeof error;
            ::getsockopt(connection.fd, SOL_SOCKET, SO_ERROR, &error, &size);
            if (error) fail(1, "%s: connect: %s", name(), std::strerror(error));
            connection.established = true;
            send_some(event.index);
            return;
        }
        if (event.writable) send_some(event.index);
        if (!event.readable) return;
        const std::size_t count = receive_bytes(event.index);
        if (count == 0) return;
        check(event.index, count);
        connection.received += count;
        if (connection.received < options_.bytes) return;
        last_answer_ = now();
        answer(connection, last_answer_);
        waiter_.remove(connection.fd, event.index);
        ::close(connection.fd);
        connection.fd = -1;
        if (last_answer_ < end_) open_one(event.index);
    }

    // Chat: connection 0 speaks, all the others listen

    /// Reads (blocking) until so many lines have come; returns the first.
    std::string expect_lines(int fd, std::size_t lines) {
        std::string first;
        bool in_first = true;
        for (std::size_t seen = 0; seen < lines;) {
            const ssize_t count = ::recv(fd, buffer_.data(), buffer_.size(), 0);
            if (count <= 0) fail(1, "%s: a line did not reach a member of the chat", name());
            for (ssize_t i = 0; i < count; ++i) {
                const char c = buffer_[static_cast<std::size_t>(i)];
                if (in_first && c != '\n') first += c;
                if (c == '\n') ++seen, in_first = false;
            }
        }
        return first;
    }

    void welcome(int fd, std::size_t index) {
        const std::string hello = expect_lines(fd, 1);
        if (index > 0) return;
        const std::string greeting = "* you are ";
        if (!hello.starts_with(greeting))
            fail(1, "%s: this is no chat: '%.60s'", name(), hello.c_str());
        const std::string speaker =
            hello.substr(greeting.size(), hello.find(',') - greeting.size());
        line_ = std::string(options_.bytes - 1, '.');
        for (std::size_t i = 0; i < line_.size(); ++i) line_[i] = static_cast<char>('a' + i % 26);
        line_ += '\n';
        heard_line_ = speaker + ": " + line_;
    }

    /// Each has been told of all who came after it.
    void everybody_is_in() {
        const std::size_t count = connections_.size();
        for (std::size_t i = 0; i + 1 < count; ++i) {
            const int fd = connections_[i].fd;
            ::fcntl(fd, F_SETFL, 0);
            expect_lines(fd, count - 1 - i);
            ::fcntl(fd, F_SETFL, O_NONBLOCK);
        }
    }

    void drain_silent() {
        for (std::size_t i = 0; i + 1 < silent_.size(); ++i)
            expect_lines(silent_[i], silent_.size() - 1 - i);
    }

    /// A member gets what was said. Once all have it, the next line is said.
    void hear(std::size_t index) {
        Connection& member = connections_[index];
        const std::size_t count = receive_bytes(index);
        if (count == 0) return;
        if (index == 0)
            fail(1, "%s: the speaker was told something: '%.*s'", name(),
                 static_cast<int>(std::min<std::size_t>(count, 60)), buffer_.data());
        const std::size_t length = heard_line_.size();
        for (std::size_t i = 0; i < count; ++i)
            if (buffer_[i] != heard_line_[within(member.received + i, length)])
                fail(1, "%s: member %zu: byte %llu is 0x%02x, not 0x%02x", name(), index,
                     static_cast<unsigned long long>(member.received + i),
                     static_cast<unsigned char>(buffer_[i]),
                     static_cast<unsigned char>(heard_line_[within(member.received + i, length)]));
        const std::uint64_t before = member.received / length;
        member.received += count;
        const Nanoseconds at = now();
        last_answer_ = at;
        Connection& speaker = connections_[0];
        for (std::uint64_t n = before; n < member.received / length; ++n) {
            const std::uint64_t line = n - lines_done_;  // which of those under way
            if (line >= speaker.left.size())
                fail(1, "%s: member %zu heard what nobody said", name(), index);
            if (counting_) latencies_.add(at - speaker.left[static_cast<std::size_t>(line)]);
            ++slice_messages_;
            if (heard_by_.size() <= line) heard_by_.resize(static_cast<std::size_t>(line) + 1, 0);
            ++heard_by_[static_cast<std::size_t>(line)];
        }
        bool said = false;
        while (!heard_by_.empty() && heard_by_.front() == options_.connections) {
            heard_by_.pop_front();
            speaker.left.pop_front();
            ++lines_done_;
            --under_way_;
            if (at < end_) add_message(0, at), said = true;
        }
        if (said) send_some(0);
    }

    const Options& options_;
    const Named named_;
    const Sequence& sequence_;
    socklen_t address_size_ = 0;
    const sockaddr_storage address_;
    std::vector<char> buffer_;
    Waiter waiter_;
    std::vector<int> silent_;
    std::vector<Connection> connections_;
    std::string line_, heard_line_;     // chat: as it is said, and as the others hear it
    std::deque<std::size_t> heard_by_;  // how many have heard each line under way
    std::uint64_t lines_done_ = 0, opened_ = 0;

    // The slice
    bool counting_ = false;
    Nanoseconds began_ = 0, end_ = 0, last_answer_ = 0;
    std::uint64_t under_way_ = 0, slice_messages_ = 0, due_ = 0;

    // All that counted
    Histogram latencies_;
    std::vector<double> per_message_;
    std::uint64_t messages_ = 0;
    Nanoseconds wall_ = 0, own_cpu_ = 0, cpu_ = 0;
    long long voluntary_ = 0, involuntary_ = 0;
    long long memory_before_ = -1, memory_with_silent_ = -1, resident_ = -1, own_ = -1;
};

// ---- All of it ---------------------------------------------------------------------------------

/// Puts processes on one CPU for as long as this lives, where the system can.
class Pin {
public:
    explicit Pin(const Options& options) {
        if (options.cpu < 0) return;
#ifdef __linux__
        cpu_set_t only;
        CPU_ZERO(&only);
        CPU_SET(options.cpu, &only);
        std::vector<pid_t> processes{0};
        for (const Named& target : options.targets)
            if (target.pid) processes.push_back(target.pid);
        for (const pid_t pid : processes) {
            cpu_set_t before;
            ::sched_getaffinity(pid, sizeof before, &before);
            if (::sched_setaffinity(pid, sizeof only, &only) < 0)
                fail(1, "-p %d: %s", options.cpu, std::strerror(errno));
            before_.push_back({pid, before});
        }
        pinned_ = true;
#else
        std::fprintf(stderr, "load: -p: not on this system; going on without\n");
#endif
    }
    ~Pin() {
#ifdef __linux__
        for (const auto& [pid, set] : before_) ::sched_setaffinity(pid, sizeof set, &set);
#endif
    }
    bool pinned() const { return pinned_; }

private:
    bool pinned_ = false;
#ifdef __linux__
    std::vector<std::pair<pid_t, cpu_set_t>> before_;
#endif
};

void raise_limit(const Options& options) {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
    ::getrlimit(RLIMIT_NOFILE, &limit);
    std::size_t need = 16;
    for (const Named& target : options.targets)
        need += options.connections + 2 +
                (target.silent < 0 ? options.silent : static_cast<std::size_t>(target.silent));
    if (limit.rlim_cur != RLIM_INFINITY && need > limit.rlim_cur)
        fail(1, "%zu descriptors are needed, and this process may have %llu (ulimit -n)", need,
             static_cast<unsigned long long>(limit.rlim_cur));
}

}  // namespace

int main(int argc, char* argv[]) {
    const Options options = parse(argc, argv);
    if (::fcntl(STDOUT_FILENO, F_GETFL) < 0) fail(1, "stdout: %s", std::strerror(errno));
    ::signal(SIGPIPE, SIG_IGN);
    raise_limit(options);
    const Pin pin(options);
    const std::size_t at_once =
        std::min<std::size_t>(options.bytes * std::min<std::size_t>(options.depth, 64), 4 << 20);
    const Sequence sequence(std::max<std::size_t>(at_once, 4096));
    std::deque<Target> targets;
    for (const Named& named : options.targets) targets.emplace_back(options, named, sequence);
    for (Target& target : targets) target.open();

    if (options.connections > 0) {
        for (Target& target : targets)
            if (options.warmup > 0) target.slice(options.warmup, false);
        const auto rounds =
            static_cast<std::size_t>(std::max(1.0, std::round(options.seconds / options.slice)));
        for (std::size_t round = 0; round < rounds; ++round)
            for (Target& target : targets) {
                // The others have driven what it needs out of the caches: that cost is not its own.
                if (targets.size() > 1) target.slice(options.slice / 10, false);
                target.slice(options.slice, true);
            }
    }
    double busy = 0;
    for (Target& target : targets) {
        target.look_at_memory();
        target.check_silent();
        busy = std::max(busy, target.busy());
    }

    const char* modes[] = {"echo", "connect", "chat"};
    std::printf(
        "{\"mode\": \"%s\", \"connections\": %zu, \"depth\": %zu, \"bytes\": %zu, \"silent\": "
        "%zu,\n",
        modes[static_cast<int>(options.mode)], options.connections, options.depth, options.bytes,
        options.silent);
    std::printf(" \"rate\": %s, \"slice_ms\": %.3f, \"pinned\": %s,\n",
                options.rate > 0 ? std::to_string(options.rate).c_str() : "null",
                options.slice * 1000, pin.pinned() ? std::to_string(options.cpu).c_str() : "null");
    std::printf(" \"targets\": [\n");
    for (std::size_t i = 0; i < targets.size(); ++i) {
        targets[i].print(targets[0]);
        std::printf("%s\n", i + 1 < targets.size() ? "," : "");
    }
    std::printf(" ],\n \"load_busy\": %.3f, \"note\": ", busy);
    if (pin.pinned())
        std::printf(
            "\"load and servers shared one CPU: compare CPU time per message, nothing else\"}\n");
    else if (busy > 0.9)
        std::printf(
            "\"the load itself was busy %.0f %% of the time: the servers could have done more\"}\n",
            busy * 100);
    else std::printf("null}\n");
    return printed();
}
