// threads: a thread for each client.
//
// Stage: 01_blocking
// Judged as: 4
// Trouble: stage 1 sleeps in one call for one client, and all others wait.
// Change: each client gets a thread of its own, which serves it as stage 1 does: it sleeps in
//     recv() until the client sends, and in send() until the kernel has room. The main thread
//     sleeps in poll() on the listeners. A chat member has two threads: while one sleeps in
//     recv(), the other one sends what the others say.
// Costs: a stack for each client and a change of thread for each message; and what is shared (the
//     room, the counters, the narration) needs a lock. The thread that runs holds it, those that
//     sleep in the kernel do not, as with Python's global interpreter lock. So only the system
//     calls themselves use the second CPU.
// Found in: the documents, B5: Python's socketserver with ThreadingMixIn; the field: databases,
//     and any server with few clients that work long
// Try: make variant-threads, make client-4 in two other terminals, and ls /proc/PID/task
// You see: the second client is answered at once, as in stage 4, and by the text of stage 1. No
//     outbox is watched for room: a thread that has much to send sleeps, and reads nothing
//     meanwhile. (Seen by scenarios that count waits, or look at what one round does, or for what
//     waits in an outbox: there are no rounds here, and no wait for clients. By one that reads the
//     counters right after an answer: a thread counts when its call is over. By those in which a
//     call fails that is made here before the client has said anything. By those with urgent bytes:
//     a thread in recv() is not told of them. By those that run out of memory or descriptors: each
//     newcomer takes a stack, and the stacks of ended threads are kept for the next ones. And by
//     ten thousand clients: more than there may be threads.)
// Caught by: message_cost, silent_clients, echo_late_reader, half_close_queued, flooder,
//     socket_flags, one_round, sleeping, limit_lowered, lingers, accept_fails_for_good,
//     one_client_fails, memory_after_a_burst, no_memory, ready_list, verbose, stop_before_a_call,
//     both_at_once, busy_room, events_for_the_dead, reset_unread, mute_reader_watched,
//     outbox_never_empty, told_no_more, ten_thousand_connects, clients_10000, urgent_data,
//     urgent_in_a_row, urgent_overtaken, quiet, last_words

#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include <malloc.h>
#include <poll.h>
#include <pthread.h>

#include "calls.hpp"
#include "signals.hpp"

namespace {

using Lock = std::unique_lock<std::mutex>;

constexpr std::size_t most_threads = 8192;
constexpr std::size_t stack_size = 256 * 1024;  // bytes of addresses; memory only where it is used
constexpr suseconds_t nap = 500'000;  // microseconds: the longest sleep in send(), or a stop waits

class Server;

struct Client {
    Server& server;
    Descriptor fd;
    Session session;
    pthread_t thread{}, writer{};       // 0: none
    bool sending = false;               // a thread sleeps in send() for it
    bool finished = false;              // its writer is to end
    std::condition_variable changed{};  // something of this client

    /// Takes `own` over.
    Client(Server& its, Descriptor& own, Service service)
        : server(its), fd(std::move(own)), session{service, fd.get()} {}
};

class Server {
public:
    explicit Server(Narration& narration) : narration_(narration) {
        for (const Port& port : narration.options.ports) {
            listeners_.push_back(open_listener(port, narration));
            // Though poll() reports a newcomer first: it may be gone again before accept().
            calls_.set_nonblocking(listeners_.back().fd.get());
        }
    }

    // The main thread: each newcomer gets a thread. Signals are handled here, and nowhere else.
    void run() {
        Lock lock(mutex_);
        while (!signals::stopped(narration_)) {
            try {
                for (const int ready : wait(lock))
                    for (const Listener& listener : listeners_)
                        if (listener.fd.get() == ready) accept_from(listener);
            } catch (const std::bad_alloc&) {
                pause(ENOMEM);
                rest(lock);
            }
            if (!paused() || monotonic() < retry_) continue;
            retry_ = no_limit;
            narration_.narrate("resume", "clients=%llu", narration_.counters.clients);
        }
        stopping_ = true;
        for (auto& [fd, client] : clients_) {
            ::shutdown(fd, SHUT_RD);  // its recv() returns now, or as soon as it is called
            client.changed.notify_all();
        }
        all_left_.wait(lock, [this] { return threads_ == 0; });
        lock.unlock();
        if (last_) ::pthread_join(*last_, nullptr);
    }

private:
    // ---- The main thread -----------------------------------------------------------------------

    bool paused() const { return retry_ != no_limit; }

