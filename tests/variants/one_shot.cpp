// one_shot: four threads wait on one epoll.
//
// Stage: 05_epoll
// Trouble: stage 5 has one thread, and so it uses one CPU, however many there are.
// Change: four threads sleep in epoll_wait() on the same epoll. Level-triggered, epoll would report
//     a client to the next thread while the first one has not read yet what came. So each
//     descriptor is armed with EPOLLONESHOT: it is reported once, to one thread, and that thread
//     arms it again (EPOLL_CTL_MOD) at the end of its step, for what is wanted then. This keeps a
//     client's bytes in order. It does not protect what the threads share: the room, and the
//     outbox of a member that others talk to. So one lock is over everything, and a thread gives
//     it up only in epoll_wait() and recv().
// Costs: an epoll_ctl() for each step and an epoll_wait() for each event; changes of thread; and
//     the lock, for which the threads wait where stage 5 just works. For work as little as echo's
//     that takes more CPU time than it saves (make bench).
// Found in: the documents, B5: epoll plus threads; epoll(7); the field: thread pools behind one
//     epoll
// Try: make variant-one_shot ARGS=-v, make client-5 in two other terminals, and ls /proc/PID/task
// You see: a `watch` line after each step of a client: it is armed again. (Seen by scenarios that
//     count epoll_ctl() calls, or let the first change fail, which is such a step now; that look
//     for several events in one wait, or for what one round does; in which two clients act at the
//     same moment, and the first is expected to be served first; and in which a signal comes before
//     the second wait, which another thread makes at once.)
// Caught by: message_cost, silent_clients, verbose, refused_change, one_round, both_at_once,
//     two_listeners_run_out, busy_room, last_words, false_names, stop_before_a_call

#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include <pthread.h>
#include <sys/epoll.h>

#include "calls.hpp"
#include "clients.hpp"
#include "deadlines.hpp"
#include "signals.hpp"
#include "waits.hpp"

namespace {

constexpr int number_of_threads = 4;  // one lock is over everything: more would only wait for it

// Beside what a descriptor is watched for: it was reported, to one thread, and will not be again
// before that thread arms it.
constexpr Events in_hand = EPOLLONESHOT;

class Server {
public:
    explicit Server(Narration& narration) : narration_(narration) {
        if (epoll_.get() < 0) narration.options.fail(1, "no epoll: %s", errno_name(errno));
        for (const Port& port : narration.options.ports) {
            listeners_.push_back(open_listener(port, narration));
            // Though a wait reports a client first: it may be gone again before accept().
            calls_.set_nonblocking(listeners_.back().fd.get());
        }
        ready_.reserve(1);  // an event that was taken must not be lost for lack of memory
        watch(signals::fd(), signals_watched_, readable);
        watch_listeners(readable);
    }

    // The main thread starts the others, which serve. It has all signals: what their handler sets
    // must not be read by another thread. The thread that finds the signal pipe ready wakes it.
    void run() {
        std::unique_lock lock(mutex_);  // nobody is served before all of them are there
        pthread_t threads[number_of_threads];
        sigset_t all, before;
        sigfillset(&all);
        ::pthread_sigmask(SIG_BLOCK, &all, &before);  // a new thread's mask is that of its maker
        for (pthread_t& thread : threads)
            if (const int error = ::pthread_create(&thread, nullptr, serve_on, this))
                narration_.options.fail(1, "no thread: %s", errno_name(error));
        ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
        while (!signals::stopped(narration_)) {
            watch(signals::fd(), signals_watched_, readable);
            look_.wait(lock, [this] { return std::exchange(signal_came_, false); });
        }
        stopping_ = true;  // and wake one thread, which wakes the next as it ends
        [[maybe_unused]] const ssize_t written = ::write(signals::pipe[1], "", 1);
        watch(signals::fd(), signals_watched_, readable);
        lock.unlock();
        for (const pthread_t thread : threads) ::pthread_join(thread, nullptr);
        stop();
    }

private:
    // ---- The threads ---------------------------------------------------------------------------

    static void* serve_on(void* server) {
        return static_cast<Server*>(server)->serve_on(), nullptr;
    }

    // Each thread. It holds the lock, but for the calls in wait() and recv().
    void serve_on() {
        const std::lock_guard lock(mutex_);
        while (!stopping_) {
            try {
                close_finished();
                serve(wait());
            } catch (const std::bad_alloc&) {
                refuse(serving_, ENOMEM);
            }
        }
        watch(signals::fd(), signals_watched_, readable);
    }

    // errno is that of the call.
    auto without_lock(auto call) {
        mutex_.unlock();
        const auto result = call();
        const int error = errno;
        mutex_.lock();
        errno = error;
        return result;
    }

    // ---- Which socket is next ------------------------------------------------------------------

    // The kernel keeps the watched set. It would forget a closed descriptor by itself, but not one
    // whose socket lives on in a copy (dup, fork).
    //
    // Each epoll_ctl() has a number, which comes back with the event. Between epoll_wait() and the
    // lock another thread may arm the same descriptor for more (then it is reported again), or
    // close it, and a newcomer gets it: an event with an old number is dropped.
    void watch(int fd, Events& watched, Events wanted) {
        if (wanted == watched) return;
        const int operation = watched == nothing  ? EPOLL_CTL_ADD
                              : wanted == nothing ? EPOLL_CTL_DEL
                                                  : EPOLL_CTL_MOD;
        const auto index = static_cast<std::size_t>(fd);
        if (index >= numbers_.size()) numbers_.resize(index + 1);
        const std::uint64_t number = ++numbers_[index];
        epoll_event entry{.events = wanted | EPOLLONESHOT, .data = {.u64 = number << 32 | index}};
        narrate_watch(narration_, fd, wanted);
        if (::epoll_ctl(epoll_.get(), operation, fd, &entry) < 0 && wanted != nothing)
            return refuse(fd, errno);  // ENOMEM, or ENOSPC (epoll_ctl(2))
        if (watched == nothing) ++watching_;
        if (wanted == nothing) --watching_;
        watched = wanted;
    }

