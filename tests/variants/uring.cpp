// uring: operations are handed in, and the kernel tells when they are done.
//
// Stage: 05_epoll
// Trouble: epoll tells that a recv() would not sleep now; the call is still to be made. So a
//     message costs two system calls, recv() and send(), and a part of a third one.
// Change: completions in place of readiness. The program and the kernel share two queues: into one
//     the program writes what is to be done (accept, recv, send), in the other it finds what has
//     been done. One system call, io_uring_enter(), hands in all that was written, and waits.
// Costs: what is under way belongs to the kernel. A buffer may not be freed, nor moved, and a
//     client not be closed, before all that was handed in for it has come back. No operation is
//     free: each is kept in a request, a recv that has to wait is entered in the socket's wait
//     queue, and both are undone when data comes. So it costs what it saves, or more, where the way
//     into the kernel is short (NOTES.md, "What they cost", has the figures). A recv that stays
//     under way for all that comes (IORING_RECV_MULTISHOT) took 3 to 6 % off when it was tried,
//     and reads on though its client's outbox is full: it is not used here. And the system has to
//     allow io_uring: many containers do not.
// Found in: the field: Seastar, TigerBeetle, Netty
// Try: make variant-uring ARGS=-q, make client-5, and strace -p PID. URING=5.19, 5.11 or 5.10 in
//     its environment: it does without what came later than that version of Linux
// You see: two calls of io_uring_enter() for a message, but not many more for twenty at once.
//     (Seen by scenarios in which accept(), recv(), send(), epoll_wait() or epoll_ctl() fail, or
//     which raise a signal in one: they are not called. No socket is set non-blocking, as no call
//     sleeps in it. The limit of descriptors is that of the time when the accept was handed in.
//     A recv under way passes over an urgent byte, before anybody could fetch it: so nothing is
//     watched for those. The lines stand in the order in which the operations were done, and that
//     of a send comes with its completion: a client may have the bytes a moment before the line is
//     there. And the lines name another stage and another call.)
// Caught by: socket_flags, no_room_at_all, limit_raised, accept_fails_once, accept_fails_for_good,
//     one_client_fails, wait_fails, refused_watch, refused_change, refused_listener,
//     faults_at_the_start, ready_list, verbose, stop_before_a_call, both_at_once, told_no_more,
//     stop_before_the_answer, a_signal_and_an_error, stop_while_it_rests, urgent_data,
//     urgent_in_a_row, urgent_overtaken

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#if __has_include(<linux/io_uring.h>)
#include <linux/io_uring.h>
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#error "io_uring wants the headers of Linux 6.1 or later"
#endif
#include <linux/time_types.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "calls.hpp"
#include "clients.hpp"
#include "deadlines.hpp"
#include "signals.hpp"
#include "waits.hpp"

