// print.hpp: std::printf for truth.cpp and calls.cpp. It writes at once, and does not keep to
// itself what became of that.
#pragma once

#include <cerrno>
#include <cstdarg>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

/// A reader that left (`| head -1`) is no error.
[[noreturn]] inline void stdout_failed(int error) {
    if (error == EPIPE) std::exit(0);
    std::fprintf(stderr, "%s: stdout: %s\n", program_invocation_short_name, std::strerror(error));
    std::exit(1);
}

/// To be called first: if stdout is closed, the next socket gets its number, and what is printed.
inline void require_stdout() {
    if (::fcntl(STDOUT_FILENO, F_GETFL) < 0) stdout_failed(errno);
}

/// The program has to ignore SIGPIPE.
[[gnu::format(printf, 1, 2)]] inline void print(const char* format, ...) {
    va_list values, again;
    va_start(values, format);
    va_copy(again, values);
    std::string text(static_cast<std::size_t>(std::vsnprintf(nullptr, 0, format, values)), '\0');
    std::vsnprintf(text.data(), text.size() + 1, format, again);
    va_end(again);
    va_end(values);
    for (std::size_t done = 0; done < text.size();) {
        const ssize_t count = ::write(STDOUT_FILENO, text.data() + done, text.size() - done);
        if (count >= 0) done += static_cast<std::size_t>(count);
        else if (errno == EAGAIN) {  // somebody left it non-blocking
            pollfd room{STDOUT_FILENO, POLLOUT, 0};
            ::poll(&room, 1, -1);
        } else if (errno != EINTR) stdout_failed(errno);
    }
}
