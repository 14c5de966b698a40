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
#include "deadlines.hpp"
#include "probe.hpp"
#include "rounds.hpp"
#include "signals.hpp"

namespace {

class Server {
public:
    explicit Server(Narration& narration) : narration_(narration) {
        for (const Port& port : narration.options.ports) {
            listeners_.push_back(open_listener(port, narration));
            calls_.set_nonblocking(listeners_.back().fd.get());
        }
    }

    void run() {
        while (!signals::stopped(narration_)) {
            try {
                close_finished();
                try_all();
            } catch (const std::bad_alloc&) {
                refuse(serving_, ENOMEM);
            }
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
            serving_ = fd;
            read_from(client);
            write_to(client);
            update(client);
        }
    }

    // ---- What to do with it: the same text in stages 3, 4 and 5, nearly the same in 2 and 6 ----

    // Accepts one client. Another one that waits is accepted in the next round.
    void accept_from(const Listener& listener) {
        serving_ = listener.fd.get();
        if (deadlines_.paused()) return;
        finished_.reserve(clients_.size() + 1);  // so that to list it there takes no memory
        newcomer_ = Descriptor(calls_.accept(listener));
        const int fd = newcomer_.get();
        if (fd < 0 && !only_this_newcomer(errno)) refuse(listener.fd.get(), errno);
        if (fd < 0) return;
        calls_.set_nonblocking(fd);
        calls_.set_nodelay(fd);
        Client& client = clients_.try_emplace(fd, newcomer_, listener.service).first->second;
        serving_ = fd;
        services_.connect(client.session);
        send_answers();
    }

    // One bounded read: a client that never stops sending must not keep the others waiting.
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

    // Sends what waits in the outbox or, if nothing does, `bytes`. What the kernel leaves, waits.
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
        if (client.session.ending) lingering_close(client, calls_, deadlines_);
        if (client.wants() != nothing || client.finished) return;
        client.finished = true;
        client.session.end("eof");
        finished_.push_back(&client);
    }

    // When a round is over, not earlier: try_all() walks the clients, and none may be erased then.
    void close_finished() {
        while (Client* late = deadlines_.over()) {
            write_to(*late);  // the kernel reports room only when there is much of it
            update(*late);
        }
        // By index: telling the others that a member leaves may finish more of them.
        for (std::size_t i = 0; i < finished_.size(); ++i) {
            services_.leave(finished_[i]->session);
            send_answers();
        }
        const bool room = !finished_.empty();
        for (Client* client : finished_) {
            close(*client);
            clients_.erase(client->session.id);
        }
        finished_.clear();
        if (!deadlines_.paused() || (!room && monotonic() < deadlines_.retry)) return;
        deadlines_.retry = no_limit;
        narration_.narrate("resume", "clients=%llu", narration_.counters.clients);
    }

    void close(Client& client) {
        deadlines_.move(client, no_limit);
        calls_.close(client.fd, client.session.ending);
    }

    // Descriptors or memory are lacking for what `fd` (-1: the wait) needs. A client ends.
    // Newcomers stay in the accept queue until a client leaves, or for a second.
    void refuse(int fd, int error) {
        auto found = clients_.find(fd);
        if (fd < 0 && !clients_.empty()) found = std::prev(clients_.end());
        if (found != clients_.end()) {
            found->second.failed(error);
            update(found->second);
        }
        if (newcomer_.get() >= 0) calls_.close(newcomer_, errno_name(error));
        deadlines_.retry = monotonic() + 1;
        narration_.narrate("pause", "reason=%s clients=%llu", errno_name(error),
                           narration_.counters.clients);
    }

    // Once: what the kernel does not take is dropped. What has come is read: see linger_time.
    void stop() {
        for (auto& [fd, client] : clients_) {
            services_.say_goodbye(client.session);
            write_to(client);
            client.session.end("stop");
            if (!client.session.eof) calls_.recv(fd, buffer_, sizeof buffer_);
            close(client);
        }
    }

    Narration& narration_;
    Calls calls_{narration_};
    Services services_;
    std::vector<Listener> listeners_;
    std::map<int, Client> clients_;  // by descriptor
    std::vector<Client*> finished_;  // to be closed when this round is over
    Deadlines deadlines_;
    Descriptor newcomer_{-1};  // accepted, and not a client yet
    int serving_ = -1;         // who is to end if memory runs out
    char buffer_[read_limit(Service::echo)];

    Rounds rounds_{narration_};
};

}  // namespace

int main(int argc, char* argv[]) {
    const Options options(argc, argv, 2, "02_nonblocking_busyloop");
    Narration narration(options);
    signals::catch_all(options);
    narration.start();
    if (options.probe) return probe(narration);
    limit_descriptors(narration, RLIM_INFINITY);
    Server(narration).run();
    narration.stats();
}
