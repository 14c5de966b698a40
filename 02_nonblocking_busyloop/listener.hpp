// listener.hpp, the same in every stage: opens the sockets that clients connect to.
#pragma once

#include <cstring>
#include <string>
#include <utility>

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include "narration.hpp"
#include "options.hpp"

/// Owns a descriptor, and closes it.
class Descriptor {
public:
    explicit Descriptor(int number) : number_(number) {}
    Descriptor(Descriptor&& other) noexcept : number_(other.number_) { other.number_ = -1; }
    Descriptor& operator=(Descriptor&& other) noexcept {
        std::swap(number_, other.number_);
        return *this;
    }
    ~Descriptor() { close(); }
    int get() const { return number_; }

    /// Not again on EINTR: the number is free by then, and may be another thread's (close(2)).
    void close() {
        if (number_ >= 0) ::close(number_);
        number_ = -1;
    }

private:
    int number_;
};

struct Listener {
    Descriptor fd;
    Service service;
    unsigned watched = 0;  // what the stage watches it for
};

/// "127.0.0.1:9001" or "[::1]:9001".
inline ShortText address_text(const sockaddr_storage& address, socklen_t size) {
    char host[INET6_ADDRSTRLEN + 32], port[8];  // with room for a zone, as in fe80::1%eth0
    if (::getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, host, sizeof host, port,
                      sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return {};
    const bool v6 = address.ss_family == AF_INET6;
    ShortText text;
    if (v6) text.add("[");
    text.add(host);
    text.add(v6 ? "]:" : ":");
    text.add(port);
    return text;
}

/// socket(), bind() and listen() on that port of the address in the options; ends the program with
/// one line and status 1 if one of them fails.
inline Listener open_listener(const Port& port, Narration& narration) {
    const Options& options = narration.options;
    const auto refused = [&](const char* reason) {
        options.fail(1, "cannot listen on %s port %d: %s", options.address, port.number, reason);
    };
    const auto made = [&](const char* call, const Descriptor& fd, const char* how = "") {
        if (narration.verbose()) narration.narrate("call", "name=%s fd=%d%s", call, fd.get(), how);
    };
    addrinfo hints{}, *found = nullptr;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;  // asks no name server
    const std::string number = std::to_string(port.number);
    if (const int unknown = ::getaddrinfo(options.address, number.c_str(), &hints, &found))
        options.fail(1, "cannot listen on %s: %s", in_quotes(options.address).c_str(),
                     ::gai_strerror(unknown));
    Descriptor fd(::socket(found->ai_family, SOCK_STREAM, 0));
    if (fd.get() < 0) refused(std::strerror(errno));
    made("socket", fd);
    // Without it, the port is refused for a minute after a run whose connections are in TIME_WAIT.
    const int on = 1;
    ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    made("setsockopt", fd, " option=SO_REUSEADDR");
    if (::bind(fd.get(), found->ai_addr, found->ai_addrlen) < 0) refused(std::strerror(errno));
    ::freeaddrinfo(found);
    made("bind", fd);
    if (::listen(fd.get(), SOMAXCONN) < 0) refused(std::strerror(errno));
    made("listen", fd);
    sockaddr_storage bound{};
    socklen_t size = sizeof bound;
    ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound), &size);
    narration.say("listen", "fd=%d service=%s address=%s", fd.get(), name_of(port.service),
                  address_text(bound, size).c_str());
    return {std::move(fd), port.service};
}
