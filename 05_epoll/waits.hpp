// waits.hpp, the same in every stage from 3 on: the watched set and the ready list, narrated.
#pragma once

#include <string>
#include <vector>

#include "clients.hpp"
#include "narration.hpp"

/// A descriptor that a wait found ready, and for what.
struct Ready {
    int fd;
    Events events;
};

inline std::string letters(Events events) {
    const std::string text = joined({events & readable ? "r" : "", events & writable ? "w" : "",
                                     events & urgent ? "x" : "", events & hangup ? "h" : ""});
    return text.empty() ? "-" : text;
}

/// "4:r,7:rw": the ready list; after the first sixteen, how many more.
inline std::string list(const std::vector<Ready>& all) {
    constexpr std::size_t most = 16;
    std::string text;
    for (std::size_t i = 0; i < all.size() && i < most; ++i)
        text += joined({i ? "," : "", std::to_string(all[i].fd), ":", letters(all[i].events)});
    if (all.size() > most) text += joined({",+", std::to_string(all.size() - most)});
    return text.empty() ? "-" : text;
}

/// Of each wait: the system call, how many descriptors are watched, which are ready, how many
/// entries were walked to find them, stopwatch() before the call, and errno if it failed, else 0.
inline void narrate_wait(Narration& narration, const char* call, std::size_t watching,
                         const std::vector<Ready>& ready, std::size_t scanned, double before,
                         int error) {
    ++narration.counters.waits;
    narration.counters.ready += ready.size();
    narration.counters.scanned += scanned;
    if (!narration.narrating()) return;
    const double slept = monotonic() - before;
    if (error)
        narration.narrate("wait", "call=%s watching=%zu error=%s slept=%.3f", call, watching,
                          errno_name(error), slept);
    else
        narration.narrate("wait", "call=%s watching=%zu ready=%zu on=%s slept=%.3f", call, watching,
                          ready.size(), list(ready).c_str(), slept);
}

/// Of each change of the watched set.
inline void narrate_watch(Narration& narration, int fd, Events wanted) {
    ++narration.counters.watch;
    if (narration.verbose())
        narration.narrate("watch", "fd=%d for=%s", fd, letters(wanted).c_str());
}
