// Stage 5: epoll.
//
// The trouble with stage 4: the array of watched descriptors is ours, so every poll() copies all of
// it into the kernel, the kernel walks all of it, and so do we, to find the few that are ready:
// with ten thousand silent clients, ten thousand entries for one message.
//
// The one change: the kernel keeps the watched set. epoll_ctl() tells it what we want to know of a
// descriptor, once, and again only when that changes; epoll_wait() returns only what is ready.
// Level-triggered, as select and poll are: what is not dealt with is reported again.
//
// What it costs: a system call for each change, and Linux only.
//
// Try: make diff-5. make run-5 ARGS=-v, and count the epoll_ctl() calls of one connection: each
// `watch` line is one.

#include <map>
#include <vector>

#include <sys/epoll.h>

#include "calls.hpp"
#include "clients.hpp"
#include "deadlines.hpp"
#include "signals.hpp"
#include "waits.hpp"

namespace {

class Server {
public:
    explicit Server(Narration& narration) : narration_(narration) {
        if (epoll_.get() < 0) narration.options.fail(1, "no epoll: %s", errno_name(errno));
        for (const Port& port : narration.options.ports) {
            listeners_.push_back(open_listener(port, narration));
            // Though a wait reports a client first: it may be gone again before accept().
            calls_.set_nonblocking(listeners_.back().fd.get());
        }
        watch(signals::fd(), signals_watched_, readable);
        watch_listeners(readable);
    }

    void run() {
        while (!signals::stopped(narration_)) {
            try {
                close_finished();
                for (const Ready& ready : wait()) serve(ready);
            } catch (const std::bad_alloc&) {
                refuse(serving_, ENOMEM);
            }
        }
        stop();
    }

private:
    // ---- Which socket is next ------------------------------------------------------------------

    // The kernel keeps the watched set. It would forget a closed descriptor by itself, but not one
    // whose socket lives on in a copy (dup, fork).
    void watch(int fd, Events& watched, Events wanted) {
        if (wanted == watched) return;
        const int operation = watched == nothing  ? EPOLL_CTL_ADD
                              : wanted == nothing ? EPOLL_CTL_DEL
                                                  : EPOLL_CTL_MOD;
        epoll_event entry{.events = wanted, .data = {.fd = fd}};  // epoll's bits are poll's
        narrate_watch(narration_, fd, wanted);
        if (::epoll_ctl(epoll_.get(), operation, fd, &entry) < 0 && wanted != nothing)
            return refuse(fd, errno);  // ENOMEM, or ENOSPC (epoll_ctl(2))
        if (watched == nothing) ++watching_;
        if (wanted == nothing) --watching_;
        watched = wanted;
    }

    // Sleeps until a watched descriptor is ready, or the time limit is over.
    const std::vector<Ready>& wait() {
        constexpr int most = 256;  // what is beyond that is found in the next round
        epoll_event found[most];
        const double before = narration_.stopwatch();
        const int limit = milliseconds(deadlines_.left(narration_.options.timeout));
        const int count = ::epoll_wait(epoll_.get(), found, most, limit);
        const int error = count < 0 ? errno : 0;
        ready_.clear();
        for (int i = 0; i < count; ++i) ready_.push_back({found[i].data.fd, found[i].events});
        narrate_wait(narration_, "epoll_wait", watching_, ready_, 2 * ready_.size(), before, error);
        if (error && error != EINTR) signals::rest(1);  // out of memory: do not spin
        return ready_;
    }

    // ---- What to do with it: the same text in stages 3, 4 and 5, nearly the same in 2 and 6 ----

    // A listener or a client. (The signal pipe needs nothing here: run() checks stopped().)
    void serve(const Ready& ready) {
        serving_ = ready.fd;
        if (const auto found = clients_.find(ready.fd); found != clients_.end()) {
            Client& client = found->second;
            // The urgent byte is reported in every round until it is read.
            if (ready.events & urgent) calls_.recv_urgent(ready.fd);
            if (ready.events & (readable | hangup)) read_from(client);
            if (ready.events & (writable | hangup)) write_to(client);
            return update(client);
        }
        for (const Listener& listener : listeners_)
            if (listener.fd.get() == ready.fd) accept_from(listener);
    }

    // Accepts one client. Another one that waits is accepted in the next round.
    void accept_from(const Listener& listener) {
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
        update(client);
        if (!client.finished) services_.connect(client.session);
        send_answers();
    }

    // One bounded read: a client that never stops sending must not keep the others waiting.
    void read_from(Client& client) {
        if (!(client.watched & readable)) return;
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

    // Sends what the services have said, but not to clients that wait for writability already.
    void send_answers() {
        for (Session* session : services_.spoken_to) {
            Client& client = clients_.at(session->id);
            session->spoken_to = false;
            if (!(client.watched & writable)) write_to(client);
            update(client);
        }
        services_.spoken_to.clear();
    }

    // After anything that may have changed what is wanted of this client.
    void update(Client& client) {
        if (client.session.ending) lingering_close(client, calls_, deadlines_);
        const Events wanted = client.wants();
        watch(client.fd.get(), client.watched, wanted);
        if (wanted != nothing || client.finished) return;
        client.finished = true;
        client.session.end("eof");
        finished_.push_back(&client);
    }

    // When a round is over, not earlier: the number of a closed descriptor is handed out again at
    // once, and an event that this round has not handled yet would reach the wrong client.
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
        serving_ = -1;
        if (!deadlines_.paused() || (!room && monotonic() < deadlines_.retry)) return;
        deadlines_.retry = no_limit;
        narration_.narrate("resume", "clients=%llu", narration_.counters.clients);
        watch_listeners(readable);
    }

    void close(Client& client) {
        deadlines_.move(client, no_limit);
        watch(client.fd.get(), client.watched, nothing);
        calls_.close(client.fd, client.session.ending);
    }

    // Descriptors or memory are lacking for what `fd` needs (-1: the wait). A client ends;
    // newcomers wait for a second, or until a client leaves: a loop that watched their listener
    // would spin.
    void refuse(int fd, int error) {
        if (fd >= 0 && narration_.counters.waits == 0)
            narration_.options.fail(1, "cannot watch fd %d: %s", fd, errno_name(error));
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
        watch_listeners(nothing);
    }

    void watch_listeners(Events wanted) {
        for (Listener& listener : listeners_)
            if (wanted == nothing || !deadlines_.paused())  // by the one before
                watch(listener.fd.get(), listener.watched, wanted);
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

    const Descriptor epoll_{::epoll_create1(EPOLL_CLOEXEC)};
    Events signals_watched_ = nothing;
    std::size_t watching_ = 0;
    std::vector<Ready> ready_;
};

}  // namespace

int main(int argc, char* argv[]) {
    const Options options(argc, argv, 5, "05_epoll");
    Narration narration(options);
    signals::catch_all(options);
    narration.start();
    limit_descriptors(narration, RLIM_INFINITY);
    Server(narration).run();
    narration.stats();
}
