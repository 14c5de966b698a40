// coroutines: a client is one function again.
//
// Stage: 06_selector_callbacks
// Trouble: stage 6 cuts a conversation into callbacks. Each begins anew, and what it has to know of
//     those before it must be stored.
// Change: serve() reads as in stage 1, from the welcome to the last byte received. It is a
//     coroutine: where stage 1 sleeps, co_await suspends it, and the selector's callback resumes it
//     there. The loop, the selector, the outboxes and the close are those of stage 6.
// Costs: a frame on the heap for each client: with its handles, about 110 bytes. And how long a
//     thing lives can no longer be seen from the braces around it: a frame may keep a reference to
//     what is gone.
// Found in: the field: Python's asyncio, which is what comes after the documents' C4; Boost.Asio,
//     Seastar, Rust
// Try: make diff-coroutines. make variant-coroutines ARGS="-s poll". In a debugger, break in
//     read_from(), and look at the stack: run(), the callback, resume(), serve().
// You see: the same calls in the same order as in stage 6.
// Caught by: nobody

#include <coroutine>
#include <exception>
#include <map>
#include <utility>
#include <vector>

#include "calls.hpp"
#include "clients.hpp"
#include "deadlines.hpp"
#include "selector.hpp"
#include "signals.hpp"
#include "waits.hpp"

namespace {

// What a coroutine returns: a handle of its frame. The frame is on the heap, and holds its
// parameters, its locals, and where it is suspended.
struct [[nodiscard]] Task {
    struct promise_type {  // what the compiler looks for
        Task get_return_object() { return {Frame::from_promise(*this)}; }
        std::suspend_never initial_suspend() noexcept { return {}; }  // begins when it is called
        std::suspend_always final_suspend() noexcept { return {}; }   // the owner destroys it
        void return_void() {}
        // It would come out of resume(), and the coroutine would be over. serve() lets none out.
        void unhandled_exception() { std::terminate(); }
    };
    using Frame = std::coroutine_handle<promise_type>;
    Frame frame{};
};

struct Served : Client {
    using Client::Client;
    Task serving{};
    std::coroutine_handle<> suspended{};  // null while it runs, and when it is over

    // A frame that is never resumed again, and not destroyed either, is a leak.
    ~Served() {
        if (serving.frame) serving.frame.destroy();
    }

    // For the selector's callback only. A coroutine that resumed another one would lie below it on
    // the stack, and that one below the next: a chat of ten thousand is too deep for that.
    void resume() {
        if (suspended) std::exchange(suspended, nullptr).resume();
    }
};

// What `co_await Readable{client}` does. It registers nothing: the selector has been told what is
// wanted of the client, and that is to read it, unless its outbox is full.
struct Readable {
    Served& client;
    bool await_ready() const { return false; }  // always suspended: only the selector knows
    void await_suspend(std::coroutine_handle<> frame) { client.suspended = frame; }
    void await_resume() const {}
};

class Server {
public:
    explicit Server(Narration& narration) : narration_(narration) {
        for (const Port& port : narration.options.ports) {
            listeners_.push_back(open_listener(port, narration));
            // Though a wait reports a client first: it may be gone again before accept().
            calls_.set_nonblocking(listeners_.back().fd.get());
        }
        watch(signals::fd(), signals_watched_, readable, [](Events) {});
        watch_listeners(readable);
    }

    void run() {
        while (!signals::stopped(narration_)) {
            try {
                close_finished();
                for (const auto& [key, events] : wait()) {
                    serving_ = key->fd;
                    if (events & key->events) key->callback(events & key->events);
                }
            } catch (const std::bad_alloc&) {
                refuse(serving_, ENOMEM);
            }
        }
        stop();
    }

private:
    // ---- Which socket is next ------------------------------------------------------------------

    static_assert(readable == selectors::read && writable == selectors::write &&
                  urgent == selectors::urgent);

