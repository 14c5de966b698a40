// Stage 5: epoll.
//
// The trouble with stage 4: the array of watched descriptors is ours, so every poll() carries all
// of it into the kernel, the kernel walks all of it, and so do we, to find the few that are ready:
// with ten thousand silent clients, ten thousand entries for one message.
//
// The one change: the kernel keeps the watched list. epoll_ctl() tells it what we want to know of a
// descriptor, once, and again only when that changes; epoll_wait() returns nothing but what is
// ready. Level-triggered, as select and poll are: what is not dealt with is reported again.
//
// What it costs: a system call for each change, and Linux only.
//
// Try: make diff-5. make run-5 ARGS=-v, and count the epoll_ctl() calls of one connection: each
// `watch` line is one.

#include "socket.hpp"

#include <array>

#include <sys/epoll.h>

namespace {

class Server {
public:
    explicit Server(Program& program) : program_(program) {}

    void run() {
        while (!program_.stopped()) {
            for (const Ready& ready : wait()) serve(ready);
            sockets_.close_finished();
        }
        sockets_.close_all();
    }

private:
    // What we want to know of a descriptor has changed. The list is the kernel's. It would forget a
    // closed descriptor by itself, but not one whose socket lives on in a copy (dup, fork).
    void watch(int fd, Events before, Events now) {
        epoll_event entry{};
        entry.data.fd = fd;
        entry.events = now;  // epoll's bits are poll's
        const int operation = before == nothing ? EPOLL_CTL_ADD
                              : now == nothing  ? EPOLL_CTL_DEL
                                                : EPOLL_CTL_MOD;
        if (::epoll_ctl(epoll_.get(), operation, fd, &entry) < 0) sockets_.cannot_watch(fd, errno);
    }

    // Sleeps until a watched descriptor is ready, or the time limit is over.
    std::span<const Ready> wait() {
        const double before = program_.stopwatch();
        const int count = ::epoll_wait(epoll_.get(), found_.data(), static_cast<int>(found_.size()),
                                       milliseconds(sockets_.wait_limit()));
        const int error = count < 0 ? errno : 0;
        const std::span ready(ready_.data(), count < 0 ? 0 : static_cast<std::size_t>(count));
        for (std::size_t i = 0; i < ready.size(); ++i)
            ready[i] = {found_[i].data.fd, found_[i].events};
        sockets_.waited("epoll_wait", ready, 2 * ready.size(), before, error);
        return ready;
    }

    // The ready list holds two kinds of socket, listening and connected. (And the signal pipe:
    // run() asks what it was.)
    void serve(const Ready& ready) {
        if (Client* client = sockets_.client(ready.fd)) {
            if (ready.events & urgent) sockets_.read_urgent(*client);
            if (ready.events & (readable | hangup)) sockets_.read_from(*client);
            if (ready.events & (writable | hangup)) sockets_.write_to(*client);
        } else if (Listener* listener = sockets_.listener(ready.fd)) {
            sockets_.accept_from(*listener);
        }
    }

    Program& program_;
    const Descriptor epoll_{::epoll_create1(0)};
    std::array<epoll_event, 256> found_{};  // more than that are found in the next round
    std::array<Ready, 256> ready_{};
    Sockets sockets_{program_, Mode::nonblocking,
                     [this](int fd, Events before, Events now) { watch(fd, before, now); }};
};

}  // namespace

int main(int argc, char* argv[]) {
    Program program(argc, argv, {.number = 5, .name = "05_epoll", .waits = true});
    program.start();
    program.limit_descriptors(RLIM_INFINITY);
    Server(program).run();
    program.stats();
}
