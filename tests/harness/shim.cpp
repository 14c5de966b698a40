// shim.cpp: faults on demand. Preloaded into a server (LD_PRELOAD), it stands between the program
// and the system's calls, and lets some of them fail as a real system does once in a blue moon.
//
// The environment says which: FAULTS="CALL FAULT EVERY SKIP TIMES, ...". Of the calls of that name,
// the first SKIP go through; of those behind them, every EVERY-th fails, TIMES times in all. A
// recv() or accept() that would come back empty is not counted: some servers make millions of
// those.
//
//     FAULTS="accept ENFILE 1 0 2"               the first two calls of accept() fail
//     FAULTS="recv EINTR 2 0 999, send one 1 0 999"   every other recv(); send() takes one byte
//
// `new` is every allocation of C++: it fails with std::bad_alloc, whatever the errno.
// FAULT is the name of an errno, or `one`: no more than one byte is read or sent; or SIGTERM: that
// signal comes just before the call is made; or SIGUSR1: that signal comes just after the call has
// failed with ECONNRESET, and its handler finds the pipe full.
// CALL is a name below; `wait` is select, poll or epoll_wait, whichever the server waits with.
// Calls on listeners and the signal pipe count too. Not touched: the poll() of a single descriptor
// (whether stdout has room; a rest), as that is no wait for clients.

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

