// Stage 1: blocking.
//
// The plan: accept a client, serve it until it leaves, accept the next. Each call waits until it
// has something to return: accept() until somebody connects, recv() until that client sends, send()
// until the kernel has room.
//
// The trouble: one thread can sleep in one call only. While it sleeps in recv() on the first
// client, the second has connected (the kernel did that, the connection waits in the backlog) and
// gets no answer. While it sleeps in accept() on one listener, nobody looks at the others.
//
// What it costs: everybody's time. What it has: two system calls for a message, and nothing
// simpler.
//
// Try: make run-1, then make client-1 in two other terminals. Who gets an answer? Let the first one
// leave. Then the same with make run-3.

#include "socket.hpp"

namespace {

class Server {
public:
    explicit Server(Program& program) : program_(program) {
        Program::may_sleep_in(0, sockets_.listeners.front().fd.get());
        for (std::size_t i = 1; i < sockets_.listeners.size(); ++i)
            program.narrate(
                "note", "text=\"fd %d (%s) is never answered: one thread waits in one accept()\"",
                sockets_.listeners[i].fd.get(), name_of(sockets_.listeners[i].service));
    }

    void run() {
        while (!program_.stopped()) {
            if (Client* client = sockets_.accept_from(sockets_.listeners.front())) serve(*client);
            else if (!sockets_.accepting()) program_.rest(sockets_.wait_limit());
            sockets_.close_finished();
        }
        sockets_.close_all();
    }

private:
    // Until this one leaves, nobody else is served.
    void serve(Client& client) {
        while (!client.finished && !program_.stopped()) {
            if (client.wants() & writable) sockets_.write_to(client);
            else sockets_.read_from(client);
        }
    }

    Program& program_;
    Sockets sockets_{program_, Mode::blocking};
};

}  // namespace

int main(int argc, char* argv[]) {
    Program program(argc, argv, {.number = 1, .name = "01_blocking", .waits = false});
    program.start();
    Server(program).run();
    program.stats();
}
