// selector.hpp: hand descriptors to the operating system, and be called back when they are ready. A
// C++ counterpart of Python's `selectors`; needs nothing else of this folder.
//
//     selectors::DefaultSelector selector;
//     selector.register_fd(fd, selectors::read, [&](selectors::Events) { /* read from fd */ });
//     for (;;)
//         for (const auto& [key, events] : selector.select())
//             if (events & key->events) key->callback(events & key->events);
//
// The callback is called by the program, in the loop above; the system only notifies. (The test: a
// callback earlier in the same round may have changed what is wanted, or have unregistered it.)
// A selector is for one thread and one process: after a fork() both change the same epoll.
#pragma once

#include <array>
#include <cerrno>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <sys/select.h>

#if __has_include(<sys/epoll.h>) && !defined(SELECTOR_WITHOUT_EPOLL)
#include <sys/epoll.h>
#include <unistd.h>
#define SELECTORS_HAVE_EPOLL
#endif

namespace selectors {

using Events = unsigned;
constexpr Events read = POLLIN, write = POLLOUT, urgent = POLLPRI;  // urgent: TCP's urgent data
constexpr Events broken = POLLERR | POLLHUP | POLLNVAL;             // reported only, as all three
constexpr double no_limit = HUGE_VAL;                               // of select()
using Callback = std::function<void(Events)>;

/// A registered descriptor: what is wanted of it (nothing, once it is unregistered), and the
/// function to call when it is ready.
struct Key {
    int fd;
    Events events;
    Callback callback;
};

using ReadyList = std::vector<std::pair<const Key*, Events>>;

/// What the three have in common. Every error is an exception, and leaves things as they were:
/// std::invalid_argument for a negative descriptor, one registered already, no or unknown events, a
/// time limit that is NaN; std::out_of_range for one that is not registered; std::system_error:
/// EBADF (it is closed), EMFILE (an fd_set cannot hold it), EPERM (epoll: a file), ...; bad_alloc.
class Selector {
public:
    virtual ~Selector() = default;

    /// From now on select() reports `fd` when it is ready for any of `events`. Close it only after
    /// unregister(). (Python's `register` is a reserved word in C++.)
    virtual const Key& register_fd(int fd, Events events, Callback callback) {
        if (fd < 0) throw std::invalid_argument("negative descriptor " + std::to_string(fd));
        check(events);
        const auto [key, is_new] = keys_.try_emplace(fd, Key{fd, events, std::move(callback)});
        if (!is_new) throw std::invalid_argument(about(fd) + " is registered already");
        return key->second;
    }

    const Key& modify(int fd, Events events) {
        check(events);
        Key& key = find(fd);
        change(fd, events);
        key.events = events;
        return key;
    }

    /// The key stays valid until the next select(), for the callback that may just be running.
    void unregister(int fd) {
        find(fd).events = 0;
        remove(fd);
        retired_.insert(keys_.extract(fd));  // takes no memory, so it cannot fail
    }

    /// Waits until something is ready, for `timeout` seconds (0 or less: not at all), and returns
    /// pairs of key and events; none when the time is over or a signal came (errno: 0 or EINTR).
    /// Errors and hang-ups are reported as readiness for whatever is wanted: the next read or write
    /// says what happened. (If only `urgent` is wanted: by poll and epoll, not by select.) Not to
    /// be called by a callback; the list is valid until the next call.
    const ReadyList& select(double timeout = no_limit) {
        if (std::isnan(timeout)) throw std::invalid_argument("the time limit is not a number");
        retired_.clear();
        ready_.clear();
        const int count = wait(timeout);
        if (count < 0 && errno != EINTR) throw failure(errno, call());
        if (count > 0) collect(count);
        errno = count < 0 ? EINTR : 0;
        return ready_;
    }

    const ReadyList& ready() const { return ready_; }  // of the last select(); void if it failed
    const Key& get_key(int fd) const { return const_cast<Selector*>(this)->find(fd); }
    std::size_t size() const { return keys_.size(); }

    /// The system call that waits, and how many entries each select() walks, the kernel and we.
    virtual const char* call() const = 0;
    virtual std::size_t walked() const { return 2 * keys_.size(); }

protected:
    virtual void change(int fd, Events events) = 0;
    virtual void remove(int fd) = 0;
    virtual int wait(double timeout) = 0;  // as the system call: how many, or -1 and errno
    virtual void collect(int count) = 0;   // reports each that is ready

    void report(const Key& key, Events events) {
        // The owner's next read or write finds out what is broken, so it is called for either.
        if (events & broken) events |= read | write | urgent;
        if (events & key.events) ready_.emplace_back(&key, events & key.events);
    }

    static std::string about(int fd) { return "descriptor " + std::to_string(fd); }
    static std::system_error failure(int error, const std::string& what) {
        return {error, std::generic_category(), what};
    }

    // select and poll learn of a closed descriptor only later, in the wait.
    static void check_open(int fd) {
        if (::fcntl(fd, F_GETFD) < 0) throw failure(errno, about(fd));
    }

    // -1 is no limit. Rounded up: a fraction of a millisecond is to be waited for, too.
    static int milliseconds(double seconds) {
        return seconds > 1e6 ? -1 : seconds < 0 ? 0 : static_cast<int>(std::ceil(seconds * 1000));
    }

    std::map<int, Key> keys_;

private:
    static void check(Events events) {
        if (events == 0 || (events & ~(read | write | urgent)) != 0)
            throw std::invalid_argument("read, write or urgent is wanted, or several of them");
    }

    Key& find(int fd) {
        const auto found = keys_.find(fd);
        if (found == keys_.end()) throw std::out_of_range(about(fd) + " is not registered");
        return found->second;
    }

