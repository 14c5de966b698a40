// Stage 4: poll.
//
// The trouble with stage 3: three sets of FD_SETSIZE bits, rebuilt for every call because select()
// overwrites them, and no descriptor beyond the last bit.
//
// The one change: an array of pollfd, one for each watched descriptor. What we want to know stands
// in `events`, what the kernel found in `revents`, so the array outlives the call: it is kept, and
// only changed as the clients change. Any number of descriptors, of any number.
//
// What it costs: still everything that is watched, at every call: the whole array is copied into
// the kernel, walked there, and walked here.
//
// Try: make diff-4. make run-4 ARGS=-v, and see when `watch` lines come: not in every round.

#include "socket.hpp"

#include <unordered_map>

#include <poll.h>

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
    // What we want to know of a descriptor has changed. The array has no holes: the last entry
    // moves to where one goes. Never while wait() walks it: the steps change it, and they come
    // afterwards.
    void watch(int fd, Events before, Events now) {
        if (before == nothing) {
            place_[fd] = watched_.size();
            watched_.push_back({fd, 0, 0});
        }
        const std::size_t place = place_.at(fd);
        if (now == nothing) {
            watched_[place] = watched_.back();
            place_[watched_[place].fd] = place;
            watched_.pop_back();
            place_.erase(fd);
        } else {
            watched_[place].events = static_cast<short>(now);
        }
    }

    // Sleeps until a watched descriptor is ready, or the time limit is over.
    const std::vector<Ready>& wait() {
        const double before = program_.stopwatch();
        const int count = ::poll(watched_.data(), static_cast<nfds_t>(watched_.size()),
                                 milliseconds(sockets_.wait_limit()));
        const int error = count < 0 ? errno : 0;
        ready_.clear();
        if (count > 0)  // how many, not which: so all are walked again
            for (const pollfd& entry : watched_)
                if (entry.revents != 0)
                    ready_.push_back({entry.fd, static_cast<Events>(entry.revents)});
        sockets_.waited("poll", ready_, 2 * watched_.size(), before, error);
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
    std::vector<pollfd> watched_;
    std::unordered_map<int, std::size_t> place_;  // of a descriptor in watched_
    std::vector<Ready> ready_;
    Sockets sockets_{program_, Mode::nonblocking,
                     [this](int fd, Events before, Events now) { watch(fd, before, now); }};
};

}  // namespace

int main(int argc, char* argv[]) {
    Program program(argc, argv, {.number = 4, .name = "04_poll", .waits = true});
    program.start();
    program.limit_descriptors(RLIM_INFINITY);
    Server(program).run();
    program.stats();
}
