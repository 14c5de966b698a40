// target.hpp: one server under load, slice by slice. modes.hpp has what is said to it.
#pragma once

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/time.h>

#include "connection.hpp"

namespace load {

class Target {
public:
    Target(const Options& options, const Named& named, const Sequence& said)
        : options_(options),
          named_(named),
          said_(said),
          address_(server_address(options.address, named.port)),
          buffer_(256 * 1024) {}
    virtual ~Target() = default;

    /// Opens everything, the silent ones first: they are accepted in that order, so that once an
    /// active one is answered, all the silent ones are the server's.
    void open() {
        tally_.memory_before = own_memory(named_.pid);
        const std::size_t silent = options_.silent_of(named_);
        while (silent_.size() < silent) {
            silent_.push_back(connected());
            silent_came(silent_.size() == silent);
        }
        settle();
        tally_.memory_with_silent = own_memory(named_.pid);
        open_active();
    }

    /// Loads it for so long. What comes of it is counted if `counts`.
    void slice(double seconds, bool counts) {
        counting_ = counts;
        const Used before = used(named_.pid);
        const Nanoseconds own_before = read_clock(CLOCK_PROCESS_CPUTIME_ID);
        began_ = last_answer_ = now();
        end_ = began_ + in_nanoseconds(seconds);
        answered_ = 0;
        start();
        while (under_way_ > 0 || (options_.rate > 0 && now() < end_)) {
            for (const epoll_event& event : waiter_.wait(until_next()))
                handle(static_cast<std::size_t>(event.data.u64), (event.events & ~EPOLLOUT) != 0,
                       (event.events & EPOLLOUT) != 0);
            if (under_way_ > 0 && now() - last_answer_ > in_nanoseconds(options_.patience))
                fail(1, "%s: nothing was answered for %g seconds; %llu messages are under way",
                     name(), options_.patience, under_way_);
        }
        const Nanoseconds took = now() - began_;
        const Nanoseconds own = read_clock(CLOCK_PROCESS_CPUTIME_ID) - own_before;
        settle();  // the server still has to find out that there is nothing more
        const Used after = used(named_.pid);
        if (!counts) return;
        if (before.cpu >= 0 && after.cpu < 0)
            fail(1, "%s: process %d is gone", name(), static_cast<int>(named_.pid));
        tally_.add_slice(answered_, took, own, before, after);
    }

    /// Silent ones have nothing to hear, and nobody has ended them.
    virtual void check_silent() const {
        for (const int fd : silent_) {
            char byte = 0;
            const ssize_t count = ::recv(fd, &byte, 1, MSG_DONTWAIT);
            if (count == 0) fail(1, "%s: closed a silent connection", name());
            if (count > 0) fail(1, "%s: spoke to a silent connection", name());
            if (errno != EAGAIN && errno != EWOULDBLOCK)
                fail(1, "%s: a silent connection broke: %s", name(), std::strerror(errno));
        }
    }

    double busy() const { return tally_.busy(); }

    void report(const Target& first) const {
        tally_.report(named_, silent_.size(), options_.bytes, first.tally_);
    }

protected:
    /// One more silent connection is there.
    virtual void silent_came(bool last) {
        // So that no more wait to be accepted than fit into its backlog.
        if (!last && silent_.size() % 100 != 0) return;
        char byte = 'x';
        if (::send(silent_.back(), &byte, 1, MSG_NOSIGNAL) != 1 ||
            ::recv(silent_.back(), &byte, 1, 0) != 1)
            fail(1, "%s: silent connection %zu is not answered", name(), silent_.size());
    }
    virtual void open_active() = 0;
    /// Says the first messages of a slice.
    virtual void start() = 0;
    virtual void handle(std::size_t index, bool readable, bool writable) = 0;
    /// How long to wait at most. With -r, what is due is sent first.
    virtual Nanoseconds until_next() { return 100 * millisecond; }

    const char* name() const { return named_.name.c_str(); }

    Descriptor new_socket() const {
        Descriptor fd(::socket(address_->ai_family, SOCK_STREAM, 0));
        if (fd < 0) fail(1, "socket: %s", std::strerror(errno));
        // What we send leaves at once: if anything stalls, it is not our side's Nagle.
        const int on = 1;
        ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        return fd;
    }

