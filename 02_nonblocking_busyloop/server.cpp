// Stage 2: a busy loop over non-blocking sockets.
//
// The trouble with stage 1: a call that sleeps for one client makes all the others wait.
//
// The one change: no call sleeps. Every socket is non-blocking, so a call that has nothing to
// return fails at once with EAGAIN, "would block", and all sockets can be tried in turn, all the
// time. What the sleeping call kept for you, you now keep yourself: a list of clients, and for each
// of them what is not sent yet, and whether it is about to go.
//
// What it costs: a whole CPU, even with no clients at all. Nearly all calls are made for nothing:
// see would_block in the spin lines.
//
// Try: make diff-2. make run-2, and top beside it. make run-2 ARGS=-p: each call, and what it
// returns when it would have had to wait.

#include <map>
#include <vector>

#include "calls.hpp"
#include "clients.hpp"
#include "probe.hpp"
#include "rounds.hpp"
#include "signals.hpp"

namespace {

class Server {
public:
    explicit Server(Narration& narration) : narration_(narration) {
        narration.start();
        calls_.setrlimit(RLIM_INFINITY);
        for (const Port& port : narration.options.ports) {
            listeners_.push_back(open_listener(port, narration));
            calls_.set_nonblocking(listeners_.back().fd.get());
        }
    }

    void run() {
        while (!signals::stopped(narration_)) {
            try_all();
            close_finished();
            rounds_.count(listeners_.size() + clients_.size());
        }
        stop();
    }

private:
    // ---- Which socket is next ------------------------------------------------------------------

    // Nothing says which is ready: every socket is tried in every round.
    void try_all() {
        for (const Listener& listener : listeners_) accept_from(listener);
        for (auto& [fd, client] : clients_) {
            read_from(client);
            write_to(client);
            update(client);
        }
    }

    // ---- What to do with it: the same text in stages 3, 4 and 5, nearly the same in 2 and 6 ----

    // Accepts one client. Another one that waits is accepted in the next round.
    void accept_from(const Listener& listener) {
        if (paused()) return;
        const int fd = calls_.accept(listener);
        if (fd < 0 && !only_this_newcomer(errno)) pause(errno);
        if (fd < 0) return;
        calls_.set_nonblocking(fd);
        calls_.set_nodelay(fd);
        Client& client = clients_.try_emplace(fd, fd, listener.service).first->second;
        services_.connect(client.session);
        send_answers();
    }

    // One bounded read: a client that never stops sending must not keep the others waiting. What is
    // left is read in the next round.
    void read_from(Client& client) {
        if (!(client.wants() & readable)) return;
        Session& session = client.session;
        const ssize_t count = calls_.recv(client.fd.get(), buffer_, read_limit(session.service));
        if (count < 0) return client.failed(errno);
        if (count > 0) {
            const std::string_view bytes(buffer_, static_cast<std::size_t>(count));
            const std::string_view echo = services_.receive(session, bytes);
            if (!echo.empty()) write_to(client, echo);
        } else {
            services_.end_of_input(session);  // not the end of our answer
        }
        send_answers();
    }

    // Sends what waits in the outbox or, if nothing does, `bytes`. The kernel may take less than it
    // is offered: the rest waits.
    void write_to(Client& client, std::string_view bytes = {}) {
        Session& session = client.session;
        if (!session.outbox.empty()) bytes = session.outbox.waiting();
        if (bytes.empty()) return;
        const ssize_t count = calls_.send(client.fd.get(), bytes);
        if (count >= 0 || try_again(errno))
            session.outbox.sent_of(bytes, count < 0 ? 0 : static_cast<std::size_t>(count));
        else client.failed_to_send(errno);
    }

    // Sends what the services have said.
    void send_answers() {
        for (Session* session : services_.spoken_to) {
            Client& client = clients_.at(session->id);
            session->spoken_to = false;
            write_to(client);
            update(client);
        }
        services_.spoken_to.clear();
    }

    // After anything that may have changed what is wanted of this client.
    void update(Client& client) {
        if (client.wants() != nothing || client.finished) return;
        client.finished = true;
        if (!client.session.ending) client.session.ending = "eof";
        finished_.push_back(&client);
    }

    // At the end of a round, not earlier: try_all() walks the clients, and none may be erased then.
    void close_finished() {
        const bool room = !finished_.empty();
        if (!room && !paused()) return;
        // By index: telling the others that a member leaves may finish more of them.
        for (std::size_t i = 0; i < finished_.size(); ++i) {
            services_.leave(finished_[i]->session);
            send_answers();
            close(*finished_[i]);
            clients_.erase(finished_[i]->session.id);
        }
        finished_.clear();
        if (paused() && (room || monotonic() >= paused_until_)) {
            paused_until_ = 0;
            narration_.narrate("resume", "clients=%llu", narration_.counters.clients);
        }
    }

    // close() with bytes unread sends a reset, and a reset may overtake our last words (RFC 1122,
    // 4.2.2.13). So what has come already is read, and dropped.
    void close(Client& client) {
        if (!client.session.eof) calls_.drop_input(client.fd.get());
        calls_.close(client.fd, client.session.ending);
    }

    // Descriptors or memory are lacking, so the newcomer stays in the accept queue until a client
    // leaves, or for a second.
    void pause(int error) {
        paused_until_ = monotonic() + 1;
        narration_.narrate("pause", "reason=%s clients=%llu", errno_name(error),
                           narration_.counters.clients);
    }

    bool paused() const { return paused_until_ != 0; }

    // Tells the clients, once: what the kernel does not take is dropped.
    void stop() {
        for (auto& [fd, client] : clients_) {
            services_.say_goodbye(client.session);
            write_to(client);
            client.session.ending = "stop";
            close(client);
        }
    }

    Narration& narration_;
    Calls calls_{narration_};
    Services services_;
    std::vector<Listener> listeners_;
    std::map<int, Client> clients_;  // by descriptor
    std::vector<Client*> finished_;  // to be closed at the end of this round
    double paused_until_ = 0;        // 0: clients are accepted
    char buffer_[read_limit(Service::echo)];

    Rounds rounds_{narration_};
};

}  // namespace

int main(int argc, char* argv[]) {
    const Options options(argc, argv, 2, "02_nonblocking_busyloop");
    Narration narration(options);
    signals::catch_all(options);
    if (options.probe) return probe(narration);
    Server(narration).run();
    narration.stats();
}
