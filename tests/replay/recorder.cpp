// recorder.cpp: what a server asks of the kernel, and what the kernel has for it. Preloaded into a
// server (LD_PRELOAD), it stands between the program and its waits, accept(), recv(), send(),
// close() and epoll_ctl(), and changes none of them. A call becomes a line (JSON):
//
//     call, fd, with: its arguments      t0, t1: when it began and returned (CLOCK_MONOTONIC)
//     result, errno, found, data: what came of it
//     before, after: every socket then, [fd, kind, receive queue, send queue, ready, first bytes]
//                    (kind l: a listener: how many wait to be accepted, of how many)
//     stack: where it was called from, addresses within the program
//
// A call that comes back as it did the last time, with no success of any other in between (EAGAIN;
// a wait that reports the same again), is only counted: {"more": so many}. A call that may sleep
// also stands in a place of its own until it returns: so it can be read who sleeps, and in what.
//
// RECORD names the file. It is mapped and closed: no descriptor of the server's is taken.

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <dlfcn.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace {

constexpr int most_sockets = 64;  // descriptors that are looked at: 3 to 66
constexpr std::size_t few = 12;   // bytes that are shown as they are
constexpr std::size_t now_at = 64, log_at = 32 * 1024, size = 48 << 20;

enum class Kind { plain, may_sleep, wait };

template <typename Function>
Function* next(Function*, const char* name) {
    return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

template <typename... Values>
std::string text(const char* format, Values... values) {
    char made[256];
    std::snprintf(made, sizeof made, format, values...);
    return made;
}

std::string hex(const void* bytes, std::size_t count) {
    std::string made;
    for (std::size_t i = 0; i < count && i < few; ++i)
        made += text("%02x", static_cast<const unsigned char*>(bytes)[i]);
    return made;
}

double seconds() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

Kind kind_of(int fd) {
    return (::fcntl(fd, F_GETFL) & O_NONBLOCK) == 0 ? Kind::may_sleep : Kind::plain;
}

int ready(int fd, short events) {
    static const auto system = next(&::poll, "poll");
    pollfd entry{fd, events, 0};
    system(&entry, 1, 0);
    return entry.revents;
}

/// Every socket, and the pipe that signals come through: its queues, and, as poll() has it, what it
/// is ready for.
std::string sockets() {
    static const auto recv_ = next(&::recv, "recv");
    std::string all;
    for (int fd = 3; fd < 3 + most_sockets; ++fd) {
        struct stat what {};
        if (::fstat(fd, &what) < 0) continue;
        const bool pipe = S_ISFIFO(what.st_mode) && (::fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY;
        if (!S_ISSOCK(what.st_mode) && !pipe) continue;
        int listens = 0, in = 0, out = 0;
        socklen_t length = sizeof listens;
        if (!pipe) ::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length);
        char bytes[few];
        ssize_t peeked = 0;
        if (listens) {
            tcp_info info{};
            length = sizeof info;
            ::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length);
            in = static_cast<int>(info.tcpi_unacked), out = static_cast<int>(info.tcpi_sacked);
        } else {
            ::ioctl(fd, FIONREAD, &in);  // SIOCINQ
            if (!pipe) ::ioctl(fd, SIOCOUTQ, &out);
            // Not of an empty queue: that would take an error that is meant for the server.
            if (!pipe && in > 0) peeked = recv_(fd, bytes, few, MSG_PEEK | MSG_DONTWAIT);
        }
        all += text("%s[%d,\"%c\",%d,%d,%d,\"", all.empty() ? "" : ",", fd,
                    pipe      ? 'p'
                    : listens ? 'l'
                              : 'c',
                    in, out, ready(fd, POLLIN | POLLOUT | POLLPRI));
        all += hex(bytes, peeked > 0 ? static_cast<std::size_t>(peeked) : 0) + "\"]";
    }
    return "[" + all + "]";
}

/// Where the program itself lies in memory: the first of what is loaded.
struct Program {
    std::uintptr_t base = 0, end = 0;
    Program() {
        ::dl_iterate_phdr(
            [](dl_phdr_info* info, std::size_t, void* found) {
                auto& program = *static_cast<Program*>(found);
                program.base = info->dlpi_addr;
                for (int i = 0; i < info->dlpi_phnum; ++i)
                    if (info->dlpi_phdr[i].p_type == PT_LOAD)
                        program.end = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr +
                                      info->dlpi_phdr[i].p_memsz;
                return 1;
            },
            this);
    }
};

std::string stack() {
    static const Program program;
    void* frames[40];
    const int depth = ::backtrace(frames, 40);
    std::string all;
    for (int i = 0; i < depth; ++i) {
        // One less: a return address is that of the line after the call.
        const auto at = reinterpret_cast<std::uintptr_t>(frames[i]) - 1;
        if (at >= program.base && at < program.end)
            all += text("%s%llu", all.empty() ? "" : ",",
                        static_cast<unsigned long long>(at - program.base));
    }
    return all;
}

/// The file: three numbers (how long the log is; how long the line of a call that has not returned;
/// how many calls were only counted since the last line), then that line, then the log.
class Record {
public:
    Record() {
        const char* path = std::getenv("RECORD");
        const int file = path ? ::open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;
        void* const mapped =
            file < 0 || ::ftruncate(file, size) < 0
                ? MAP_FAILED
                : ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (mapped == MAP_FAILED) {
            std::fprintf(stderr, "recorder: RECORD=%s cannot be written\n", path ? path : "");
            std::_Exit(99);
        }
        ::syscall(SYS_close, file);  // past our own close()
        bytes_ = static_cast<char*>(mapped);
        numbers_ = static_cast<std::atomic<std::uint64_t>*>(mapped);
    }

    void asleep(const std::string& line) {
        if (line.size() > log_at - now_at) return;
        std::memcpy(bytes_ + now_at, line.data(), line.size());
        numbers_[1] = line.size();
    }

    /// Whether `what` is only counted, under that name: it has been seen since the last success.
    bool repeats(const std::string& what, const char* name) {
        if (seen_.insert(what).second) return false;
        ++counted_[name];
        ++numbers_[2];
        return true;
    }

    bool has_seen(const std::string& what) const { return seen_.count(what) > 0; }
    void success() { seen_.clear(); }

    void add(std::string line) {
        std::string more;
        for (const auto& [name, count] : counted_)
            more += text("%s\"%s\":%ld", more.empty() ? "" : ",", name.c_str(), count);
        if (!more.empty()) line = "{\"more\":{" + more + "}}\n" + line;
        counted_.clear();
        numbers_[2] = 0;
        if (log_at + numbers_[0] + line.size() > size) return;
        std::memcpy(bytes_ + log_at + numbers_[0], line.data(), line.size());
        numbers_[0] += line.size();
    }

private:
    char* bytes_;
    std::atomic<std::uint64_t>* numbers_;  // what they count is written before them
    std::set<std::string> seen_;
    std::map<std::string, long> counted_;
};

Record& record() {
    static Record only;
    return only;
}

/// A call, from its beginning to what came of it. errno stays as the program knows it.
class Call {
public:
    Call(const char* name, int fd, Kind kind, const std::string& with)
        : name_(name), key_(text("%s %d ", name, fd)), kind_(kind) {
        const int kept = errno;
        line_ = text("{\"call\":\"%s\",\"fd\":%d", name, fd) + with;
        // What has come back empty, and would again, is not worth a look at everything.
        if (kind != Kind::plain || !record().has_seen(key_) ||
            ready(fd, name == std::string("send") ? POLLOUT : POLLIN))
            line_ += ",\"before\":" + sockets();
        line_ += text(",\"t0\":%.9f", seconds());
        if (kind != Kind::plain) record().asleep(line_ + ",\"stack\":[" + stack() + "]}");
        errno = kept;
    }

    void returned(long result, const std::string& found = {}) {
        const int kept = errno, error = result < 0 ? errno : 0;
        const double now = seconds();
        if (kind_ != Kind::plain) record().asleep("");
        const bool wait = kind_ == Kind::wait;
        if (!wait && error != EAGAIN) record().success();
        if ((wait || error == EAGAIN) &&
            record().repeats(key_ + (wait ? text("%d", error) + found : ""), name_)) {
            errno = kept;
            return;
        }
        record().add(line_ + ",\"stack\":[" + stack() +
                     text("],\"t1\":%.9f,\"result\":%ld,\"errno\":%d", now, result, error) + found +
                     ",\"after\":" + sockets() + "}\n");
        errno = kept;
    }

private:
    const char* name_;
    std::string key_, line_;
    Kind kind_;
};

using Entries = std::vector<std::pair<int, unsigned>>;  // descriptor, poll()'s bits

std::string list(const char* name, const Entries& all) {
    std::string made;
    for (const auto& [fd, events] : all)
        made += text("%s[%d,%u]", made.empty() ? "" : ",", fd, events);
    return text(",\"%s\":[", name) + made + "]";
}

std::string in_sets(const char* name, int most, const fd_set* reads, const fd_set* writes,
                    const fd_set* exceptions) {
    Entries all;
    for (int fd = 0; fd < most; ++fd) {
        const unsigned events = (reads && FD_ISSET(fd, reads) ? POLLIN : 0u) |
                                (writes && FD_ISSET(fd, writes) ? POLLOUT : 0u) |
                                (exceptions && FD_ISSET(fd, exceptions) ? POLLPRI : 0u);
        if (events) all.emplace_back(fd, events);
    }
    return list(name, all);
}

}  // namespace