namespace {

// ---- The ring: two queues in memory that the program shares with the kernel ---------------------

/// For tests: the version of Linux that URING names, 5.11 as 511. What is newer is not used.
int kernel_wanted() {
    const char* text = std::getenv("URING");
    int major = 0, minor = 0;
    return text && std::sscanf(text, "%d.%d", &major, &minor) == 2 ? 100 * major + minor : 10'000;
}

/// What has been done: of which operation (its tag), what the call would have returned (-EAGAIN in
/// place of -1 and errno), and flags.
struct Completion {
    std::uint64_t tag = 0;
    int result = 0;
    unsigned flags = 0;
};

/// Each queue is an array whose size is a power of two, with two counters that only grow: who adds
/// moves the tail, who takes moves the head. The release and the acquire are for the other side: it
/// must not see the new counter before the entry.
class Ring {
public:
    Ring(const Options& options, int kernel) {
        constexpr unsigned newest = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
        io_uring_params made{};
        // The newest that the kernel knows: when data comes, it goes on with a recv in our next
        // enter() only, all of them at once (6.1); or in our next system call (5.19); or it
        // interrupts the program for that.
        for (const unsigned flags : {newest, IORING_SETUP_COOP_TASKRUN, 0U}) {
            if (kernel < (flags == newest ? 601 : flags ? 519 : 0)) continue;
            made = {};
            made.flags = flags | IORING_SETUP_CQSIZE;
            made.cq_entries = completions;
            fd_ = Descriptor(static_cast<int>(::syscall(SYS_io_uring_setup, submissions, &made)));
            if (fd_.get() >= 0 || errno != EINVAL) break;
        }
        const bool missing = errno == ENOSYS || errno == EPERM || errno == EACCES;
        if (fd_.get() < 0) options.fail(missing ? 77 : 1, "no io_uring: %s", std::strerror(errno));
        takes_limit_ = (made.features & IORING_FEAT_EXT_ARG) && kernel >= 511;
        const auto end =
            std::max<std::size_t>(made.sq_off.array + made.sq_entries * sizeof(unsigned),
                                  made.cq_off.cqes + made.cq_entries * sizeof(io_uring_cqe));
        char* const shared = static_cast<char*>(map(options, end, IORING_OFF_SQ_RING));
        const auto counter = [&](unsigned at) { return reinterpret_cast<unsigned*>(shared + at); };
        sq_head_ = counter(made.sq_off.head);
        sq_tail_ = counter(made.sq_off.tail);
        sq_size_ = made.sq_entries;
        cq_head_ = counter(made.cq_off.head);
        cq_tail_ = counter(made.cq_off.tail);
        cq_mask_ = made.cq_entries - 1;
        done_ = reinterpret_cast<io_uring_cqe*>(shared + made.cq_off.cqes);
        entries_ = static_cast<io_uring_sqe*>(
            map(options, sq_size_ * sizeof(io_uring_sqe), IORING_OFF_SQES));
        // The submission queue proper holds numbers of entries; ours never change.
        for (unsigned i = 0; i < sq_size_; ++i) counter(made.sq_off.array)[i] = i;
    }

    int fd() const { return fd_.get(); }

    /// How many operations are written, and not handed in.
    unsigned written() const {
        return tail_ - std::atomic_ref(*sq_head_).load(std::memory_order_acquire);
    }

    bool full() const { return written() == sq_size_; }

    /// The next entry, empty. Not if full().
    io_uring_sqe& write(std::uint8_t operation, int fd, std::uint64_t tag) {
        io_uring_sqe& entry = entries_[tail_++ & (sq_size_ - 1)];
        entry = {};
        entry.opcode = operation;
        entry.fd = fd;
        entry.user_data = tag;
        return entry;
    }

    /// Hands in what is written, and waits: until there are `least` completions, so long at most.
    /// Returns what the call returns; what it has done shows in the queues, whatever that is.
    int enter(unsigned flags, unsigned least = 0, double seconds = no_limit) {
        io_uring_getevents_arg limit{};
        const void* argument = nullptr;
        if (least > 0 && seconds != no_limit) {
            const double left = std::max(seconds, 0.0);
            time_.tv_sec = static_cast<long long>(left);
            time_.tv_nsec = static_cast<long long>((left - std::floor(left)) * 1e9);
            if (takes_limit_) {
                flags |= IORING_ENTER_EXT_ARG;
                limit.ts = reinterpret_cast<std::uintptr_t>(&time_);
                argument = &limit;
            } else if (!full()) {  // an operation more, which is over as soon as another one is
                io_uring_sqe& timer = write(IORING_OP_TIMEOUT, -1, 0);
                timer.addr = reinterpret_cast<std::uintptr_t>(&time_);
                timer.len = 1;
                timer.off = 1;
            } else {
                least = 0;
            }
        }
        std::atomic_ref(*sq_tail_).store(tail_, std::memory_order_release);
        return static_cast<int>(::syscall(SYS_io_uring_enter, fd(), written(), least, flags,
                                          argument, argument ? sizeof limit : 0));
    }

    /// The oldest completion that is still in the queue; false if there is none.
    bool peek(Completion& completion) const {
        if (head_ == std::atomic_ref(*cq_tail_).load(std::memory_order_acquire)) return false;
        const io_uring_cqe& entry = done_[head_ & cq_mask_];
        completion = {entry.user_data, entry.res, entry.flags};
        return true;
    }