    // Sleeps until a watched descriptor is ready, or the time limit is over. Takes one event: a
    // second one would wait for the first, though another thread sleeps.
    Ready wait() {
        epoll_event found{};
        const double before = narration_.stopwatch();
        // One thread sleeps until the first deadline, the others without a limit. A thread that
        // sets a nearer deadline comes here next, and then sleeps until that.
        const double left = deadlines_.left(narration_.options.timeout);
        const double until = monotonic() + left;
        const bool first = until < alarm_ - 0.001;
        if (first) alarm_ = until;
        const int limit = first ? milliseconds(left) : -1;
        const int count =
            without_lock([&] { return ::epoll_wait(epoll_.get(), &found, 1, limit); });
        const int error = count < 0 ? errno : 0;
        if (first && alarm_ == until) alarm_ = no_limit;
        const auto index = static_cast<std::uint32_t>(found.data.u64);
        const Ready ready{static_cast<int>(index), found.events};
        ready_.clear();
        if (count > 0) ready_.push_back(ready);
        narrate_wait(narration_, "epoll_wait", watching_, ready_, 2 * ready_.size(), before, error);
        if (error && error != EINTR) {  // out of memory: do not spin
            without_lock([] { return signals::rest(1), 0; });
            return {signals::fd(), nothing};  // such a wait does not report a signal
        }
        if (count > 0 && numbers_[index] == found.data.u64 >> 32) return ready;
        return {-1, nothing};
    }

    // ---- What to do with it --------------------------------------------------------------------

    // A listener, a client, or the signal pipe. It is this thread's until it is armed again.
    void serve(const Ready& ready) {
        serving_ = ready.fd;
        if (ready.fd == signals::fd()) {
            signals_watched_ |= in_hand;
            signal_came_ = true;
            return look_.notify_one();
        }
        if (const auto found = clients_.find(ready.fd); found != clients_.end()) {
            Client& client = found->second;
            client.watched |= in_hand;
            // The urgent byte is reported in every round until it is read.
            if (ready.events & urgent) calls_.recv_urgent(ready.fd);
            if (ready.events & (readable | hangup)) read_from(client);
            if (ready.events & (writable | hangup)) write_to(client);
            return update(client);
        }
        for (Listener& listener : listeners_) {
            if (listener.fd.get() != ready.fd) continue;
            listener.watched |= in_hand;
            accept_from(listener);
        }
        watch_listeners(readable);
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
        const ssize_t count = recv(client.fd.get(), read_limit(session.service));
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
        if (client.watched & in_hand && client.session.id != serving_)
            return;  // another thread is about to receive from it, and will come here
        if (client.session.ending) lingering_close(client, calls_, deadlines_);
        const Events wanted = client.wants();
        watch(client.fd.get(), client.watched, wanted);
        if (wanted != nothing || client.finished) return;
        client.finished = true;
        client.session.end("eof");
        finished_.push_back(&client);
    }

    // Between two steps, and so never in the middle of send_answers(). None of them is in hand: a
    // client is finished by the thread that has it, or while no thread has it.
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

    // As in calls.hpp, but without the lock meanwhile.
    ssize_t recv(int fd, std::size_t size) {
        Counters& counters = narration_.counters;
        ++counters.recv;
        const ssize_t count = without_lock([&] { return ::recv(fd, buffer_, size, 0); });
        const int error = count < 0 ? errno : 0;
        const bool again = error == EAGAIN || error == EWOULDBLOCK;
        if (again) ++counters.would_block;
        if (count >= 0) counters.bytes_in += static_cast<std::size_t>(count);
        if (count > 0 && narration_.narrating())
            narration_.narrate("recv", "fd=%d bytes=%zd data=%s", fd, count,
                               in_quotes({buffer_, static_cast<std::size_t>(count)}).c_str());
        else if (count == 0) narration_.narrate("recv", "fd=%d bytes=0", fd);
        else if (error && (!again || narration_.verbose()))
            narration_.narrate("recv", "fd=%d error=%s", fd, errno_name(error));
        errno = error;
        return count;
    }

    std::mutex mutex_;              // over all that is here, and over all clients
    std::condition_variable look_;  // the main thread is to look for signals
    bool signal_came_ = false;
    bool stopping_ = false;  // each thread is to end
    Narration& narration_;
    Calls calls_{narration_};
    Services services_;
    std::vector<Listener> listeners_;
    std::map<int, Client> clients_;  // by descriptor
    std::vector<Client*> finished_;  // to be closed when this step is over
    Deadlines deadlines_;
    Descriptor newcomer_{-1};  // accepted, and not a client yet
    // Each thread's: which descriptor it serves (a client, if memory runs out, is to end).
    static inline thread_local int serving_ = -1;
    static inline thread_local char buffer_[read_limit(Service::echo)];

    const Descriptor epoll_{::epoll_create1(EPOLL_CLOEXEC)};
    Events signals_watched_ = nothing;
    std::size_t watching_ = 0;
    std::vector<std::uint32_t> numbers_;  // by descriptor: of its last epoll_ctl()
    double alarm_ = no_limit;             // until when a thread sleeps at the most
    std::vector<Ready> ready_;
};

}  // namespace

int main(int argc, char* argv[]) {
    const Options options(argc, argv, 5, "one_shot");
    Narration narration(options);
    signals::catch_all(options);
    narration.start();
    limit_descriptors(narration, RLIM_INFINITY);
    Server(narration).run();
    narration.stats();
}
