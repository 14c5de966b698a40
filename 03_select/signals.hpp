// signals.hpp, the same in every stage: SIGINT, SIGTERM and SIGUSR1 as one more readable
// descriptor.
#pragma once

#include <cerrno>
#include <csignal>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "narration.hpp"

/// A signal may arrive between any two instructions: what its handler does must still be in effect
/// when the next system call is about to sleep. All that the handler can reach is here.
namespace signals {

inline volatile std::sig_atomic_t pending = 0;             // one of the next two has changed
inline volatile std::sig_atomic_t stop = 0;                // SIGINT or SIGTERM, the last that came
inline volatile std::sig_atomic_t stats = 0;               // SIGUSR1 came
inline volatile std::sig_atomic_t blocking[2] = {-1, -1};  // descriptors that stage 1 may sleep in
inline int pipe[2] = {-1, -1};                             // the self-pipe; never closed

// Only async-signal-safe calls here (POSIX, 2.4.3): write() and fcntl() are.
extern "C" inline void handle(int number) {
    const int saved = errno;
    (number == SIGUSR1 ? stats : stop) = number;
    pending = 1;
    // A flag alone is lost if the signal arrives after the flag was checked and before the wait
    // begins: the wait would sleep on. A byte in a pipe stays there, and the wait returns at once.
    // (If the pipe is full, it is readable anyway.)
    [[maybe_unused]] const ssize_t written = ::write(pipe[1], "", 1);
    // Stage 1 has no wait; it sleeps in accept(), recv() or send(). A call that sleeps already
    // fails with EINTR; one that is just about to begin finds its descriptor non-blocking.
    for (const int fd : {blocking[0], blocking[1]})
        if (fd >= 0) ::fcntl(fd, F_SETFL, O_NONBLOCK);
    errno = saved;
}

/// From here on the signals are caught; ends the program if that cannot be.
inline void catch_all(const Options& options) {
    if (::pipe(pipe) < 0) options.fail(1, "no pipe: %s", errno_name(errno));
    for (const int fd : pipe) ::fcntl(fd, F_SETFL, O_NONBLOCK);
    struct sigaction action {};
    sigset_t ours;
    sigemptyset(&ours);
    for (const int number : {SIGINT, SIGTERM, SIGUSR1}) sigaddset(&ours, number);
    sigemptyset(&action.sa_mask);
    action.sa_handler = handle;  // without SA_RESTART: a call that sleeps fails with EINTR
    for (const int number : {SIGINT, SIGTERM, SIGUSR1}) ::sigaction(number, &action, nullptr);
    // send() to a closed connection fails with EPIPE instead of killing the process, and so does,
    // with EFBIG, write() to a file that has come to its size limit.
    action.sa_handler = SIG_IGN;
    for (const int number : {SIGPIPE, SIGXFSZ}) ::sigaction(number, &action, nullptr);
    ::sigprocmask(SIG_UNBLOCK, &ours, nullptr);  // the parent may have blocked them
}

/// The descriptor to watch: readable as soon as a signal has come.
inline int fd() { return pipe[0]; }

/// Whether to stop; prints the stats if they were asked for. Call it at least once a round.
inline bool stopped(Narration& narration) {
    static bool stopping = false;
    if (!pending || stopping) return stopping;
    do {
        pending = 0;  // before anything else, so that a signal from here on is seen
        char bytes[64];
        while (::read(pipe[0], bytes, sizeof bytes) > 0) {}
        for (const int fd : {blocking[0], blocking[1]})
            if (fd >= 0) ::fcntl(fd, F_SETFL, 0);  // blocking again
        // A signal arrived meanwhile, and its O_NONBLOCK may just have been cleared: do it again.
    } while (pending && !stop);
    if (stats) {
        stats = 0;
        narration.stats();
    }
    stopping = stop != 0;
    if (stopping) narration.narrate("stop", "signal=%s", stop == SIGINT ? "SIGINT" : "SIGTERM");
    return stopping;
}

/// Sleeps for `seconds`, or until a signal comes.
inline void rest(double seconds) {
    pollfd signal{fd(), POLLIN, 0};
    ::poll(&signal, 1, milliseconds(seconds));
}

/// Stage 1: the next call on `fd` may sleep, and a signal has to end that. `which`: 0 for the
/// listener, 1 for the client; -1 as `fd`: no longer.
inline void may_sleep_in(int which, int fd) { blocking[which] = fd; }

}  // namespace signals