namespace {

constexpr int one_byte = -1;

struct Rule {
    char call[16], fault[16];
    long every, skip, times, seen = 0;
};

struct Error {
    const char* name;
    int number;
};

constexpr Error errors[] = {
    {"one", one_byte},         {"EAGAIN", EAGAIN},         {"EINTR", EINTR},
    {"ENFILE", ENFILE},        {"EMFILE", EMFILE},         {"ENOBUFS", ENOBUFS},
    {"ENOMEM", ENOMEM},        {"ENOSPC", ENOSPC},         {"ECONNABORTED", ECONNABORTED},
    {"EPROTO", EPROTO},        {"EPERM", EPERM},           {"ECONNRESET", ECONNRESET},
    {"EPIPE", EPIPE},          {"ETIMEDOUT", ETIMEDOUT},   {"EHOSTUNREACH", EHOSTUNREACH},
    {"ENETDOWN", ENETDOWN},    {"EADDRINUSE", EADDRINUSE}, {"EIO", EIO},
    {"EINVAL", EINVAL},        {"EHOSTDOWN", EHOSTDOWN},   {"ENONET", ENONET},
    {"EOPNOTSUPP", EOPNOTSUPP}};

Rule rules[8];
int count = -1;  // of rules; -1: FAULTS has not been read yet
bool pipe_is_full = false;

void read_rules() {
    count = 0;
    const char* text = std::getenv("FAULTS");
    while (text && *text && count < 8) {
        Rule& rule = rules[count];
        if (std::sscanf(text, " %15[a-z_0-9] %15[a-zA-Z0-9] %ld %ld %ld", rule.call, rule.fault,
                        &rule.every, &rule.skip, &rule.times) != 5) {
            std::fprintf(stderr, "shim: cannot read FAULTS=...%s\n", text);
            std::_Exit(99);
        }
        ++count;
        text = std::strchr(text, ',');
        if (text) ++text;
    }
}

/// Whether recv() or accept() is worth a fault: it sleeps, or brings something. If not, it is not
/// tried either: what comes between the question and the call would come without its fault.
bool brings(int fd) {
    if ((::fcntl(fd, F_GETFL) & O_NONBLOCK) == 0) return true;
    static const auto system = reinterpret_cast<decltype(&::poll)>(::dlsym(RTLD_NEXT, "poll"));
    pollfd entry{fd, POLLIN, 0};
    return system(&entry, 1, 0) > 0;
}

/// What this call shall come back with: an errno, one_byte, or 0 for what the system says.
int fault(const char* call) {
    if (count < 0) read_rules();
    for (Rule* rule = rules; rule < rules + count; ++rule) {
        if (std::strcmp(rule->call, call) != 0) continue;
        if (rule->times == 0 || ++rule->seen <= rule->skip) continue;
        if ((rule->seen - rule->skip) % rule->every != 0) continue;
        --rule->times;
        if (std::strcmp(rule->fault, "SIGTERM") == 0) {
            ::kill(::getpid(), SIGTERM);  // handled before kill() returns: there is but one thread
            return 0;
        }
        if (std::strcmp(rule->fault, "SIGUSR1") == 0) {
            pipe_is_full = true;
            errno = ECONNRESET;
            ::kill(::getpid(), SIGUSR1);
            pipe_is_full = false;
            return errno;  // ECONNRESET, if the handler left it alone
        }
        for (const Error& error : errors)
            if (std::strcmp(error.name, rule->fault) == 0) return error.number;
        std::fprintf(stderr, "shim: unknown fault %s\n", rule->fault);
        std::_Exit(99);
    }
    return 0;
}

template <typename Function>
Function* next(Function*, const char* name) {
    return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

#define PASS(name, ...)                                  \
    do {                                                 \
        static const auto system = next(&::name, #name); \
        return system(__VA_ARGS__);                      \
    } while (0)

#define FAIL(name)                           \
    do {                                     \
        if (const int error = fault(name)) { \
            errno = error;                   \
            return -1;                       \
        }                                    \
    } while (0)

void* operator new(std::size_t size) {
    void* const memory = fault("new") ? nullptr : std::malloc(size);
    if (!memory) throw std::bad_alloc();
    return memory;
}

extern "C" {

int accept(int fd, sockaddr* address, socklen_t* size) {
    if (!brings(fd)) {
        errno = EAGAIN;
        return -1;
    }
    FAIL("accept");
    PASS(accept, fd, address, size);
}

ssize_t recv(int fd, void* buffer, size_t size, int flags) {
    const int error = (flags & MSG_OOB) ? fault("recv_oob") : brings(fd) ? fault("recv") : EAGAIN;
    if (error > 0) {
        errno = error;
        return -1;
    }
    if (error == one_byte && size > 1) size = 1;
    PASS(recv, fd, buffer, size, flags);
}

ssize_t send(int fd, const void* buffer, size_t size, int flags) {
    const int error = fault("send");
    if (error > 0) {
        errno = error;
        return -1;
    }
    if (error == one_byte && size > 1) size = 1;
    PASS(send, fd, buffer, size, flags);
}

int select(int most, fd_set* reads, fd_set* writes, fd_set* exceptions, timeval* limit) {
    FAIL("wait");
    PASS(select, most, reads, writes, exceptions, limit);
}

int poll(pollfd* watched, nfds_t size, int limit) {
    if (size > 1) FAIL("wait");
    PASS(poll, watched, size, limit);
}

int epoll_wait(int fd, epoll_event* found, int most, int limit) {
    FAIL("wait");
    PASS(epoll_wait, fd, found, most, limit);
}

int epoll_ctl(int epoll, int operation, int fd, epoll_event* entry) noexcept {
    if (operation == EPOLL_CTL_ADD) FAIL("epoll_add");
    if (operation == EPOLL_CTL_MOD) FAIL("epoll_mod");
    PASS(epoll_ctl, epoll, operation, fd, entry);
}

ssize_t write(int fd, const void* bytes, size_t size) {
    if (pipe_is_full) {
        errno = EAGAIN;
        return -1;
    }
    PASS(write, fd, bytes, size);
}

char* ttyname(int fd) noexcept {
    if (fault("ttyname")) return nullptr;
    PASS(ttyname, fd);
}

// Linux closes the descriptor all the same: a second call may close another thread's.
int close(int fd) {
    static const auto system = next(&::close, "close");
    const int result = system(fd), error = fault("close");
    if (error == 0) return result;
    errno = error;
    return -1;
}

int socket(int domain, int type, int protocol) noexcept {
    FAIL("socket");
    PASS(socket, domain, type, protocol);
}

int listen(int fd, int backlog) noexcept {
    FAIL("listen");
    PASS(listen, fd, backlog);
}

int pipe(int* ends) noexcept {
    FAIL("pipe");
    PASS(pipe, ends);
}

int epoll_create1(int flags) noexcept {
    FAIL("epoll_create1");
    PASS(epoll_create1, flags);
}
}