    ReadyList ready_;
    std::multimap<int, Key> retired_;
};

/// Sets of bits, copied for every call because select() overwrites them; FD_SETSIZE descriptors.
class SelectSelector : public Selector {
public:
    const char* call() const override { return "select"; }

    const Key& register_fd(int fd, Events events, Callback callback) override {
        if (fd >= FD_SETSIZE) throw failure(EMFILE, about(fd));
        if (fd >= 0) check_open(fd);
        const Key& key = Selector::register_fd(fd, events, std::move(callback));
        want(fd, events);
        return key;
    }

protected:
    void change(int fd, Events events) override {
        check_open(fd);
        want(fd, events);
    }

    void remove(int fd) override { want(fd, 0); }

    int wait(double timeout) override {
        found_ = wanted_;
        const int highest = keys_.empty() ? -1 : keys_.rbegin()->first;
        const int limit = milliseconds(timeout);
        timeval time{limit / 1000, limit % 1000 * 1000};
        return ::select(highest + 1, &found_[0], &found_[1], &found_[2],
                        limit < 0 ? nullptr : &time);
    }

    void collect(int) override {
        for (const auto& [fd, key] : keys_) {
            Events events = 0;
            for (std::size_t i = 0; i < 3; ++i)
                if (FD_ISSET(fd, &found_[i])) events |= of_set[i];
            report(key, events);
        }
    }

private:
    void want(int fd, Events events) {
        for (std::size_t i = 0; i < 3; ++i) {
            if (events & of_set[i]) FD_SET(fd, &wanted_[i]);
            else FD_CLR(fd, &wanted_[i]);
        }
    }

    static constexpr Events of_set[3] = {read, write, urgent};
    std::array<fd_set, 3> wanted_{}, found_{};
};

/// An array that outlives the call; any number of descriptors.
class PollSelector : public Selector {
public:
    const char* call() const override { return "poll"; }

    const Key& register_fd(int fd, Events events, Callback callback) override {
        if (fd >= 0) check_open(fd);
        const Key& key = Selector::register_fd(fd, events, std::move(callback));
        try {
            place_[fd] = watched_.size();
            watched_.push_back({fd, static_cast<short>(events), 0});
        } catch (const std::bad_alloc&) {
            keys_.erase(fd);
            throw;
        }
        return key;
    }

protected:
    void change(int fd, Events events) override {
        check_open(fd);
        watched_[place_.at(fd)].events = static_cast<short>(events);
    }

    void remove(int fd) override {
        const std::size_t place = place_.at(fd);
        watched_[place] = watched_.back();
        place_[watched_[place].fd] = place;
        watched_.pop_back();
        place_.erase(fd);
    }

    int wait(double timeout) override {
        return ::poll(watched_.data(), static_cast<nfds_t>(watched_.size()), milliseconds(timeout));
    }

    void collect(int) override {
        for (const pollfd& entry : watched_)
            if (entry.revents != 0) report(keys_.at(entry.fd), static_cast<Events>(entry.revents));
    }

private:
    std::vector<pollfd> watched_;
    std::map<int, std::size_t> place_;  // of a descriptor in watched_
};

#ifdef SELECTORS_HAVE_EPOLL
/// The list is the kernel's, and only what is ready comes back.
class EpollSelector : public Selector {
public:
    EpollSelector() {
        if (epoll_ < 0) throw failure(errno, "epoll_create1");
    }
    ~EpollSelector() override { ::close(epoll_); }
    EpollSelector(const EpollSelector&) = delete;
    const char* call() const override { return "epoll_wait"; }
    std::size_t walked() const override { return 2 * ready().size(); }

    const Key& register_fd(int fd, Events events, Callback callback) override {
        const Key& key = Selector::register_fd(fd, events, std::move(callback));
        epoll_event entry{.events = events, .data = {.fd = fd}};  // epoll's bits are poll's
        if (::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &entry) == 0) return key;
        const int error = errno;
        keys_.erase(fd);
        throw failure(error, about(fd));
    }

protected:
    void change(int fd, Events events) override {
        epoll_event entry{.events = events, .data = {.fd = fd}};
        if (::epoll_ctl(epoll_, EPOLL_CTL_MOD, fd, &entry) < 0) throw failure(errno, about(fd));
    }

    // epoll forgets a descriptor that is closed: it is no error if that happened before.
    void remove(int fd) override {
        epoll_event unused{};
        ::epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, &unused);
    }

    int wait(double timeout) override {
        return ::epoll_wait(epoll_, found_.data(), static_cast<int>(found_.size()),
                            milliseconds(timeout));
    }

    void collect(int count) override {
        for (int i = 0; i < count; ++i) {
            const epoll_event& entry = found_[static_cast<std::size_t>(i)];
            const auto key = keys_.find(entry.data.fd);
            // Otherwise it was closed before unregister(), and lives on in a copy (dup, fork).
            if (key != keys_.end()) report(key->second, entry.events);
        }
    }

private:
    const int epoll_ = ::epoll_create1(EPOLL_CLOEXEC);
    std::array<epoll_event, 256> found_{};  // more than that are found by the next call
};

using DefaultSelector = EpollSelector;
inline const std::vector<std::string> names = {"select", "poll", "epoll"};  // the default last
#else
using DefaultSelector = PollSelector;
inline const std::vector<std::string> names = {"select", "poll"};
#endif

/// The selector of that name, one of `names`.
inline std::unique_ptr<Selector> make(const std::string& name) {
    if (name == "select") return std::make_unique<SelectSelector>();
    if (name == "poll") return std::make_unique<PollSelector>();
    return std::make_unique<DefaultSelector>();
}

}  // namespace selectors
