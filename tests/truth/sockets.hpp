// sockets.hpp: the steps on 127.0.0.1, and nowhere else, of which scene.hpp makes its states. None
// sleeps for a while and hopes: each ends when its effect has arrived.
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

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

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
