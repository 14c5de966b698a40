// truth_scene.hpp: how truth.cpp brings a descriptor into a state, on 127.0.0.1 and nowhere else.
// Nothing here sleeps for a while and hopes: each step ends when its effect has arrived.
#pragma once

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

inline std::string errno_name(int error) {
    switch (error) {
    case 0: return "0";
    case EAGAIN: return "EAGAIN";
    case EBADF: return "EBADF";
    case ECONNABORTED: return "ECONNABORTED";
    case ECONNREFUSED: return "ECONNREFUSED";
    case ECONNRESET: return "ECONNRESET";
    case EEXIST: return "EEXIST";
    case EINVAL: return "EINVAL";
    case EMFILE: return "EMFILE";
    case ENOTCONN: return "ENOTCONN";
    case ENOTSOCK: return "ENOTSOCK";
    case EPERM: return "EPERM";
    case EPIPE: return "EPIPE";
    default: return "errno " + std::to_string(error);
    }
}

/// This system cannot have that state.
struct Unavailable {};

template <typename Number>
Number check(Number result, const char* call) {
    if (result < 0) throw std::runtime_error(std::string(call) + ": " + std::strerror(errno));
    return result;
}

/// For what no wait can tell. The deadline is for a machine that is busy, not for us.
inline void until(const std::function<bool()>& done) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!done()) {
        if (std::chrono::steady_clock::now() > deadline) throw std::runtime_error("it never came");
        ::poll(nullptr, 0, 1);
    }
}

/// Owns a descriptor, and closes it.
class Descriptor {
public:
    explicit Descriptor(int number = -1) : number_(number) {}
    Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
    Descriptor& operator=(Descriptor&& other) noexcept {
        std::swap(number_, other.number_);
        return *this;
    }
    ~Descriptor() { close(); }
    void close() {
        if (number_ >= 0) ::close(std::exchange(number_, -1));
    }
    int get() const { return number_; }

private:
    int number_;
};

/// While it lives no new descriptor can be had; those that are open go on working.
class NoneFree {
public:
    NoneFree() {
        ::getrlimit(RLIMIT_NOFILE, &before_);
        const rlimit now{1, before_.rlim_max};
        check(::setrlimit(RLIMIT_NOFILE, &now), "setrlimit");
    }
    NoneFree(const NoneFree&) = delete;
    NoneFree& operator=(const NoneFree&) = delete;
    ~NoneFree() { ::setrlimit(RLIMIT_NOFILE, &before_); }

private:
    rlimit before_{};
};

/// The events of poll and epoll are the same bits; NVAL is poll's alone.
inline std::string letters(unsigned events) {
    std::string text;
    if (events & EPOLLIN) text += 'r';
    if (events & EPOLLOUT) text += 'w';
    if (events & EPOLLPRI) text += 'x';
    if (events & EPOLLRDHUP) text += 'd';
    if (events & EPOLLERR) text += 'e';
    if (events & EPOLLHUP) text += 'h';
    if (events & POLLNVAL) text += 'n';
    return text.empty() ? "-" : text;
}

/// Sleeps until one of these events is there. HUP and ERR come without being asked for.
inline void wait_for(const Descriptor& fd, short events) {
    until([&] {
        pollfd entry{fd.get(), events, 0};
        check(::poll(&entry, 1, 1000), "poll");
        return (entry.revents & events) != 0;
    });
}

/// FIONREAD: bytes unread. TIOCOUTQ: bytes not yet acknowledged. To tell, the kernel takes the
/// socket's lock: once we know, it is done with the segment that brought the news, and its waits
/// have been told, too. Without that an edge might still be on its way.
inline int queued(const Descriptor& fd, unsigned long which) {
    int bytes = 0;
    check(::ioctl(fd.get(), which, &bytes), "ioctl");
    return bytes;
}

inline tcp_info information(const Descriptor& fd) {
    tcp_info info{};
    socklen_t size = sizeof info;
    check(::getsockopt(fd.get(), IPPROTO_TCP, TCP_INFO, &info, &size), "getsockopt");
    return info;
}

template <typename Value>
void set_option(const Descriptor& fd, int level, int name, const Value& value) {
    check(::setsockopt(fd.get(), level, name, &value, sizeof value), "setsockopt");
}

inline Descriptor tcp_socket() {
    Descriptor fd(check(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), "socket"));
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    return fd;
}

/// Bound to 127.0.0.1 and any free port. Without a backlog it does not listen.
inline Descriptor bound(std::optional<int> backlog) {
    Descriptor fd = tcp_socket();
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    check(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), "bind");
    if (backlog) check(::listen(fd.get(), *backlog), "listen");
    return fd;
}

inline void start_connect(const Descriptor& fd, const Descriptor& to) {
    sockaddr_in address{};
    socklen_t size = sizeof address;
    auto* const pointer = reinterpret_cast<sockaddr*>(&address);
    check(::getsockname(to.get(), pointer, &size), "getsockname");
    if (::connect(fd.get(), pointer, size) < 0 && errno != EINPROGRESS) check(-1, "connect");
}

