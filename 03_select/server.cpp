// Stage 3: select.
//
// The trouble with stage 2: it asks every socket, all the time, and nearly always in vain.
//
// The one change: the kernel is asked once, about all of them: select() sleeps until one of the
// watched descriptors is ready, and says which. Only those are touched. Reading is waited for
// always, writing only while an outbox holds something: an idle socket is always writable, and
// select() would return at once, for ever. The third set, "exceptional", means urgent data on TCP.
//
// What it costs: select() overwrites the three sets, so they are rebuilt for every call, copied
// into the kernel and back, walked there and walked here. And an fd_set ends at FD_SETSIZE: a
// descriptor of that number or above writes over the memory behind it.
//
// Try: make run-3, and connect twice. make run-3 ARGS="-t 0.5": the watched list beside the ready
// list. make diff-3.

#include "socket.hpp"

#include <map>

#include <sys/select.h>

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
    // What we want to know of a descriptor has changed. select() has no memory: the list is ours.
    void watch(int fd, Events, Events now) {
        if (now == nothing) watched_.erase(fd);
        else watched_[fd] = now;
    }

    // Sleeps until a watched descriptor is ready, or the time limit is over.
    const std::vector<Ready>& wait() {
        fd_set reads, writes, exceptions;
        FD_ZERO(&reads);
        FD_ZERO(&writes);
        FD_ZERO(&exceptions);
        for (const auto& [fd, wanted] : watched_) {
            if (wanted & readable) FD_SET(fd, &reads);
            if (wanted & writable) FD_SET(fd, &writes);
            if (wanted & urgent) FD_SET(fd, &exceptions);
        }
        const int highest = watched_.rbegin()->first;
        const double limit = sockets_.wait_limit(), seconds = std::floor(limit);
        timeval time{};
        time.tv_sec = static_cast<time_t>(seconds);
        time.tv_usec = static_cast<suseconds_t>((limit - seconds) * 1e6);

        const double before = program_.stopwatch();
        const int count =
            ::select(highest + 1, &reads, &writes, &exceptions, limit < 0 ? nullptr : &time);
        const int error = count < 0 ? errno : 0;
        ready_.clear();
        if (count > 0)  // how many, not which: so all are walked again
            for (const auto& [fd, wanted] : watched_) {
                const Events events = (FD_ISSET(fd, &reads) ? readable : nothing) |
                                      (FD_ISSET(fd, &writes) ? writable : nothing) |
                                      (FD_ISSET(fd, &exceptions) ? urgent : nothing);
                if (events != nothing) ready_.push_back({fd, events});
            }
        sockets_.waited("select", ready_, 2 * watched_.size(), before, error);
        return ready_;
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
    std::map<int, Events> watched_;
    std::vector<Ready> ready_;
    Sockets sockets_{program_, Mode::nonblocking,
                     [this](int fd, Events before, Events now) { watch(fd, before, now); }};
};

}  // namespace

int main(int argc, char* argv[]) {
    Program program(argc, argv, {.number = 3, .name = "03_select", .waits = true});
    program.start();
    program.limit_descriptors(FD_SETSIZE);
    Server(program).run();
    program.stats();
}
