// calls.hpp, the same in every stage: the system calls on connections. accept(), recv() and send()
// return what their namesakes return, and leave errno as it is; on the way each call is counted and
// narrated. What to do next is not decided here.
#pragma once

#include <cstdio>
#include <string>
#include <string_view>

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "listener.hpp"
#include "narration.hpp"

/// Not an error: there is nothing to receive, no room to send, nobody to accept (EAGAIN), or a
/// signal came (EINTR). Try again when the descriptor is ready.
inline bool try_again(int error) {
    return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

/// Whether accept() failed because of this newcomer alone (accept(2), "Error handling"), and the
/// next one may be had at once. Otherwise descriptors or memory are lacking, and that may last.
inline bool only_this_newcomer(int error) {
#ifdef ENONET  // Linux has these two
    if (error == EHOSTDOWN || error == ENONET) return true;
#endif
    return try_again(error) || error == ECONNABORTED || error == EPROTO || error == ENOPROTOOPT ||
           error == ENETDOWN || error == ENETUNREACH || error == EHOSTUNREACH ||
           error == EOPNOTSUPP || error == EPERM;  // EPERM: a firewall forbids it
}

/// To close() a connection as soon as the last words are sent is too early: to what the peer sent
/// and we have not read, and to what it sends later, our kernel answers with a reset, and throws
/// away what it had still to send (RFC 1122, 4.2.2.13). So we end our half of the connection,
/// behind the last byte, and read (and drop) what comes until the peer ends its own half. It has
/// this many seconds for that; and before, to take some of our last words.
constexpr double linger_time = 5;

/// Sets how many descriptors this process may have: `most`, or as many as the system allows.
inline void limit_descriptors(Narration& narration, rlim_t most) {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = most < limit.rlim_max ? most : limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
    ::getrlimit(RLIMIT_NOFILE, &limit);
    narration.narrate("limit", "descriptors=%llu", static_cast<unsigned long long>(limit.rlim_cur));
}

class Calls {
public:
    explicit Calls(Narration& narration) : narration_(narration) {}

    int accept(const Listener& listener) {
        sockaddr_storage address{};
        socklen_t size = sizeof address;
        const double before = narration_.stopwatch();
        ++narration_.counters.accept;
        const int fd = ::accept(listener.fd.get(), reinterpret_cast<sockaddr*>(&address), &size);
        if (fd < 0) return failed("accept", listener.fd.get(), before);
        if (++narration_.counters.clients > narration_.counters.max_clients)
            narration_.counters.max_clients = narration_.counters.clients;
        if (narration_.narrating())
            narration_.narrate("accept", "fd=%d service=%s peer=%s clients=%llu%s", fd,
                               name_of(listener.service), address_text(address, size).c_str(),
                               narration_.counters.clients, slept(before).c_str());
        return fd;
    }

    ssize_t recv(int fd, char* buffer, std::size_t size) {
        const double before = narration_.stopwatch();
        ++narration_.counters.recv;
        const ssize_t count = ::recv(fd, buffer, size, 0);
        if (count < 0) return failed("recv", fd, before);
        const std::string_view bytes(buffer, static_cast<std::size_t>(count));
        narration_.counters.bytes_in += bytes.size();
        if (narration_.narrating())
            narration_.narrate("recv", "fd=%d bytes=%zd%s%s%s", fd, count, count ? " data=" : "",
                               count ? in_quotes(bytes).c_str() : "", slept(before).c_str());
        return count;
    }

    /// TCP's urgent byte, which travels beside the stream (RFC 6093: not for new programs). Fails
    /// with EINVAL if it has been read already, or overtaken by another.
    ssize_t recv_urgent(int fd) {
        char byte = 0;
        ++narration_.counters.recv;
        const ssize_t count = ::recv(fd, &byte, 1, MSG_OOB);
        if (count > 0)
            narration_.narrate("urgent", "fd=%d data=%s", fd, in_quotes({&byte, 1}).c_str());
        else if (narration_.verbose())
            narration_.narrate("call", "name=recv fd=%d flags=MSG_OOB error=%s", fd,
                               errno_name(errno));
        return count;
    }

    ssize_t send(int fd, std::string_view bytes) {
        const double before = narration_.stopwatch();
        ++narration_.counters.send;
        const ssize_t count = ::send(fd, bytes.data(), bytes.size(), 0);
        if (count < 0) return failed("send", fd, before);
        narration_.counters.bytes_out += static_cast<std::size_t>(count);
        if (narration_.narrating()) {
            const std::size_t left = bytes.size() - static_cast<std::size_t>(count);
            narration_.narrate("send", "fd=%d bytes=%zd%s%s", fd, count,
                               left ? joined({" left=", std::to_string(left)}).c_str() : "",
                               slept(before).c_str());
        }
        return count;
    }

    /// Ends our half of the connection, behind what was sent. We can still receive.
    void shutdown(int fd) {
        ::shutdown(fd, SHUT_WR);
        made("shutdown", fd, " how=SHUT_WR");
    }

    /// From here on recv() and send() fail with EAGAIN when they have slept for a second.
    void limit_sleep(int fd) {
        const timeval second{1, 0};
        ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second);
        ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &second, sizeof second);
        made("setsockopt", fd, " option=SO_RCVTIMEO");
        made("setsockopt", fd, " option=SO_SNDTIMEO");
    }

    /// close() of a client, and why.
    void close(Descriptor& fd, const char* reason) {
        narration_.narrate("close", "fd=%d reason=%s clients=%llu", fd.get(), reason,
                           --narration_.counters.clients);
        fd.close();
    }

    void set_nonblocking(int fd) {
        ::fcntl(fd, F_SETFL, O_NONBLOCK);
        made("fcntl", fd, " flags=O_NONBLOCK");
    }

    /// Nagle's algorithm (RFC 896) would keep the last small segment of an answer back until the
    /// one before is acknowledged: 40 ms, with a peer that delays its acknowledgements.
    void set_nodelay(int fd) {
        const int on = 1;
        ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        made("setsockopt", fd, " option=TCP_NODELAY");
    }

private:
    void made(const char* call, int fd, const char* how) {
        if (narration_.verbose()) narration_.narrate("call", "name=%s fd=%d%s", call, fd, how);
    }

    int failed(const char* call, int fd, double before) {
        const int error = errno;
        const bool again = error == EAGAIN || error == EWOULDBLOCK;
        if (again) ++narration_.counters.would_block;
        if (!again || narration_.verbose())
            narration_.narrate(call, "fd=%d error=%s%s", fd, errno_name(error),
                               slept(before).c_str());
        errno = error;
        return -1;
    }

    // Only stage 1's calls sleep.
    ShortText slept(double before) const {
        char text[32] = "";
        if (narration_.options.stage == 1)
            std::snprintf(text, sizeof text, " slept=%.3f", monotonic() - before);
        ShortText copy;
        copy.add(text);
        return copy;
    }

    Narration& narration_;
};