    // What is new is registered, together with what to do when it is ready.
    void watch(int fd, Events& watched, Events wanted, selectors::Callback callback = nullptr) {
        if (wanted == watched) return;
        narrate_watch(narration_, fd, wanted);
        try {
            if (wanted == nothing) selector_->unregister(fd);
            else if (watched != nothing) selector_->modify(fd, wanted);
            else selector_->register_fd(fd, wanted, std::move(callback));
            watched = wanted;
        } catch (const std::system_error& refused) {
            refuse(fd, refused.code().value());
        }
    }

    // Sleeps until a watched descriptor is ready, or the time limit is over.
    const selectors::ReadyList& wait() {
        const double before = narration_.stopwatch();
        try {
            selector_->select(deadlines_.left(narration_.options.timeout));
        } catch (const std::system_error& failed) {
            errno = failed.code().value();
        }
        const int error = errno;
        ready_.clear();
        for (const auto& [key, events] : selector_->ready()) ready_.push_back({key->fd, events});
        narrate_wait(narration_, selector_->call(), selector_->size(), ready_, selector_->walked(),
                     before, error);
        if (error == EINVAL) refuse(-1, EMFILE);  // the limit was lowered below our number
        else if (error && error != EINTR) signals::rest(1);  // out of memory: do not spin
        return selector_->ready();
    }

    // ---- What to do with it: the same text in stages 3, 4 and 5, nearly the same in 2 and 6 ----

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
        Served& client = clients_.try_emplace(fd, newcomer_, listener.service).first->second;
        serving_ = fd;
        narrate_watch(narration_, fd, client.wants());
        try {
            const auto ready = [this, &client](Events events) {
                if (events & urgent) calls_.recv_urgent(client.fd.get());
                if (events & readable) client.resume();
                if (events & writable) write_to(client);
                update(client);
            };
            client.watched = selector_->register_fd(fd, client.wants(), ready).events;
        } catch (const std::system_error& refused) {
            refuse(fd, refused.code().value());
        }
        // Runs until it is suspended. If there is no memory for its frame: see run().
        if (!client.finished) client.serving = serve(client);
    }

    // One client, from its first byte to its last. While it is suspended, run() serves the others;
    // what they say to this one is sent by send_answers() and by the callback.
    // The frame keeps the reference, not the client: what is passed must live as long as the frame.
    Task serve(Served& client) {
        try {
            services_.connect(client.session);
            send_answers();
            while (!client.session.eof) {
                co_await Readable{client};  // suspended until the client sends
                read_from(client);
            }
        } catch (const std::bad_alloc&) {
            refuse(client.fd.get(), ENOMEM);
        }
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
    // once, and an event that this round has not handled yet would reach the wrong client. And the
    // frame of its serve(), which is destroyed with it, may be the one that is running.
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
                watch(listener.fd.get(), listener.watched, wanted,
                      [this, &listener](Events) { accept_from(listener); });
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
    std::map<int, Served> clients_;  // by descriptor
    std::vector<Client*> finished_;  // to be closed when this round is over
    Deadlines deadlines_;
    Descriptor newcomer_{-1};  // accepted, and not a client yet
    int serving_ = -1;         // who is to end if memory runs out
    char buffer_[read_limit(Service::echo)];

    Events signals_watched_ = nothing;
    std::unique_ptr<selectors::Selector> selector_{selectors::make(narration_.options.selector)};
    std::vector<Ready> ready_;
};

}  // namespace

int main(int argc, char* argv[]) {
    const Options options(argc, argv, 6, "coroutines", selectors::names);
    Narration narration(options);
    signals::catch_all(options);
    narration.start();
    limit_descriptors(narration, options.selector == "select" ? FD_SETSIZE : RLIM_INFINITY);
    try {
        Server(narration).run();
    } catch (const std::system_error& refused) {
        options.fail(1, "%s", refused.what());  // no epoll
    }
    narration.stats();
}
