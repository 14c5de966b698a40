// deadlines.hpp, the same in every stage from 2 on: the timers of a loop, and what needs them here.
#pragma once

#include <algorithm>
#include <set>
#include <utility>

#include "calls.hpp"
#include "clients.hpp"

/// A loop has no timer but the time limit of its wait: it waits until the first deadline at the
/// most, and what is due is dealt with after the wait. So all it takes is the deadlines in order.
/// Times are those of monotonic(), in seconds; no_limit is no deadline.
class Deadlines {
public:
    double retry = no_limit;  // when to accept again, after a pause

    bool paused() const { return retry != no_limit; }

    /// The seconds to wait: until the first deadline (negative: that is over), at most `most`.
    double left(double most) const {
        const double first = std::min(retry, queue_.empty() ? no_limit : queue_.begin()->first);
        return first == no_limit ? most : std::min(most, first - monotonic());
    }

    void move(Client& client, double to) {
        queue_.erase({client.deadline, &client});
        client.deadline = to;
        if (to != no_limit) queue_.insert({to, &client});
    }

    /// A client whose time is over, taken out of the queue. Null if there is none.
    Client* over() {
        if (queue_.empty() || queue_.begin()->first > monotonic()) return nullptr;
        return queue_.extract(queue_.begin()).value().second;
    }

private:
    std::set<std::pair<double, Client*>> queue_;
};

/// Call it whenever something has changed of a client that is to end after its last words. Why it
/// is not closed when they are sent: see linger_time, of which it gets more when it takes some.
inline void lingering_close(Client& client, Calls& calls, Deadlines& deadlines) {
    const std::size_t unsent = client.session.outbox.size();
    if (unsent == client.unsent) {
        if (monotonic() >= client.deadline) client.session.abandon("slow_reader");
        return;
    }
    client.unsent = unsent;
    if (client.session.eof && unsent == 0) return;  // it has ended its half before
    deadlines.move(client, monotonic() + linger_time);
    if (unsent == 0) calls.shutdown(client.fd.get());
}