/// A connection that waits in this listener's backlog.
inline Descriptor newcomer(const Descriptor& listener, int receive_buffer = 0) {
    Descriptor fd = tcp_socket();
    if (receive_buffer) set_option(fd, SOL_SOCKET, SO_RCVBUF, receive_buffer);
    start_connect(fd, listener);
    wait_for(fd, POLLOUT);
    wait_for(listener, POLLIN);
    return fd;
}

inline Descriptor accepted(const Descriptor& listener) {
    return Descriptor(check(::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK), "accept"));
}

/// Not end of input but RST: that is what to close means when nothing may linger (socket(7)).
inline void reset(Descriptor& connection) {
    set_option(connection, SOL_SOCKET, SO_LINGER, linger{1, 0});
    connection.close();
}

/// A regular file without a name, empty.
inline Descriptor file() {
    std::FILE* const stream = std::tmpfile();
    if (!stream) check(-1, "tmpfile");
    Descriptor fd(::dup(::fileno(stream)));
    std::fclose(stream);
    return fd;
}

class Epoll {
public:
    explicit Epoll(unsigned mode) : mode_(mode) {}

    void add(int fd, unsigned wanted) {
        epoll_event entry{};
        entry.events = wanted | mode_;
        if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &entry) < 0) refused_ = errno_name(errno);
    }

    std::string ask(int milliseconds = 0) {
        if (!refused_.empty()) return refused_;
        epoll_event found{};
        check(::epoll_wait(epoll_.get(), &found, 1, milliseconds), "epoll_wait");
        return letters(found.events);
    }

private:
    const unsigned mode_;
    const Descriptor epoll_{check(::epoll_create1(0), "epoll_create1")};
    std::string refused_;
};

/// A descriptor, who is at its other end, and who watches it.
struct Scene {
    Descriptor fd, peer, other;
    int number = -1;  // what is asked about: fd, and still after fd is closed
    unsigned wanted = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP;
    unsigned entries = 1;      // how often it stands in poll's array
    bool reset_comes = false;  // to the connection in the backlog
    Epoll level{0}, edge{EPOLLET};
    std::optional<NoneFree> none_free;

    void watch() {
        number = fd.get();
        level.add(number, wanted);
        edge.add(number, wanted);
    }

    /// From here on the edge-triggered wait has nothing but news to tell.
    void hear_all() {
        while (edge.ask() != "-") {}
    }

    void watch_from_now() { watch(), hear_all(); }

    void connect(int receive_buffer = 0) {
        const Descriptor listener = bound(1);
        peer = newcomer(listener, receive_buffer);
        fd = accepted(listener);
    }

    /// Connected, watched, all heard: where most states begin.
    void open() { connect(), watch_from_now(); }

    void listen() { fd = bound(8), watch_from_now(); }

    void pipe(bool asked_is_reader) {
        int ends[2];
        check(::pipe2(ends, O_NONBLOCK), "pipe2");
        fd = Descriptor(ends[asked_is_reader ? 0 : 1]);
        peer = Descriptor(ends[asked_is_reader ? 1 : 0]);
        watch_from_now();
    }

    void arrive(int bytes) {
        const int before = queued(fd, FIONREAD);
        check(::write(peer.get(), "0123456789", static_cast<std::size_t>(bytes)), "write");
        until([&] { return queued(fd, FIONREAD) == before + bytes; });
    }

    void take(std::size_t bytes) {
        char buffer[16];
        check(::read(fd.get(), buffer, bytes), "read");
    }

    void happened(short events) {
        wait_for(fd, events);
        queued(fd, FIONREAD);
    }

    void urgent_arrives() {
        check(::send(peer.get(), "!", 1, MSG_OOB), "send");
        happened(POLLPRI);
    }

    void peer_half_closes(short seen_as = POLLRDHUP) {
        check(::shutdown(peer.get(), SHUT_WR), "shutdown");
        happened(seen_as);
    }

    void peer_resets() { reset(peer), happened(POLLERR); }

    void shut_down() {
        check(::shutdown(fd.get(), SHUT_WR), "shutdown");
        until([this] { return information(fd).tcpi_state != TCP_FIN_WAIT1; });
    }

    /// Until the kernel takes no more, and nothing is on its way that would make room again.
    void fill() {
        connect(4096);
        set_option(fd, SOL_SOCKET, SO_SNDBUF, 1 << 18);
        watch_from_now();
        const std::vector<char> block(1 << 14);
        const auto taken = [&] { return ::write(fd.get(), block.data(), block.size()) > 0; };
        do {
            while (taken()) {}
            until([this] { return information(fd).tcpi_unacked == 0; });
        } while (taken());
        hear_all();
    }

    /// The peer reads until so much of what filled the send buffer has left it.
    void drain(int percent) {
        const int full = queued(fd, TIOCOUTQ);
        std::vector<char> block(1 << 12);
        until([&] {
            ::recv(peer.get(), block.data(), block.size(), 0);
            return queued(fd, TIOCOUTQ) <= full / 100 * (100 - percent);
        });
    }
};
