// selector_test.cpp: what selector.hpp promises, without a server around it. test_selector.py
// builds it, and runs each test for each of the selectors: selector_test poll register_twice
//
// Status 0: it held. 1: it did not; stderr says what. 77: it cannot be tried here.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "frame.hpp"

std::string backend;

namespace {

std::string asked;  // a test's name
bool done = false;

}  // namespace

void test(const char* name, void (*body)(Selector&)) {
    if (name != asked) return;
    done = true;
    body(*selectors::make(backend));
}

void skip() { std::exit(77); }

void check(bool holds, const char* file, int line, const char* text) {
    if (holds) return;
    std::fprintf(stderr, "%s:%d: %s\n", file, line, text);
    std::exit(1);
}

Pair::Pair() {
    int both[2];
    CHECK(::socketpair(AF_UNIX, SOCK_STREAM, 0, both) == 0);
    one = both[0];
    other = both[1];
}

Found found(Selector& selector, double timeout) {
    Found ready;
    for (const auto& [key, events] : selector.select(timeout))
        CHECK(ready.emplace(key->fd, events).second);
    return ready;
}

void call_all(Selector& selector, double timeout) {
    for (const auto& [key, events] : selector.select(timeout))
        if (events & key->events) key->callback(events & key->events);
}

void check_usable(Selector& selector) {
    const std::size_t before = selector.size();
    Pair pair;
    int calls = 0;
    selector.register_fd(pair.one, selectors::read, [&](Events events) {
        CHECK(events == selectors::read);
        ++calls;
    });
    CHECK(selector.size() == before + 1);
    pair.speak();
    call_all(selector, 5);
    CHECK(calls == 1);
    selector.unregister(pair.one);
    CHECK(selector.size() == before);
}

double seconds_of(const std::function<void()>& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::size_t open_descriptors(bool inherited) {
    std::size_t count = 0;
    for (int fd = 0; fd < 1024; ++fd) {
        const int flags = ::fcntl(fd, F_GETFD);
        count += flags >= 0 && !(inherited && flags & FD_CLOEXEC);
    }
    return count;
}

int main(int argc, char* argv[]) {
    if (argc != 3) return 2;
    backend = argv[1];
    asked = argv[2];
    const auto& all = selectors::names;
    if (std::find(all.begin(), all.end(), backend) == all.end()) skip();
    for (const auto group : {readiness, misuse, callbacks, system_limits}) group();
    return done ? 0 : 2;
}