    void pop() { std::atomic_ref(*cq_head_).store(++head_, std::memory_order_release); }

private:
    void* map(const Options& options, std::size_t size, off_t what) const {
        void* const memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                                    MAP_SHARED | MAP_POPULATE, fd_.get(), what);
        if (memory == MAP_FAILED) options.fail(1, "no io_uring: %s", std::strerror(errno));
        return memory;
    }

    static constexpr unsigned submissions = 256, completions = 4096;

    Descriptor fd_{-1};
    bool takes_limit_ = false;  // in enter(), since 5.11
    __kernel_timespec time_{};  // that limit
    unsigned tail_ = 0;         // of the submissions; the kernel is told in enter()
    unsigned head_ = 0;         // of the completions
    unsigned *sq_head_ = nullptr, *sq_tail_ = nullptr, sq_size_ = 0;
    unsigned *cq_head_ = nullptr, *cq_tail_ = nullptr, cq_mask_ = 0;
    io_uring_cqe* done_ = nullptr;
    io_uring_sqe* entries_ = nullptr;
};

/// Buffers of which the kernel takes one when data has come, not before: a client that says nothing
/// has none. (Since 5.19. Before that each client has one of its own.)
class Buffers {
public:
    static constexpr std::size_t size = read_limit(Service::echo);
    static constexpr unsigned most = 128;  // 2 MiB in all; the kernel wants a power of two

    /// False if the kernel does not know of this.
    bool lend_to(const Ring& ring) {
        constexpr std::size_t all = most * size, list = most * sizeof(io_uring_buf);
        void* const memory =
            ::mmap(nullptr, all + list, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) return false;
        bytes_ = static_cast<char*>(memory);
        list_ = reinterpret_cast<io_uring_buf_ring*>(bytes_ + all);
        io_uring_buf_reg where{};
        where.ring_addr = reinterpret_cast<std::uintptr_t>(list_);
        where.ring_entries = most;
        if (::syscall(SYS_io_uring_register, ring.fd(), IORING_REGISTER_PBUF_RING, &where, 1) < 0) {
            ::munmap(memory, all + list);
            return false;
        }
        add(32);
        return true;
    }

    /// As few as will do: those that were used just now are in the processor's cache.
    void add(int more) {
        for (; more > 0 && count_ < static_cast<int>(most); --more) give_back(count_++);
    }

    const char* at(int number) const { return bytes_ + static_cast<std::size_t>(number) * size; }

    void give_back(int number) {
        // The list's tail lies in its first entry, in a field that no entry uses.
        auto* const entries = reinterpret_cast<io_uring_buf*>(list_);
        io_uring_buf& entry = entries[tail_ & (most - 1)];
        entry.addr = reinterpret_cast<std::uintptr_t>(at(number));
        entry.len = size;
        entry.bid = static_cast<std::uint16_t>(number);
        std::atomic_ref(list_->tail).store(++tail_, std::memory_order_release);
    }

private:
    char* bytes_ = nullptr;
    io_uring_buf_ring* list_ = nullptr;
    std::uint16_t tail_ = 0;
    int count_ = 0;
};

// ---- What is under way, and for whom ------------------------------------------------------------

/// An operation's tag: the address of whom it is for, and in the three low bits what it is.
enum What : std::uint64_t { nobody, signalled, accepted, received, tried, sent };

std::uint64_t tag(What what, const void* whose) {
    return reinterpret_cast<std::uintptr_t>(whose) | what;
}

What what_of(const Completion& done) { return static_cast<What>(done.tag & 7); }

template <typename Whose>
Whose& whose(const Completion& done) {
    return *reinterpret_cast<Whose*>(done.tag & ~std::uint64_t{7});
}

struct Door : Listener {
    bool accepting = false;  // an accept is under way
    std::size_t place = 0;   // in the ready list

    explicit Door(Listener&& opened) : Listener(std::move(opened)) {}
};

/// A client, and what the kernel has of it. As long as any of the first three is true, it may not
/// be freed, and what the operation works on stays where it is.
struct Peer : Client {
    using Client::Client;

    bool receiving = false;  // a recv, until something comes
    bool trying = false;     // a send of what there is room for
    bool sending = false;    // a send of `copy`, as soon as there is room