    /// A new connection, still blocking, on which a call fails after a time limit.
    Descriptor connected() const {
        Descriptor fd = new_socket();
        const timeval limit{static_cast<time_t>(options_.patience),
                            static_cast<suseconds_t>(std::fmod(options_.patience, 1) * 1e6)};
        ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
        if (::connect(fd, address_->ai_addr, address_->ai_addrlen) < 0)
            fail(1, "%s: connect: %s", name(),
                 std::strerror(errno == EINPROGRESS ? ETIMEDOUT : errno));
        return fd;
    }

    /// One more active connection, which is watched from now on.
    void add_connection(Descriptor fd) {
        const std::size_t index = connections_.size();
        ::fcntl(fd, F_SETFL, O_NONBLOCK);
        waiter_.watch(EPOLL_CTL_ADD, fd, index, false);
        Connection& connection = connections_.emplace_back();
        connection.fd = std::move(fd);
        connection.begin = index * 7919;
    }

    /// One more message for this connection to send.
    void add_message(std::size_t index, Nanoseconds at) {
        Connection& connection = connections_[index];
        connection.to_send += options_.bytes;
        connection.left.push_back(at);
        ++under_way_;
    }

    void send_some(std::size_t index) {
        Connection& connection = connections_[index];
        while (connection.sent < connection.to_send) {
            const auto length = static_cast<std::size_t>(
                std::min<Count>(connection.to_send - connection.sent, said_.longest()));
            const ssize_t count = ::send(
                connection.fd, said_.at(connection.begin + connection.sent), length, MSG_NOSIGNAL);
            if (count < 0) {
                if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) break;
                fail(1, "%s: connection %zu: send: %s", name(), index, std::strerror(errno));
            }
            connection.sent += static_cast<Count>(count);
        }
        const bool waits = connection.sent < connection.to_send;
        if (waits != connection.watched_for_writing) {
            connection.watched_for_writing = waits;
            waiter_.watch(EPOLL_CTL_MOD, connection.fd, index, waits);
        }
    }

    /// Receives what is there. It has to be how `wanted` goes on, and no more than there can be.
    void receive(std::size_t index, const Sequence& wanted, Count most) {
        Connection& connection = connections_[index];
        const ssize_t result = ::recv(connection.fd, buffer_.data(), buffer_.size(), 0);
        if (result == 0) fail(1, "%s: connection %zu: the server ended it", name(), index);
        if (result < 0) {
            if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return;
            fail(1, "%s: connection %zu: recv: %s", name(), index, std::strerror(errno));
        }
        const auto count = static_cast<std::size_t>(result);
        if (connection.received + count > most)
            fail(1, "%s: connection %zu: more came back than was sent: %llu bytes, not %llu",
                 name(), index, connection.received + count, most);
        for (std::size_t done = 0, length = 0; done < count; done += length) {
            length = std::min(count - done, wanted.longest());
            const char* right = wanted.at(connection.begin + connection.received);
            const char* came = buffer_.data() + done;
            if (std::memcmp(came, right, length) != 0) {
                const auto i = std::mismatch(came, came + length, right).first - came;
                fail(1, "%s: connection %zu: byte %llu came back as 0x%02x, not 0x%02x", name(),
                     index, connection.received + static_cast<Count>(i),
                     static_cast<unsigned char>(came[i]), static_cast<unsigned char>(right[i]));
            }
            connection.received += length;
        }
        last_answer_ = now();
    }

    /// What left at that time has been answered just now.
    void count_answer(Nanoseconds left) {
        if (counting_) tally_.latencies.add(last_answer_ - left);
        ++answered_;
    }

    /// So many answers have come on this connection.
    void answered(Connection& connection, Count count) {
        const auto end = connection.left.begin() + static_cast<std::ptrdiff_t>(count);
        for (auto left = connection.left.begin(); left != end; ++left) count_answer(*left);
        connection.left.erase(connection.left.begin(), end);
        under_way_ -= count;
    }

    const Options& options_;
    const Named& named_;
    const Sequence& said_;
    const Address address_;
    Waiter waiter_{};
    std::vector<char> buffer_;
    std::vector<Descriptor> silent_{};
    std::vector<Connection> connections_{};

    // The slice
    Nanoseconds began_ = 0, end_ = 0, last_answer_ = 0;
    Count under_way_ = 0;

private:
    /// A moment in which the server can do what it still has to, and go to sleep.
    static void settle() { ::usleep(300); }

    bool counting_ = false;
    Count answered_ = 0;
    Tally tally_{};
};

}  // namespace load
