// clients.hpp, the same in every stage from 2 on: what a server keeps of each client.
#pragma once

#include <poll.h>

#include "calls.hpp"
#include "service.hpp"

/// What a descriptor is watched for, and what it is ready for: poll()'s bits. A hang-up or an error
/// is reported unasked (by poll and epoll).
using Events = unsigned;
constexpr Events nothing = 0, readable = POLLIN, writable = POLLOUT, urgent = POLLPRI;
constexpr Events hangup = POLLHUP | POLLERR;

struct Client {
    Descriptor fd;
    Session session;
    bool finished = false;     // it is closed when this round is over
    Events watched = nothing;  // what the stage watches it for
    double deadline = no_limit;
    std::size_t unsent = std::string_view::npos;  // of its last words, when its deadline was set

    /// Takes `own` over.
    Client(Descriptor& own, Service service) : fd(std::move(own)), session{service, fd.get()} {}

    /// For writing only while bytes wait for it: an idle socket is always writable, and a wait that
    /// asks for that returns at once, every time.
    Events wants() const {
        const bool read_on = !session.eof && (session.ending || !session.outbox.full());
        return (read_on ? readable | urgent : nothing) |
               (session.outbox.empty() ? nothing : writable);
    }

    /// A call on it failed. "Not now" is no failure; anything else ends this client, and no other.
    void failed(int error) {
        if (!try_again(error)) session.abandon(errno_name(error));
    }

    /// A chat member that sent a line and closed answers our next send() with a reset. Its line may
    /// still be unread: what waits for it is dropped, and it is read on.
    void failed_to_send(int error) {
        const bool reads_on = session.service == Service::chat && !session.eof && !session.ending;
        if (reads_on && (error == EPIPE || error == ECONNRESET)) session.outbox.clear();
        else failed(error);
    }
};