    // Sleeps until somebody connects, a signal comes, or a time is over; what is ready.
    std::vector<int> wait(Lock& lock) {
        std::vector<pollfd> watched{{signals::fd(), POLLIN, 0}};
        for (const Listener& listener : listeners_)
            if (!paused()) watched.push_back({listener.fd.get(), POLLIN, 0});
        const double left = std::min(narration_.options.timeout, retry_ - monotonic());
        const double before = narration_.stopwatch();
        lock.unlock();
        const int count =
            ::poll(watched.data(), static_cast<nfds_t>(watched.size()), milliseconds(left));
        const int error = count < 0 ? errno : 0;
        lock.lock();
        constexpr std::size_t most = 16;  // are listed
        std::vector<int> ready;
        std::string on;
        for (const pollfd& entry : watched) {
            if (error || !entry.revents) continue;
            ready.push_back(entry.fd);
            if (ready.size() > most) continue;
            on += joined({on.empty() ? "" : ",", std::to_string(entry.fd), ":r"});
        }
        if (ready.size() > most) on += joined({",+", std::to_string(ready.size() - most)});
        ++narration_.counters.waits;
        narration_.counters.ready += ready.size();
        narration_.counters.scanned += 2 * watched.size();
        const double slept = monotonic() - before;
        if (error)
            narration_.narrate("wait", "call=poll watching=%zu error=%s slept=%.3f", watched.size(),
                               errno_name(error), slept);
        else
            narration_.narrate("wait", "call=poll watching=%zu ready=%zu on=%s slept=%.3f",
                               watched.size(), ready.size(), on.empty() ? "-" : on.c_str(), slept);
        if (error && error != EINTR) rest(lock);  // out of memory: do not spin
        return ready;
    }

    static void rest(Lock& lock) {
        lock.unlock();
        signals::rest(1);
        lock.lock();
    }

    void accept_from(const Listener& listener) {
        if (paused()) return;
        if (threads_ + 2 > most_threads) return pause(EAGAIN);  // the newcomer waits in the queue
        Descriptor fd(calls_.accept(listener));                 // does not sleep
        if (fd.get() < 0) {
            if (!only_this_newcomer(errno)) pause(errno);
            return;
        }
        calls_.set_nodelay(fd.get());
        const timeval longest{0, nap};
        ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &longest, sizeof longest);
        const int number = fd.get();
        int error = ENOMEM;
        try {
            Client& client =
                clients_.try_emplace(number, *this, fd, listener.service).first->second;
            services_.connect(client.session);  // here: members join in the order of accept()
            error = start(client.thread, client, [](void* own) -> void* {
                static_cast<Client*>(own)->server.serve(*static_cast<Client*>(own));
                return nullptr;
            });
            if (!error) return;
        } catch (const std::bad_alloc&) {}
        if (const auto found = clients_.find(number); found != clients_.end()) {
            services_.leave(found->second.session);
            tell();
            fd = std::move(found->second.fd);
            clients_.erase(found);
        }
        calls_.close(fd, errno_name(error));
        pause(error);
    }

    // Descriptors, memory or threads are lacking: newcomers stay in the accept queue for a second.
    void pause(int error) {
        retry_ = monotonic() + 1;
        narration_.narrate("pause", "reason=%s clients=%llu", errno_name(error),
                           narration_.counters.clients);
    }

    // 0, or the error.
    int start(pthread_t& thread, Client& client, void* (*what)(void*)) {
        pthread_attr_t how;
        sigset_t all, before;
        ::pthread_attr_init(&how);
        ::pthread_attr_setstacksize(&how, stack_size);
        sigfillset(&all);
        ::pthread_sigmask(SIG_BLOCK, &all, &before);  // the new thread has none of ours
        const int error = ::pthread_create(&thread, &how, what, &client);
        ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
        ::pthread_attr_destroy(&how);
        if (error) thread = {};
        else ++threads_;
        return error;
    }

    // ---- A client's thread: the text of stage 1, and a lock -------------------------------------