    bool queued = false;            // for a send to be tried
    std::string_view echo{};        // to be sent straight from the buffer that it was received in
    int buffer = -1;                // the number of that buffer
    std::string copy{};             // of what waits in the outbox
    std::unique_ptr<char[]> own{};  // to receive into, where there are no Buffers
    std::size_t place = 0;          // in the ready list

    bool under_way() const { return receiving || trying || sending; }
    std::string_view words() const { return echo.empty() ? session.outbox.waiting() : echo; }
    bool untried() const { return trying || (queued && !words().empty()); }
};

class Server {
public:
    explicit Server(Narration& narration) : narration_(narration) {
        doors_.reserve(narration.options.ports.size());  // the kernel is told where each of them is
        for (const Port& port : narration.options.ports)
            doors_.emplace_back(open_listener(port, narration));
        narrate_watch(narration_, signals::fd(), readable);
        watch_doors(readable);
    }

    void run() {
        while (!signals::stopped(narration_)) {
            try {
                if (next_ == round_) {
                    submit();
                    close_finished();
                    wait();
                }
                // If memory runs out, the loop comes back here for the rest of the round: a wait
                // tells once what is done.
                while (next_ < round_) serve_next();
            } catch (const std::bad_alloc&) {
                refuse(serving_, ENOMEM);
            }
        }
        stop();
    }

private:
    // ---- What is handed in ---------------------------------------------------------------------

    io_uring_sqe& write(std::uint8_t operation, int fd, std::uint64_t tag) {
        while (ring_.full()) hand_in();
        return ring_.write(operation, fd, tag);
    }

    void accept(Door& door) {
        io_uring_sqe& entry = write(IORING_OP_ACCEPT, door.fd.get(), tag(accepted, &door));
        if (lends_) entry.ioprio = IORING_ACCEPT_MULTISHOT;  // once, for all who will come
        door.accepting = true;
    }

    void receive(Peer& peer) {
        io_uring_sqe& entry = write(IORING_OP_RECV, peer.fd.get(), tag(received, &peer));
        entry.len = static_cast<unsigned>(read_limit(peer.session.service));
        if (lends_) {
            entry.flags = IOSQE_BUFFER_SELECT;
            entry.ioprio = IORING_RECVSEND_POLL_FIRST;  // do not look now: it has just been read
        } else {
            entry.addr = reinterpret_cast<std::uintptr_t>(peer.own.get());
        }
        peer.receiving = true;
    }

    io_uring_sqe& send(Peer& peer, What what, std::string_view bytes) {
        io_uring_sqe& entry = write(IORING_OP_SEND, peer.fd.get(), tag(what, &peer));
        entry.addr = reinterpret_cast<std::uintptr_t>(bytes.data());
        entry.len = static_cast<unsigned>(bytes.size());
        return entry;
    }

    // What waits for it is to be sent when this round is over.
    void queue(Peer& peer) {
        if (peer.queued || peer.trying || peer.sending) return;
        to_send_.push_back(&peer);
        peer.queued = true;
    }

    // As send() on a non-blocking socket: MSG_DONTWAIT, so it is done as soon as it is handed in.
    // The outbox has to stay where it is for that long only.
    void try_to_send(Peer& peer) {
        peer.queued = false;
        if (peer.words().empty()) return;
        send(peer, tried, peer.words()).msg_flags = MSG_DONTWAIT;
        peer.trying = true;
    }

    // Done as soon as there is room. Until then more may be said to this client, and an outbox that
    // grows is moved in memory: so the kernel gets a copy.
    void send_when_there_is_room(Peer& peer) {
        peer.copy = peer.session.outbox.waiting().substr(0, 64 * 1024);
        io_uring_sqe& entry = send(peer, sent, peer.copy);
        if (lends_) entry.ioprio = IORING_RECVSEND_POLL_FIRST;
        peer.sending = true;
    }

    // The operation comes back all the same: with -ECANCELED, or done before.
    void cancel(What what, const void* whose) {
        write(IORING_OP_ASYNC_CANCEL, -1, 0).addr = tag(what, whose);
        cancelling_ = true;
    }

