// scene.hpp: how truth.cpp brings a descriptor into a state, and who watches it.
#pragma once

#include <vector>

#include <fcntl.h>
#include <sys/epoll.h>

#include "sockets.hpp"

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
        const int most = queued(fd, TIOCOUTQ) / 100 * (100 - percent);
        char block[1 << 12];
        until([&] {  // read as long as there is anything: each sleep in between lets little in
            while (queued(fd, TIOCOUTQ) > most)
                if (::recv(peer.get(), block, sizeof block, 0) <= 0) return false;
            return true;
        });
    }
};