    // One client, from its first byte to its last.
    void serve(Client& client) {
        Lock lock(mutex_);
        Session& session = client.session;
        const bool chats = session.service == Service::chat;
        char buffer[read_limit(Service::echo)];
        try {
            if (chats && start(client.writer, client, [](void* own) -> void* {
                    static_cast<Client*>(own)->server.write(*static_cast<Client*>(own));
                    return nullptr;
                }))
                session.abandon("EAGAIN");
            tell();
            send_all(lock, client);
            while (!session.eof && !session.ending && !stopping_) {
                read_from(lock, client, buffer);
                send_all(lock, client);
            }
            if (session.ending && !session.eof) lingering_close(lock, client, buffer);
        } catch (const std::bad_alloc&) {
            session.abandon("ENOMEM");
        }
        if (session.eof && session.outbox.empty())
            session.end("eof");  // nothing more is said to it
        if (client.writer) end_writer(lock, client);
        const bool over = session.outbox.empty() && (session.eof || session.ending);
        if (!over) say_goodbye(client, buffer);  // a signal came first
        if (!stopping_) {                        // or all leave at once
            services_.leave(session);
            tell();
        }
        calls_.close(client.fd, session.ending ? session.ending : "eof");
        const std::optional<pthread_t> ended_before = std::exchange(last_, client.thread);
        if (!stopping_) clients_.erase(session.id);  // or the room still knows it
        if (--threads_ == 0) all_left_.notify_one();
        lock.unlock();
        if (ended_before) ::pthread_join(*ended_before, nullptr);  // so only one is ever left
    }

    void read_from(Lock& lock, Client& client, char* buffer) {
        Session& session = client.session;
        const std::size_t most = read_limit(session.service);
        const ssize_t count = recv(lock, client.fd.get(), buffer, most);
        if (stopping_ || session.eof) return;  // dropped meanwhile: a slow reader in the chat
        if (count > 0) {
            const std::string_view bytes(buffer, static_cast<std::size_t>(count));
            session.outbox.append(services_.receive(session, bytes));
        } else if (count == 0) {
            services_.end_of_input(session);  // not the end of our answer
        } else if (!try_again(errno)) {
            session.abandon(errno_name(errno));
        }
        tell();
    }

    // Returns when all is sent; in a chat, where its writer sends, when it may be read on.
    void send_all(Lock& lock, Client& client) {
        const Session& session = client.session;
        if (!client.writer) return send_waiting(lock, client);
        client.changed.wait(lock, [&] {
            return stopping_ || session.outbox.empty() ||
                   !(session.eof || session.ending || session.outbox.full());
        });
    }

    void send_waiting(Lock& lock, Client& client) {
        Session& session = client.session;
        double until = 0;
        while (!session.outbox.empty() && !stopping_) {
            if (!until || !session.ending) until = monotonic() + linger_time;
            const std::string bytes(session.outbox.waiting());  // while we sleep more may be said
            client.sending = true;
            const ssize_t count = send(lock, client.fd.get(), bytes);
            client.sending = false;
            if (session.outbox.empty()) break;  // dropped meanwhile: a slow reader in the chat
            if (count > 0) until = monotonic() + linger_time;
            if (count >= 0) session.outbox.sent_of(bytes, static_cast<std::size_t>(count));
            else if (!try_again(errno)) failed_to_send(session, errno);
            else if (session.ending && monotonic() > until) session.abandon("slow_reader");
        }
    }

    // A chat member that sent a line and closed answers our next send() with a reset. Its line may
    // still be unread: what waits for it is dropped, and it is read on.
    void failed_to_send(Session& session, int error) {
        const bool reads_on = session.service == Service::chat && !session.eof && !session.ending;
        if (reads_on && (error == EPIPE || error == ECONNRESET)) session.outbox.clear();
        else session.abandon(errno_name(error));
    }

    // Its last words are sent, and it has not ended its input: see linger_time.
    void lingering_close(Lock& lock, Client& client, char* buffer) {
        if (!client.session.outbox.empty()) return;  // a signal came first
        calls_.shutdown(client.fd.get());
        calls_.limit_sleep(client.fd.get());
        const double until = monotonic() + linger_time;
        while (!client.session.eof && monotonic() < until && !stopping_)
            read_from(lock, client, buffer);
    }

    // Once, and without sleeping: a server that stops does not wait for a client.
    void say_goodbye(Client& client, char* buffer) {
        services_.say_goodbye(client.session);
        client.session.ending = "stop";
        calls_.set_nonblocking(client.fd.get());
        if (!client.session.outbox.empty())
            calls_.send(client.fd.get(), client.session.outbox.waiting());
        if (!client.session.eof)  // or close() sends a reset
            calls_.recv(client.fd.get(), buffer, read_limit(Service::echo));
    }

    // ---- What the others say: a chat member's second thread -------------------------------------