    void cancel(const Peer& peer) {
        if (peer.receiving) cancel(received, &peer);
        if (peer.sending) cancel(sent, &peer);
    }

    void hand_in(unsigned flags = 0, unsigned least = 0) {
        const bool lacking = ring_.enter(flags, least) < 0 && errno != EINTR && errno != EBUSY;
        gather();
        if (lacking) signals::rest(0.01);  // memory, in the kernel: do not spin
    }

    // Takes what is done out of the shared queue, so that there is always room in it. (What finds
    // none is kept by the kernel; before 5.14 it takes nothing in meanwhile, and says EBUSY.)
    void gather() {
        try {
            for (Completion done; ring_.peek(done); ring_.pop())
                if (what_of(done) != nobody) completions_.push_back(done);
        } catch (const std::bad_alloc&) {}  // no memory: it stays there for now
    }

    // Hands in all that this round has to send, in one call, and looks what came of it. Whatever
    // else is done by then is told by the next wait.
    void submit() {
        if (to_send_.empty() && !cancelling_) return;
        const std::size_t before = completions_.size();
        for (Peer* peer : to_send_) try_to_send(*peer);
        to_send_.clear();
        do hand_in(cancelling_ ? IORING_ENTER_GETEVENTS : 0);
        while (ring_.written() > 0);
        cancelling_ = false;
        for (std::size_t i = before; i < completions_.size(); ++i) {
            const Completion done = completions_[i];
            const What what = what_of(done);
            const bool of_peer = what == received || what == sent;
            if (what != tried && !(of_peer && whose<Peer>(done).finished)) continue;
            completions_[i].tag = nobody;
            serve(done);
        }
        const auto begin = completions_.begin() + static_cast<std::ptrdiff_t>(before);
        completions_.erase(
            std::remove_if(begin, completions_.end(),
                           [](const Completion& done) { return what_of(done) == nobody; }),
            completions_.end());
    }

    // ---- What is done --------------------------------------------------------------------------

    // Sleeps until an operation is done, or the time limit is over.
    void wait() {
        completions_.erase(completions_.begin(),
                           completions_.begin() + static_cast<std::ptrdiff_t>(next_));
        next_ = round_ = 0;
        if (!polling_)
            write(IORING_OP_POLL_ADD, signals::fd(), tag(signalled, this)).poll32_events = POLLIN;
        polling_ = true;
        const double before = narration_.stopwatch();
        const double limit = deadlines_.left(narration_.options.timeout);
        int error = 0;
        if (completions_.empty() || ring_.written() > 0) {
            const bool sleeps = completions_.empty() && limit > 0;
            if (ring_.enter(IORING_ENTER_GETEVENTS, sleeps ? 1 : 0, limit) < 0) error = errno;
            gather();
        }
        // It does not say EINTR, nor ETIME, if it has handed in something.
        if (completions_.empty() && !error) error = limit == no_limit ? EINTR : ETIME;
        if (error == EINTR)
            hand_in(IORING_ENTER_GETEVENTS);  // a signal: its handler has written to the pipe
        round_ = completions_.size();
        ready_.clear();
        for (const Completion& done : completions_) list(done);
        if (error == ETIME || error == EBUSY || round_ > 0) error = 0;
        narrate_wait(narration_, "io_uring_enter", watching_, ready_, 2 * ready_.size(), before,
                     error);
        if (error && error != EINTR) signals::rest(1);  // out of memory: do not spin
    }

    void list(const Completion& done) {
        const bool fails = done.result < 0 && done.result != -ENOBUFS;
        const Events failed = fails ? hangup : nothing;
        switch (what_of(done)) {
        case signalled: return list(signals::fd(), place_, readable);
        case accepted: return list(whose<Door>(done), readable);
        case received: return list(whose<Peer>(done), readable | failed);
        case sent: return list(whose<Peer>(done), writable | failed);
        default: return;
        }
    }

    // Not if it comes back only because it was cancelled.
    void list(auto& whose, Events events) {
        if (whose.watched != nothing) list(whose.fd.get(), whose.place, events);
    }

