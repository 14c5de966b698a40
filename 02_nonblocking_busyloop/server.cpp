// Stage 2: a busy loop over non-blocking sockets.
//
// The trouble with stage 1: a call that sleeps for one client lets all the others wait.
//
// The one change: no call sleeps. Every socket is non-blocking, so a call that has nothing to
// return fails at once with EAGAIN, "would block"; and so every listener and every client can be
// tried in turn, for ever. One thread serves many clients at once.
//
// What it costs: a whole CPU, also while nothing happens. Nobody tells us which call would be worth
// making, so nearly all are made for nothing: see rounds and would_block in the spin lines.
//
// Try: make run-2, and top beside it. make run-2 ARGS=-p shows what each call returns when it would
// have had to wait.

#include "probe.hpp"
#include "socket.hpp"

namespace {

class Server {
public:
    explicit Server(Program& program) : program_(program) {}

    void run() {
        while (!program_.stopped()) {
            serve();
            sockets_.close_finished();
            if (program_.narrating()) sum_up();
        }
        sockets_.close_all();
    }

private:
    // One round: everything is tried, with or without a reason. Whoever is finished stays in the
    // list until the round is over: a list that shrinks while it is walked skips the next one.
    void serve() {
        for (Listener& listener : sockets_.listeners) sockets_.accept_from(listener);
        for (const auto& client : sockets_.clients) {
            if (!client) continue;  // a number that is no client's
            sockets_.read_from(*client);
            sockets_.write_to(*client);
        }
        program_.counters.scanned += sockets_.listeners.size() + program_.counters.clients;
    }

    // Too many rounds to narrate each: one line a second says how many there were.
    void sum_up() {
        ++rounds_;
        if (monotonic() < next_line_) return;
        const std::uint64_t in_vain = program_.counters.would_block;
        program_.narrate("spin", "rounds=%llu would_block=%llu slept=0.000",
                         static_cast<unsigned long long>(rounds_),
                         static_cast<unsigned long long>(in_vain - narrated_));
        rounds_ = 0;
        narrated_ = in_vain;
        next_line_ = monotonic() + 1;
    }

    Program& program_;
    Sockets sockets_{program_, Mode::nonblocking};
    std::uint64_t rounds_ = 0, narrated_ = 0;
    double next_line_ = monotonic() + 1;
};

}  // namespace

int main(int argc, char* argv[]) {
    Program program(argc, argv,
                    {.number = 2,
                     .name = "02_nonblocking_busyloop",
                     .waits = false,
                     .options = "p",
                     .usage = " [-p]"});
    program.start();
    if (program.options.probe) return probe(program);
    program.limit_descriptors(RLIM_INFINITY);
    Server(program).run();
    program.stats();
}
