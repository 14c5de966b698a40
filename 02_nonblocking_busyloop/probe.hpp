// probe.hpp: what each call returns on a non-blocking socket when it would have had to wait.
#pragma once

#include <vector>

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "listener.hpp"

/// Makes each call once, on sockets of its own on the loopback, and narrates what came back.
/// Returns the program's exit status.
inline int probe(Narration& narration) {
    const auto show = [&](const char* call, long result, int error, const char* text) {
        narration.say("probe", "call=%s result=%ld errno=%s text=\"%s\"", call, result,
                      errno_name(result < 0 ? error : 0), text);
    };
    const auto tcp = [] {
        Descriptor fd(::socket(AF_INET, SOCK_STREAM, 0));
        ::fcntl(fd.get(), F_SETFL, O_NONBLOCK);
        return fd;
    };
    const auto loopback = [](const Descriptor& bound) {
        sockaddr_in address{};
        socklen_t size = sizeof address;
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (bound.get() >= 0)
            ::getsockname(bound.get(), reinterpret_cast<sockaddr*>(&address), &size);
        return address;
    };
    const auto connect_to = [](const Descriptor& fd, const sockaddr_in& address) {
        return ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
    };
    const auto bind_somewhere = [&](const Descriptor& fd) {
        const sockaddr_in any = loopback(Descriptor(-1));
        return ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&any), sizeof any);
    };
    // Waits until connect() is decided.
    const auto settled = [](const Descriptor& fd, short events) {
        pollfd wait{fd.get(), events, 0};
        return ::poll(&wait, 1, 1000);
    };
    char bytes[16];

    const Descriptor listener = tcp();
    if (bind_somewhere(listener) < 0 || ::listen(listener.get(), 0) < 0)
        narration.options.fail(1, "no listener to probe: %s", errno_name(errno));
    const sockaddr_in address = loopback(listener);

    long result = ::accept(listener.get(), nullptr, nullptr);
    show("accept", result, errno, "nobody is in the backlog: it fails at once, and does not wait");

    const Descriptor first = tcp();
    result = connect_to(first, address);
    show("connect", result, errno,
         "the handshake is under way: writable will mean that it is decided");

    settled(first, POLLOUT);
    result = ::recv(first.get(), bytes, sizeof bytes, 0);
    show("recv", result, errno,
         "connected, and nothing has come: it fails at once, and does not wait");

    result = ::send(first.get(), "hello\n", 6, 0);
    show("send", result, errno,
         "connected: the kernel takes what fits into its buffer, nobody has read it");

    const Descriptor apart = tcp();
    result = ::send(apart.get(), "hello\n", 6, 0);
    show("send", result, errno, "never connected: no peer to send to");

    // A listener whose backlog is full answers no more handshakes, so connect() stays under way.
    std::vector<Descriptor> queue;
    for (int i = 0; i < 8; ++i) {
        queue.push_back(tcp());
        connect_to(queue.back(), address);
    }
    result = ::send(queue.back().get(), "hello\n", 6, 0);
    show("send", result, errno,
         "before the connection is established: there is no buffer to take it yet");

    sockaddr_in closed = address;
    {
        const Descriptor gone = tcp();
        if (bind_somewhere(gone) == 0) closed = loopback(gone);
    }
    const Descriptor refused = tcp();
    result = connect_to(refused, closed);
    show("connect", result, errno, "nobody listens there, but that is not known yet");

    settled(refused, POLLOUT);
    int reason = 0;
    socklen_t size = sizeof reason;
    ::getsockopt(refused.get(), SOL_SOCKET, SO_ERROR, &reason, &size);
    show("getsockopt", reason ? -1 : 0, reason,
         "SO_ERROR has the outcome: writable did not mean connected");
    return 0;
}