    // Each descriptor once.
    void list(int fd, std::size_t& place, Events events) {
        if (place >= ready_.size() || ready_[place].fd != fd) {
            place = ready_.size();
            ready_.push_back({fd, nothing});
        }
        ready_[place].events |= events;
    }

    void serve_next() {
        const Completion done = completions_[next_++];  // others may be added meanwhile
        serve(done);
    }

    void serve(const Completion& done) {
        switch (what_of(done)) {
        case signalled: polling_ = false; return;  // run() checks stopped()
        case accepted: return accept_from(whose<Door>(done), done);
        case received: return read_from(whose<Peer>(done), done);
        case tried:
        case sent: return sent_to(whose<Peer>(done), done);
        case nobody: return;
        }
    }

    // ---- What to do with it: nearly the text of the stages --------------------------------------

    // A newcomer is there, or there will be none: no descriptor was to be had, or it was cancelled.
    void accept_from(Door& door, const Completion& done) {
        serving_ = door.fd.get();
        door.accepting = done.flags & IORING_CQE_F_MORE;
        const int error = done.result < 0 ? -done.result : 0;
        if (stopping_) {
            if (!error) ::close(done.result);
            return;
        }
        if (error && error != ECANCELED) {
            ++narration_.counters.accept;
            failed("accept", door.fd.get(), error);
            if (!only_this_newcomer(error) && !deadlines_.paused()) refuse(door.fd.get(), error);
        } else if (!error) {
            admit(Descriptor(done.result), door.service);
        }
        if (door.watched != nothing && !door.accepting) accept(door);
    }

    void admit(Descriptor own, Service service) {
        newcomer_ = std::move(own);
        const int fd = newcomer_.get();
        count_accept(fd, service);
        finished_.reserve(clients_.size() + 1);  // so that to list it there takes no memory
        to_send_.reserve(clients_.size() + 1);
        calls_.set_nodelay(fd);
        Peer& peer = clients_.try_emplace(fd, newcomer_, service).first->second;
        serving_ = fd;
        if (!lends_) peer.own = std::make_unique_for_overwrite<char[]>(read_limit(service));
        update(peer);
        services_.connect(peer.session);
        send_answers();
    }

    void read_from(Peer& peer, const Completion& done) {
        serving_ = peer.fd.get();
        peer.receiving = false;
        if (done.flags & IORING_CQE_F_BUFFER)
            peer.buffer = static_cast<int>(done.flags >> IORING_CQE_BUFFER_SHIFT);
        const char* const from = peer.buffer < 0 ? peer.own.get() : buffers_.at(peer.buffer);
        const std::string_view bytes(from, static_cast<std::size_t>(std::max(done.result, 0)));
        if (done.result == -ENOBUFS) buffers_.add(1);  // all are taken: try again
        const bool tells = done.result != -ECANCELED && done.result != -ENOBUFS;
        if (tells) count_recv(serving_, done.result, bytes);
        if (tells && !peer.finished && !stopping_) {
            if (done.result > 0) peer.echo = services_.receive(peer.session, bytes);
            else if (done.result == 0) services_.end_of_input(peer.session);  // not of our answer
            else peer.failed(-done.result);
        }
        if (!peer.echo.empty()) queue(peer);
        else give_back(peer);
        send_answers();
        update(peer);
    }

    // What was tried, or what had to wait for room, is sent: as much of it as the kernel took.
    void sent_to(Peer& peer, const Completion& done) {
        serving_ = peer.fd.get();
        const bool waited = what_of(done) == sent, cancelled = done.result == -ECANCELED;
        (waited ? peer.sending : peer.trying) = false;
        Outbox& outbox = peer.session.outbox;
        const std::string_view bytes = waited ? peer.copy : peer.words();
        const std::size_t count = static_cast<std::size_t>(std::max(done.result, 0));
        const std::size_t waiting = waited ? outbox.size() : bytes.size();
        if (!cancelled) count_send(serving_, done.result, std::max(waiting, count) - count);
        peer.echo = {};
        if (peer.finished) return;  // what waited for it was dropped
        if (done.result >= 0 || cancelled || try_again(-done.result)) outbox.sent_of(bytes, count);
        else peer.failed_to_send(-done.result);
        give_back(peer);
        if (waited && !stopping_ && !outbox.empty() && (cancelled || count == bytes.size()))
            queue(peer);  // the rest, or for once although the kernel sees no room
        if (waited && outbox.empty()) std::string().swap(peer.copy);
        update(peer);
    }

