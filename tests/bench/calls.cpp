// What one system call takes, each timed alone: `make calls`. Everything happens in this one
// process, which sits at both ends of its connections and never falls asleep, on one CPU where that
// can be had. So the figures are those of the calls, without waiting, waking or being waited for.
// They come in batches: what a call needs is prepared before the clock runs (recv() finds what was
// sent), and cleaned up after it has stopped.

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "../output/print.hpp"

namespace {

constexpr int batch = 32;  // calls timed together: what they send fits into a socket's buffers
constexpr int crowd = 500;

struct Failed : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// `result`, unless the call has failed.
template <class Result>
Result must(const char* call, Result result) {
    if (result < 0) throw Failed(std::string(call) + ": " + std::strerror(errno));
    return result;
}

/// For the calls that are to succeed, or to fail, in a certain way: a row is true or not printed.
void expect(bool as_said, const char* what) {
    if (!as_said) throw Failed(std::string("not as said: ") + what);
}

struct Connection {
    int ours, theirs;
};

sockaddr_in bound;  // where the listener listens

sockaddr* address() { return reinterpret_cast<sockaddr*>(&bound); }

int listen_anywhere() {
    const int listener = must("socket", ::socket(AF_INET, SOCK_STREAM, 0));
    bound.sin_family = AF_INET;
    bound.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof bound;
    must("bind", ::bind(listener, address(), size));
    must("listen", ::listen(listener, SOMAXCONN));
    must("getsockname", ::getsockname(listener, address(), &size));
    must("fcntl", ::fcntl(listener, F_SETFL, O_NONBLOCK));
    return listener;
}

/// Closed with a reset, so that thousands of them leave nothing behind in TIME_WAIT.
int connect_to_listener() {
    const int fd = must("socket", ::socket(AF_INET, SOCK_STREAM, 0)), on = 1;
    const linger reset{1, 0};
    ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    must("connect", ::connect(fd, address(), sizeof bound));
    return fd;
}

Connection connection(int listener) {
    const int theirs = connect_to_listener(), on = 1;
    const int ours = must("accept", ::accept(listener, nullptr, nullptr));
    ::setsockopt(ours, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    for (const int fd : {ours, theirs}) must("fcntl", ::fcntl(fd, F_SETFL, O_NONBLOCK));
    return {ours, theirs};
}

double nanoseconds() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

using Step = std::function<void()>;

/// Nanoseconds that one call takes: the median over all batches, and its quartiles.
struct Cost {
    double low, median, high;
};

Cost measure(double seconds, const std::function<void(int)>& call, const Step& prepare,
             const Step& clean_up) {
    std::vector<double> found;
    const double warm = nanoseconds() + seconds * 1e8, end = warm + seconds * 1e9;
    for (double now = 0; now < end || found.empty();) {
        prepare();
        const double before = nanoseconds();
        for (int i = 0; i < batch; ++i) call(i);
        now = nanoseconds();
        if (before >= warm) found.push_back((now - before) / batch);
        clean_up();
    }
    std::sort(found.begin(), found.end());
    const auto at = [&](std::size_t quarter) { return found[(found.size() - 1) * quarter / 4]; };
    return {at(1), at(2), at(3)};
}

class Calls {
public:
    Calls(double seconds, bool json) : seconds_(seconds), json_(json) {
        for (int i = 0; i < crowd; ++i) silent_.push_back(connection(listener_));
    }

    void run() {
        row("getppid", "nothing: into the kernel and back", [](int) { ::getppid(); });
        messages(64, "64 bytes");
        messages(16 * 1024, "16 KiB");
        row("recv", "nothing has come: EAGAIN",
            [this](int) { expect(receive(one_.ours, 64) < 0 && errno == EAGAIN, "EAGAIN"); });
        accepts();
        changes();
        waits();
        if (json_) print("\n]\n");
        else
            print(
                "\nepoll_wait (one ready, of 1) + recv + send, 64 bytes: %.0f ns. What a "
                "message takes beyond that\nis falling asleep and being woken, and the "
                "server's own instructions.\n",
                message_);
    }

private:
    /// Measures and prints; what one call takes.
    double row(
        const char* call, const std::string& when, const std::function<void(int)>& timed,
        const Step& prepare = [] {}, const Step& clean_up = [] {}) {
        const Cost cost = measure(seconds_, timed, prepare, clean_up);
        const char* format =
            json_ ? "%s{\"call\": \"%s\", \"when\": \"%s\", \"ns\": %.1f, \"low\": %.1f, "
                    "\"high\": %.1f}"
                  : "%s%-12s %-40s %8.0f ns  (%.0f to %.0f)\n";
        const char* before = !json_ ? "" : first_ ? "[\n " : ",\n ";
        print(format, before, call, when.c_str(), cost.median, cost.low, cost.high);
        first_ = false;
        return cost.median;
    }

    static ssize_t receive(int fd, std::size_t most) {
        static char buffer[16 * 1024];
        return ::recv(fd, buffer, most, 0);
    }

    static void transmit(int fd, std::size_t size) {
        static const std::vector<char> bytes(16 * 1024, 'x');
        expect(::send(fd, bytes.data(), size, 0) == static_cast<ssize_t>(size), "sent whole");
    }

    void messages(std::size_t size, const std::string& bytes) {
        const Connection pair = connection(listener_);  // its buffers take a batch
        for (const int fd : {pair.ours, pair.theirs}) {
            const int room = 4 << 20;
            ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
            ::setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
        }
        const auto recv = [&](int) {
            expect(receive(pair.ours, size) == static_cast<ssize_t>(size), "received whole");
        };
        const auto send = [&](int) { transmit(pair.ours, size); };
        const double in = row("recv", bytes + " have come", recv, [&] {
            for (int i = 0; i < batch; ++i) transmit(pair.theirs, size);
        });
        const double out = row(
            "send", bytes + ", and there is room", send, [] {},
            [&] {
                while (receive(pair.theirs, 16 * 1024) > 0) {}
            });
        if (size == 64) message_ = in + out;
        ::close(pair.theirs);
        ::close(pair.ours);
    }

    void accepts() {
        std::vector<int> opened;
        row("accept", "nobody waits: EAGAIN", [&](int) {
            expect(::accept(listener_, nullptr, nullptr) < 0 && errno == EAGAIN, "EAGAIN");
        });
        const auto accept = [&](int) {
            opened.push_back(must("accept", ::accept(listener_, nullptr, nullptr)));
        };
        const auto come = [&] {
            for (int i = 0; i < batch; ++i) opened.push_back(connect_to_listener());
        };
        row("accept", "somebody is there", accept, come, [&] {
            for (const int fd : opened) ::close(fd);
            opened.clear();
        });
    }

    /// What it takes to change epoll's list.
    void changes() {
        const int list = must("epoll_create1", ::epoll_create1(0));
        const auto add = [&](int i) { change(list, EPOLL_CTL_ADD, fd(i), EPOLLIN); };
        const auto take_away = [&](int i) { change(list, EPOLL_CTL_DEL, fd(i), 0); };
        const auto modify = [&](int i) {
            change(list, EPOLL_CTL_MOD, fd(i / 2), i % 2 ? EPOLLIN : EPOLLIN | EPOLLOUT);
        };
        const auto for_all = [](const auto& step) {
            for (int i = 0; i < batch; ++i) step(i);
        };
        row(
            "epoll_ctl", "ADD: one more", add, [] {}, [&] { for_all(take_away); });
        row("epoll_ctl", "DEL: one less", take_away, [&] { for_all(add); });
        for_all(add);
        row("epoll_ctl", "MOD: for writing, too; and no more", modify);
        ::close(list);
    }

    static void change(int list, int operation, int fd, unsigned events) {
        epoll_event entry{};
        entry.events = events;
        entry.data.fd = fd;
        must("epoll_ctl", ::epoll_ctl(list, operation, fd, &entry));
    }

    /// Waits that need not sleep: one descriptor is ready, of those watched.
    void waits() {
        transmit(one_.theirs, 64);
        std::vector<int> watched{one_.ours};
        message_ += waits_among(watched);
        for (int i = 0; i < crowd; ++i) watched.push_back(fd(i));
        waits_among(watched);
    }

    /// What epoll_wait() takes.
    double waits_among(const std::vector<int>& watched) {
        const std::string when = "one is ready, of " + std::to_string(watched.size());
        const int highest = *std::max_element(watched.begin(), watched.end());
        expect(highest < FD_SETSIZE, "within an fd_set");
        row("select", when, [&](int) {
            fd_set reads;  // rebuilt for each call: that is part of it
            FD_ZERO(&reads);
            for (const int fd : watched) FD_SET(fd, &reads);
            expect(::select(highest + 1, &reads, nullptr, nullptr, nullptr) == 1, "one is ready");
        });

        std::vector<pollfd> polled;
        for (const int fd : watched) polled.push_back({fd, POLLIN, 0});
        row("poll", when,
            [&](int) { expect(::poll(polled.data(), polled.size(), -1) == 1, "one is ready"); });

        const int list = must("epoll_create1", ::epoll_create1(0));
        for (const int fd : watched) change(list, EPOLL_CTL_ADD, fd, EPOLLIN);
        epoll_event ready[16];
        const double cost = row("epoll_wait", when, [&](int) {
            expect(::epoll_wait(list, ready, 16, -1) == 1, "one is ready");
        });
        ::close(list);
        return cost;
    }

    int fd(int i) const { return silent_[static_cast<std::size_t>(i)].ours; }

    const double seconds_;
    const bool json_;
    bool first_ = true;
    double message_ = 0;  // recv, send and a wait, together
    const int listener_ = listen_anywhere();
    const Connection one_ = connection(listener_);
    std::vector<Connection> silent_;
};

/// On the last CPU that we may run on.
void pin() {
    cpu_set_t allowed, only;
    if (::sched_getaffinity(0, sizeof allowed, &allowed) < 0) return;
    int last = CPU_SETSIZE - 1;
    while (last > 0 && !CPU_ISSET(last, &allowed)) --last;
    CPU_ZERO(&only);
    CPU_SET(last, &only);
    ::sched_setaffinity(0, sizeof only, &only);
}

[[noreturn]] void usage(int status) {
    constexpr char line[] = "calls: usage: calls [-j] [-t SECONDS]\n";
    if (status) {
        std::fputs(line, stderr);
        std::exit(status);
    }
    print(
        "%s"
        "  -t SECONDS  how long each call is measured, 0.001 to 60 (0.2)\n"
        "  -j          as JSON\n",
        line);
    std::exit(0);
}

}  // namespace

int main(int argc, char* argv[]) {
    double seconds = 0.2;
    bool json = false;
    require_stdout();
    std::signal(SIGPIPE, SIG_IGN);
    opterr = 0;
    for (int option; (option = ::getopt(argc, argv, "jht:")) != -1;) switch (option) {
        case 'j': json = true; break;
        case 't': {
            char* end = optarg;
            seconds = std::strtod(optarg, &end);
            if (end == optarg || *end || !(seconds >= 0.001 && seconds <= 60)) usage(2);
            break;
        }
        case 'h': usage(0);
        default: usage(2);
        }
    if (optind < argc) usage(2);
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
    pin();
    try {
        Calls(seconds, json).run();
    } catch (const Failed& failed) {
        std::fprintf(stderr, "calls: %s\n", failed.what());
        return 1;
    }
}
