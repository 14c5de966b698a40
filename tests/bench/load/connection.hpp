// connection.hpp: what a connection of the load is made of: its descriptor, its bytes, and the wait
// for it.
#pragma once

#include <memory>
#include <random>
#include <span>
#include <utility>

#include <netdb.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "figures.hpp"

namespace load {

class Descriptor {
public:
    explicit Descriptor(int fd = -1) : fd_(fd) {}
    Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Descriptor& operator=(Descriptor&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~Descriptor() {
        if (fd_ >= 0) ::close(fd_);
    }
    operator int() const { return fd_; }

private:
    int fd_;
};

/// Which of many connections are ready? One that is closed leaves the list by itself.
class Waiter {
public:
    /// EPOLL_CTL_ADD, or EPOLL_CTL_MOD for one that is watched already.
    void watch(int operation, int fd, std::size_t index, bool write) {
        epoll_event entry{};
        entry.events = EPOLLIN | (write ? EPOLLOUT : 0U);
        entry.data.u64 = index;
        if (::epoll_ctl(epoll_, operation, fd, &entry) < 0)
            fail(1, "epoll_ctl: %s", std::strerror(errno));
    }

    std::span<const epoll_event> wait(Nanoseconds longest) {
        // epoll_wait() counts in milliseconds, too coarse for -r: ppoll() watches its descriptor.
        const bool short_wait = longest < 100 * millisecond;
        if (short_wait) {
            pollfd list{epoll_, POLLIN, 0};
            const timespec limit{0, static_cast<long>(longest)};
            ::ppoll(&list, 1, &limit, nullptr);
        }
        const int count = ::epoll_wait(epoll_, found_.data(), static_cast<int>(found_.size()),
                                       short_wait ? 0 : static_cast<int>(longest / millisecond));
        return {found_.data(), static_cast<std::size_t>(std::max(count, 0))};
    }

private:
    const Descriptor epoll_{::epoll_create1(EPOLL_CLOEXEC)};
    std::array<epoll_event, 1024> found_{};
};

/// A text that is repeated without end. Any stretch of up to `longest` bytes can be had in one
/// piece.
class Sequence {
public:
    Sequence(const std::string& text, std::size_t longest)
        : period_(text.size()), bytes_(period_ + longest) {
        for (std::size_t i = 0; i < bytes_.size(); ++i) bytes_[i] = text[i % period_];
    }

    const char* at(Count place) const { return bytes_.data() + place % period_; }
    std::size_t period() const { return period_; }
    std::size_t longest() const { return bytes_.size() - period_; }

private:
    std::size_t period_;
    std::vector<char> bytes_;
};

/// What is sent is a stretch of this, over and over, and each connection begins at another place
/// of it: a byte that is lost, doubled, changed or somebody else's shows.
inline std::string random_bytes() {
    std::string text(8191, '\0');  // a prime: no message size hides behind it
    std::minstd_rand random(20);
    for (char& byte : text) byte = static_cast<char>(random() >> 8);
    return text;
}

/// One connection of ours. Places count from the beginning of its stream.
struct Connection {
    Descriptor fd{};
    Count begin = 0;     // where in the sequence its stream begins
    Count to_send = 0;   // up to here there are messages
    Count sent = 0;      // up to here the kernel took them
    Count received = 0;  // up to here they came back
    bool watched_for_writing = false;
    // When each message under way left, or should have: in as little memory as that takes, for what
    // the load touches drives out of the caches what the server needs.
    std::vector<Nanoseconds> left{};
};

using Address = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

inline Address server_address(const std::string& host, int port) {
    addrinfo hints{}, *found = nullptr;
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    hints.ai_socktype = SOCK_STREAM;
    if (::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0)
        fail(2, "-a '%.60s': an IPv4 or IPv6 address is wanted", host.c_str());
    return {found, ::freeaddrinfo};
}

}  // namespace load