    void give_back(Peer& peer) {
        if (peer.buffer >= 0) buffers_.give_back(std::exchange(peer.buffer, -1));
    }

    // Sends what the services have said, but not to clients for which a send is under way.
    void send_answers() {
        bool much = false;
        for (Session* session : services_.spoken_to) {
            Peer& peer = clients_.at(session->id);
            session->spoken_to = false;
            queue(peer);
            update(peer);
            much = much || (peer.queued && session->outbox.size() > outbox_limit / 2);
        }
        services_.spoken_to.clear();
        // A member who reads is not to be dropped since many others speak in the same round.
        if (much) submit();
    }

    // After anything that may have changed what is wanted of this client.
    void update(Peer& peer) {
        if (peer.finished || stopping_) return;
        const bool untried = peer.untried();
        if (!untried) {
            if (peer.session.ending) lingering_close(peer, calls_, deadlines_);
            watch(peer.fd.get(), peer.watched, peer.wants() & ~urgent);
            if (peer.watched == nothing) {
                peer.finished = true;
                peer.session.end("eof");
                finished_.push_back(&peer);
                return;
            }
        }
        if ((peer.wants() & readable) && !peer.receiving && (lends_ || peer.echo.empty()))
            receive(peer);
        if ((peer.wants() & writable) && !untried && !peer.sending) send_when_there_is_room(peer);
    }

    void watch(int fd, Events& watched, Events wanted) {
        if (wanted == watched) return;
        narrate_watch(narration_, fd, wanted);
        if (watched == nothing) ++watching_;
        if (wanted == nothing) --watching_;
        watched = wanted;
    }

    // When a round is over. And not before all that is under way has come back: the kernel would
    // write into freed memory; and since an operation holds the connection, close() alone would not
    // even end it.
    void close_finished() {
        while (Client* late = deadlines_.over()) {
            Peer& peer = static_cast<Peer&>(*late);
            if (peer.sending) cancel(sent, &peer);  // there is room, but not much: try
            else update(peer);
        }
        // By index: telling the others that a member leaves may finish more of them.
        for (std::size_t i = told_; i < finished_.size(); ++i) {
            services_.leave(finished_[i]->session);
            send_answers();
            cancel(*finished_[i]);
            if (i + 1 == finished_.size()) submit();
        }
        const bool room = 0 < std::erase_if(finished_, [this](Peer* peer) {
                              if (peer->under_way()) return false;
                              close(*peer);
                              clients_.erase(peer->session.id);
                              return true;
                          });
        told_ = finished_.size();
        serving_ = -1;
        if (!deadlines_.paused() || (!room && monotonic() < deadlines_.retry)) return;
        deadlines_.retry = no_limit;
        narration_.narrate("resume", "clients=%llu", narration_.counters.clients);
        watch_doors(readable);
    }

    void close(Peer& peer) {
        deadlines_.move(peer, no_limit);
        watch(peer.fd.get(), peer.watched, nothing);
        give_back(peer);
        calls_.close(peer.fd, peer.session.ending);
    }

