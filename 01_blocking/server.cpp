// Stage 1: blocking.
//
// The plan: accept a client, serve it until it leaves, accept the next. Each call sleeps until it
// has something to return: accept() until somebody connects, recv() until that client sends, send()
// until the kernel has room.
//
// The trouble: one thread can sleep in one call only. While it sleeps in recv() for the first
// client, the second one is connected (the kernel did that; the connection waits in the accept
// queue) and gets no answer. And it accepts on its first listener only: clients of the others wait.
//
// What it costs: everybody's time. What is good: two system calls for a message, recv() and send(),
// and one conversation is all that it has to remember.
//
// Try: make run-1, then make client-1 in two other terminals. Which one gets an answer? End the
// first one. Then the same with make run-3.

#include <new>
#include <vector>

#include "calls.hpp"
#include "signals.hpp"

namespace {

class Server {
public:
    explicit Server(Narration& narration) : narration_(narration) {
        for (const Port& port : narration.options.ports)
            listeners_.push_back(open_listener(port, narration));
        for (std::size_t i = 1; i < listeners_.size(); ++i)
            narration.narrate(
                "note", "text=\"fd %d (%s) is never answered: one thread waits in one accept()\"",
                listeners_[i].fd.get(), name_of(listeners_[i].service));
    }

    void run() {
        const Listener& listener = listeners_.front();
        signals::may_sleep_in(0, listener.fd.get());
        while (!signals::stopped(narration_)) {
            const int fd = calls_.accept(listener);  // sleeps until somebody connects
            if (fd >= 0) serve(Descriptor(fd), listener.service);
            else if (!only_this_newcomer(errno)) pause(errno);
        }
    }

private:
    // One client, from its first byte to its last. Until it leaves, nobody else is served.
    void serve(Descriptor fd, Service service) {
        Session session{service, fd.get()};
        signals::may_sleep_in(1, fd.get());
        calls_.set_nodelay(fd.get());
        try {
            services_.connect(session);
            send_all(fd.get(), session);
            while (!session.eof && !session.ending && !signals::stopped(narration_)) {
                read_from(fd.get(), session);
                send_all(fd.get(), session);
            }
            if (session.ending && !session.eof) lingering_close(fd.get(), session);
        } catch (const std::bad_alloc&) {
            session.abandon("ENOMEM");
        }
        const bool over = session.outbox.empty() && (session.eof || session.ending);
        if (!over) say_goodbye(fd.get(), session);  // a signal came first
        services_.leave(session);
        signals::may_sleep_in(1, -1);
        calls_.close(fd, session.ending ? session.ending : "eof");
    }

    void read_from(int fd, Session& session) {
        const std::size_t most = read_limit(session.service);
        const ssize_t count = calls_.recv(fd, buffer_, most);  // sleeps until the client sends
        if (count > 0) {
            const std::string_view bytes(buffer_, static_cast<std::size_t>(count));
            session.outbox.append(services_.receive(session, bytes));
        } else if (count == 0) {
            services_.end_of_input(session);  // not the end of our answer
        } else if (!try_again(errno)) {
            session.abandon(errno_name(errno));
        }
    }

    // The kernel may take less than it is offered, when a signal comes: the rest is offered again.
    void send_all(int fd, Session& session) {
        services_.spoken_to.clear();                 // nobody else can be spoken to
        if (session.ending) calls_.limit_sleep(fd);  // it has linger_time to take its last words
        double until = monotonic() + linger_time;
        while (!session.outbox.empty()) {
            const std::string_view bytes = session.outbox.waiting();
            const ssize_t count = calls_.send(fd, bytes);  // sleeps until the kernel has room
            if (count > 0) until = monotonic() + linger_time;
            if (count >= 0) session.outbox.sent_of(bytes, static_cast<std::size_t>(count));
            else if (!try_again(errno)) session.abandon(errno_name(errno));
            else if (session.ending && monotonic() > until) session.abandon("slow_reader");
            if (signals::stopped(narration_)) break;
        }
    }

    // Its last words are sent, and it has not ended its input: see linger_time.
    void lingering_close(int fd, Session& session) {
        if (!session.outbox.empty()) return;  // a signal came first
        calls_.shutdown(fd);
        const double until = monotonic() + linger_time;
        while (!session.eof && monotonic() < until && !signals::stopped(narration_))
            read_from(fd, session);
    }

    // Once, and without sleeping: a server that stops does not wait for a client.
    void say_goodbye(int fd, Session& session) {
        services_.say_goodbye(session);
        session.ending = "stop";
        calls_.set_nonblocking(fd);
        if (!session.outbox.empty()) calls_.send(fd, session.outbox.waiting());
        if (!session.eof) calls_.recv(fd, buffer_, sizeof buffer_);  // or close() sends a reset
    }

    // Descriptors or memory are lacking, so the newcomer stays in the accept queue for a second.
    void pause(int error) {
        narration_.narrate("pause", "reason=%s clients=0", errno_name(error));
        signals::rest(1);
        narration_.narrate("resume", "clients=0");
    }

    Narration& narration_;
    Calls calls_{narration_};
    Services services_;
    std::vector<Listener> listeners_;
    char buffer_[read_limit(Service::echo)];
};

}  // namespace

int main(int argc, char* argv[]) {
    const Options options(argc, argv, 1, "01_blocking");
    Narration narration(options);
    signals::catch_all(options);
    narration.start();
    Server(narration).run();
    narration.stats();
}
