// ask.hpp: a state is made, and each of the four ways to wait is asked, and recv, send, SO_ERROR.
#pragma once

#include <sys/select.h>

#include "scene.hpp"

struct Row {
    std::string select, poll, level, edge, edge_again, recv, send, so_error;
};

inline std::string ask_select(const Scene& scene) {
    if (scene.number >= FD_SETSIZE) return "no room";  // FD_SET would write behind the set
    fd_set sets[3];
    for (fd_set& set : sets) {
        FD_ZERO(&set);
        if (scene.wanted) FD_SET(scene.number, &set);
    }
    timeval at_once{};
    if (::select(scene.number + 1, &sets[0], &sets[1], &sets[2], &at_once) < 0)
        return errno_name(errno);
    std::string text;
    for (std::size_t i = 0; i < 3; ++i)
        if (FD_ISSET(scene.number, &sets[i])) text += "rwx"[i];
    return text.empty() ? "-" : text;
}

inline std::string ask_poll(const Scene& scene) {
    std::vector<pollfd> array(scene.entries, {scene.number, static_cast<short>(scene.wanted), 0});
    check(::poll(array.data(), array.size(), 0), "poll");
    std::string text;
    for (const pollfd& entry : array)
        text += (text.empty() ? "" : " ") + letters(static_cast<unsigned short>(entry.revents));
    return text;
}

/// Both answers, or one if the second is the same.
inline std::string both(const std::string& first, const std::string& again) {
    return first == again ? first : first + ", " + again;
}

inline std::string result(ssize_t value) {
    return value < 0 ? errno_name(errno) : std::to_string(value);
}

inline std::string receive(int fd) {
    char buffer[64];
    const ssize_t bytes = ::recv(fd, buffer, sizeof buffer, 0);
    return result(bytes < 0 && errno == ENOTSOCK ? ::read(fd, buffer, sizeof buffer) : bytes);
}

inline std::string try_accept(const Scene& scene) {
    const Descriptor fd(::accept4(scene.number, nullptr, nullptr, SOCK_NONBLOCK));
    if (fd.get() < 0) return errno_name(errno);
    if (scene.reset_comes) wait_for(fd, POLLERR);
    return "ok: " + receive(fd.get());
}

inline std::string try_recv(const Scene& scene) {
    int listens = 0;
    socklen_t size = sizeof listens;
    ::getsockopt(scene.number, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size);
    if (listens) return try_accept(scene);
    char byte;
    const bool urgent = ::recv(scene.number, &byte, 1, MSG_OOB) == 1;
    const std::string first = receive(scene.number), again = receive(scene.number);
    return (urgent ? "oob 1, " : "") + both(first, again);
}

inline std::string try_send(const Scene& scene) {
    const ssize_t bytes = ::send(scene.number, "!", 1, 0);
    return result(bytes < 0 && errno == ENOTSOCK ? ::write(scene.number, "!", 1) : bytes);
}

inline std::string try_so_error(const Scene& scene) {
    int error = 0;
    socklen_t size = sizeof error;
    const int done = ::getsockopt(scene.number, SOL_SOCKET, SO_ERROR, &error, &size);
    return errno_name(done < 0 ? errno : error);
}

/// recv, send and SO_ERROR get a scene each: who is told of an error takes it from the others. To
/// wait takes nothing.
inline Row ask(void (*make)(Scene&)) {
    const auto in_new_scene = [&](const std::function<void(Scene&)>& question) {
        Scene scene;
        make(scene);
        question(scene);
    };
    Row row;
    in_new_scene([&](Scene& scene) {
        row.select = ask_select(scene);
        row.poll = ask_poll(scene);
        row.level = scene.level.ask(20);  // a listener's news have no lock that queued() could take
        row.level = both(row.level, scene.level.ask());
        row.edge = scene.edge.ask(20);
        row.edge_again = scene.edge.ask();
    });
    in_new_scene([&](Scene& scene) { row.recv = try_recv(scene); });
    in_new_scene([&](Scene& scene) { row.send = try_send(scene); });
    in_new_scene([&](Scene& scene) {
        row.so_error = try_so_error(scene);
        row.so_error = both(row.so_error, try_so_error(scene));
    });
    return row;
}