extern "C" {

int accept(int fd, sockaddr* address, socklen_t* length) {
    static const auto system = next(&::accept, "accept");
    Call call("accept", fd, kind_of(fd), "");
    const int result = system(fd, address, length);
    std::string peer;
    if (result >= 0 && address && address->sa_family == AF_INET)
        peer = text(",\"peer\":%d", ntohs(reinterpret_cast<sockaddr_in*>(address)->sin_port));
    call.returned(result, peer);
    return result;
}

ssize_t recv(int fd, void* buffer, size_t most, int flags) {
    static const auto system = next(&::recv, "recv");
    Call call("recv", fd, kind_of(fd), text(",\"with\":[%zu,%d]", most, flags));
    const ssize_t count = system(fd, buffer, most, flags);
    call.returned(count,
                  count > 0 ? ",\"data\":\"" + hex(buffer, static_cast<size_t>(count)) + "\"" : "");
    return count;
}

ssize_t send(int fd, const void* buffer, size_t most, int flags) {
    static const auto system = next(&::send, "send");
    Call call("send", fd, kind_of(fd), text(",\"with\":[%zu,%d]", most, flags));
    const ssize_t count = system(fd, buffer, most, flags);
    call.returned(count, ",\"data\":\"" + hex(buffer, most) + "\"");
    return count;
}

int close(int fd) {
    static const auto system = next(&::close, "close");
    Call call("close", fd, Kind::plain, "");
    const int result = system(fd);
    call.returned(result);
    return result;
}

int select(int most, fd_set* reads, fd_set* writes, fd_set* exceptions, timeval* limit) {
    static const auto system = next(&::select, "select");
    const long milliseconds = limit ? limit->tv_sec * 1000 + limit->tv_usec / 1000 : -1;
    Call call("select", -1, Kind::wait,
              text(",\"with\":[%d,%ld]", most, milliseconds) +
                  in_sets("watched", most, reads, writes, exceptions));
    const int count = system(most, reads, writes, exceptions, limit);
    call.returned(count,
                  count < 0 ? ",\"found\":[]" : in_sets("found", most, reads, writes, exceptions));
    return count;
}

int poll(pollfd* entries, nfds_t most, int limit) {
    static const auto system = next(&::poll, "poll");
    // Whether stdout has room, a rest: no wait for clients.
    if (most < 2) return system(entries, most, limit);
    Entries watched, found;
    for (nfds_t i = 0; i < most; ++i)
        watched.emplace_back(entries[i].fd, static_cast<unsigned short>(entries[i].events));
    Call call(
        "poll", -1, Kind::wait,
        text(",\"with\":[%zu,%d]", static_cast<size_t>(most), limit) + list("watched", watched));
    const int count = system(entries, most, limit);
    for (nfds_t i = 0; count > 0 && i < most; ++i)
        if (entries[i].revents)
            found.emplace_back(entries[i].fd, static_cast<unsigned short>(entries[i].revents));
    call.returned(count, list("found", found));
    return count;
}

int epoll_wait(int fd, epoll_event* entries, int most, int limit) {
    static const auto system = next(&::epoll_wait, "epoll_wait");
    Call call("epoll_wait", fd, Kind::wait, text(",\"with\":[%d,%d]", most, limit));
    const int count = system(fd, entries, most, limit);
    Entries found;
    for (int i = 0; i < count; ++i) {
        const epoll_event entry = entries[i];  // packed: no reference to a part of it
        found.emplace_back(int{entry.data.fd}, unsigned{entry.events});
    }
    call.returned(count, list("found", found));
    return count;
}

int epoll_ctl(int epoll, int operation, int fd, epoll_event* entry) noexcept {
    static const auto system = next(&::epoll_ctl, "epoll_ctl");
    Call call("epoll_ctl", fd, Kind::plain,
              text(",\"with\":[%d,%u]", operation, entry ? unsigned{entry->events} : 0));
    const int result = system(epoll, operation, fd, entry);
    call.returned(result);
    return result;
}
}