    // Descriptors or memory are lacking for what `fd` needs (-1: the wait). A client ends;
    // newcomers wait for a second, or until a client leaves.
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
        watch_doors(nothing);
    }

    void watch_doors(Events wanted) {
        for (Door& door : doors_) {
            watch(door.fd.get(), door.watched, wanted);
            if (wanted != nothing && !door.accepting) accept(door);
            if (wanted == nothing && door.accepting) cancel(accepted, &door);
        }
    }

    // First all that is under way has to come back. Then once: what the kernel does not take is
    // dropped. What has come is read: see linger_time.
    void stop() {
        stopping_ = true;
        watch_doors(nothing);
        for (const auto& [fd, peer] : clients_) cancel(peer);
        const auto under_way = [](const auto& each) { return each.second.under_way(); };
        const auto accepting = [](const Door& door) { return door.accepting; };
        for (;;) {
            while (next_ < completions_.size()) serve_next();
            if (std::none_of(clients_.begin(), clients_.end(), under_way) &&
                std::none_of(doors_.begin(), doors_.end(), accepting))
                break;
            hand_in(IORING_ENTER_GETEVENTS, 1);
        }
        char buffer[Buffers::size];
        for (auto& [fd, peer] : clients_) {
            calls_.set_nonblocking(fd);
            services_.say_goodbye(peer.session);
            if (!peer.words().empty()) calls_.send(fd, peer.words());
            peer.session.end("stop");
            if (!peer.session.eof) calls_.recv(fd, buffer, sizeof buffer);
            close(peer);
        }
    }

    // ---- The lines and the counters that calls.hpp has for the calls ----------------------------

    void count_accept(int fd, Service service) {
        ++narration_.counters.accept;
        if (++narration_.counters.clients > narration_.counters.max_clients)
            narration_.counters.max_clients = narration_.counters.clients;
        if (!narration_.narrating()) return;
        sockaddr_storage address{};
        socklen_t size = sizeof address;
        const bool known = ::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0;
        narration_.narrate("accept", "fd=%d service=%s peer=%s clients=%llu", fd, name_of(service),
                           known ? address_text(address, size).c_str() : "-",
                           narration_.counters.clients);
    }

    void count_recv(int fd, int result, std::string_view bytes) {
        ++narration_.counters.recv;
        if (result < 0) return failed("recv", fd, -result);
        narration_.counters.bytes_in += bytes.size();
        if (narration_.narrating())
            narration_.narrate(
                "recv", "fd=%d bytes=%zu%s%s", fd, bytes.size(),
                bytes.empty() ? "" : " data=", bytes.empty() ? "" : in_quotes(bytes).c_str());
    }

    void count_send(int fd, int result, std::size_t left) {
        ++narration_.counters.send;
        if (result < 0) return failed("send", fd, -result);
        narration_.counters.bytes_out += static_cast<unsigned>(result);
        if (narration_.narrating())
            narration_.narrate("send", "fd=%d bytes=%d%s", fd, result,
                               left ? joined({" left=", std::to_string(left)}).c_str() : "");
    }

    void failed(const char* call, int fd, int error) {
        const bool again = error == EAGAIN || error == EWOULDBLOCK;
        if (again) ++narration_.counters.would_block;
        if (!again || narration_.verbose())
            narration_.narrate(call, "fd=%d error=%s", fd, errno_name(error));
    }

    Narration& narration_;
    Calls calls_{narration_};
    const int kernel_ = kernel_wanted();
    Ring ring_{narration_.options, kernel_};
    Buffers buffers_;
    const bool lends_ = kernel_ >= 519 && buffers_.lend_to(ring_);  // and what else came with 5.19

    Services services_;
    std::vector<Door> doors_;
    std::map<int, Peer> clients_;  // by descriptor
    std::vector<Peer*> to_send_;   // to be tried when this round is over
    std::vector<Peer*> finished_;  // to be closed when they have nothing under way
    std::size_t told_ = 0;         // of those: the others know, and what is under way is cancelled
    Deadlines deadlines_;
    Descriptor newcomer_{-1};  // accepted, and not a client yet
    int serving_ = -1;         // who is to end if memory runs out
    bool stopping_ = false;

    std::vector<Completion> completions_;
    std::size_t next_ = 0, round_ = 0;  // of them: the next to be served, and this round's end
    bool polling_ = false;              // the signal pipe is watched
    bool cancelling_ = false;           // and that is not handed in yet
    std::size_t watching_ = 1;          // the signal pipe
    std::size_t place_ = 0;             // of that, in the ready list
    std::vector<Ready> ready_;
};

}  // namespace

int main(int argc, char* argv[]) {
    const Options options(argc, argv, 5, "uring");
    Narration narration(options);
    signals::catch_all(options);
    narration.start();
    limit_descriptors(narration, RLIM_INFINITY);
    Server(narration).run();
    narration.stats();
}
