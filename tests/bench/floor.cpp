// The floor: what a message costs when nothing is done but to receive it and to send it back. One
// connection at a time, two system calls a message, no wait, no outbox, no counters, no errors
// dealt with: no server can be cheaper, and this one is of no other use. `make bench` measures the
// six against it.

#include <cstdio>
#include <cstdlib>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char* argv[]) {
    if (argc > 2 || (argc == 2 && (argv[1][0] < '0' || argv[1][0] > '9'))) {
        std::fprintf(stderr, "floor: usage: floor [PORT]; without one, any that is free\n");
        return 2;
    }
    ::signal(SIGPIPE, SIG_IGN);
    const int listener = ::socket(AF_INET, SOCK_STREAM, 0), on = 1;
    sockaddr_in address{};
    socklen_t size = sizeof address;
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<in_port_t>(argc == 2 ? std::atoi(argv[1]) : 0));
    ::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (::bind(listener, reinterpret_cast<sockaddr*>(&address), size) < 0 ||
        ::listen(listener, 8) < 0) {
        std::perror("floor");
        return 1;
    }
    ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
    std::printf("   0.000 listen  fd=%d service=echo address=127.0.0.1:%d\n", listener,
                ntohs(address.sin_port));
    std::fflush(stdout);
    static char buffer[16 * 1024];
    for (;;) {
        const int peer = ::accept(listener, nullptr, nullptr);
        ::setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        for (ssize_t count; (count = ::recv(peer, buffer, sizeof buffer, 0)) > 0;)
            if (::send(peer, buffer, static_cast<std::size_t>(count), 0) != count) break;
        ::close(peer);
    }
}