    void write(Client& client) {
        Lock lock(mutex_);
        while (!client.finished) {
            try {
                send_waiting(lock, client);
            } catch (const std::bad_alloc&) {
                client.session.abandon("ENOMEM");
            }
            if (client.session.eof && client.session.ending)  // it has been given up
                ::shutdown(client.fd.get(), SHUT_RD);         // wakes its other thread
            client.changed.notify_all();
            client.changed.wait(lock, [&] {
                return client.finished || (!client.session.outbox.empty() && !stopping_);
            });
        }
    }

    void end_writer(Lock& lock, Client& client) {
        client.finished = true;
        client.changed.notify_all();
        lock.unlock();
        ::pthread_join(client.writer, nullptr);
        lock.lock();
        --threads_;
    }

    // Sends what was said to members of the chat, as far as there is room: the rest is for their
    // writers. Not all of it, or one who talks without end would fill all outboxes before any
    // writer gets the lock. Wakes both threads of those who are dropped.
    void tell() {
        for (Session* session : services_.spoken_to) {
            session->spoken_to = false;
            Client& client = clients_.at(session->id);
            if (client.writer && !client.sending && !session->outbox.empty()) send_now(client);
            if (session->eof && session->ending && session->outbox.empty())
                ::shutdown(session->id, SHUT_RDWR);
            client.changed.notify_all();
        }
        services_.spoken_to.clear();
    }

    void send_now(Client& client) {
        Session& session = client.session;
        const std::string_view bytes = session.outbox.waiting();
        ++narration_.counters.send;
        const ssize_t result = ::send(client.fd.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
        const ssize_t count = sent(client.fd.get(), bytes, result, errno);
        if (count >= 0) session.outbox.sent_of(bytes, static_cast<std::size_t>(count));
        else if (!try_again(errno)) failed_to_send(session, errno);
    }

    // ---- The two calls that sleep: as in calls.hpp, but without the lock meanwhile --------------

    ssize_t recv(Lock& lock, int fd, char* buffer, std::size_t size) {
        ++narration_.counters.recv;
        lock.unlock();
        const ssize_t count = ::recv(fd, buffer, size, 0);  // sleeps until the client sends
        const int error = errno;
        lock.lock();
        if (count < 0) return failed("recv", fd, error);
        const std::string_view bytes(buffer, static_cast<std::size_t>(count));
        narration_.counters.bytes_in += bytes.size();
        if (narration_.narrating())
            narration_.narrate("recv", "fd=%d bytes=%zd%s%s", fd, count, count ? " data=" : "",
                               count ? in_quotes(bytes).c_str() : "");
        return count;
    }

    ssize_t send(Lock& lock, int fd, std::string_view bytes) {
        ++narration_.counters.send;
        lock.unlock();
        const ssize_t count = ::send(fd, bytes.data(), bytes.size(), 0);  // until there is room
        const int error = errno;
        lock.lock();
        return sent(fd, bytes, count, error);
    }

    ssize_t sent(int fd, std::string_view bytes, ssize_t count, int error) {
        if (count < 0) return failed("send", fd, error);
        const std::size_t left = bytes.size() - static_cast<std::size_t>(count);
        narration_.counters.bytes_out += static_cast<std::size_t>(count);
        if (narration_.narrating())
            narration_.narrate("send", "fd=%d bytes=%zd%s", fd, count,
                               left ? joined({" left=", std::to_string(left)}).c_str() : "");
        return count;
    }

    int failed(const char* call, int fd, int error) {
        const bool again = error == EAGAIN || error == EWOULDBLOCK;
        if (again) ++narration_.counters.would_block;
        if (!again || narration_.verbose())
            narration_.narrate(call, "fd=%d error=%s", fd, errno_name(error));
        errno = error;
        return -1;
    }

    std::mutex mutex_;  // over all that is here, and over all clients
    Narration& narration_;
    Calls calls_{narration_};
    Services services_;
    std::vector<Listener> listeners_;
    std::map<int, Client> clients_;  // by descriptor
    std::size_t threads_ = 0;
    double retry_ = no_limit;  // when to accept again, after a pause
    bool stopping_ = false;    // a signal came: each thread ends now
    std::condition_variable all_left_;
    std::optional<pthread_t> last_;  // of the threads that have ended; not joined yet
};

}  // namespace

int main(int argc, char* argv[]) {
    const Options options(argc, argv, 4, "threads");
    Narration narration(options);
    signals::catch_all(options);
    // All memory is asked for with the lock held: heaps for several threads only waste some.
    ::mallopt(M_ARENA_MAX, 1);
    narration.start();
    limit_descriptors(narration, RLIM_INFINITY);
    Server(narration).run();
    narration.stats();
}
