// frame.hpp: what the tests of selector.hpp are made of.
#pragma once

#include <cstring>
#include <functional>
#include <map>
#include <string>

#include <sys/socket.h>
#include <unistd.h>

#include "../../../06_selector_callbacks/selector.hpp"

using selectors::Events;
using selectors::Key;
using selectors::Selector;

extern std::string backend;  // select, poll or epoll

/// Calls `body`, with a selector of that kind, if it is the test that was asked for.
void test(const char* name, void (*body)(Selector&));

// All there are, each in a file of that name.
void readiness();
void misuse();
void callbacks();
void system_limits();

/// It cannot be tried here.
[[noreturn]] void skip();

void check(bool holds, const char* file, int line, const char* text);
#define CHECK(...) check((__VA_ARGS__), __FILE__, __LINE__, #__VA_ARGS__)

// The exception has to be exactly that one, and to say something.
template <typename Exception>
bool throws(const auto& deed) {
    try {
        deed();
    } catch (const Exception& error) {
        return std::strlen(error.what()) > 5;
    } catch (...) {}
    return false;
}
#define THROWS(exception, statement) CHECK(throws<exception>([&] { statement; }))

// The same, for an error that the system reported.
int error_of(const auto& deed) {
    try {
        deed();
    } catch (const std::system_error& error) {
        return error.code().value();
    } catch (...) {}
    return 0;
}
#define FAILS(number, statement) CHECK(error_of([&] { statement; }) == (number))

/// A connected pair, closed at the end unless it has been before.
struct Pair {
    int one = -1, other = -1;

    Pair();
    ~Pair() { close_one(), close_other(); }
    Pair(const Pair&) = delete;
    Pair& operator=(const Pair&) = delete;

    void speak() const { CHECK(::write(other, "x", 1) == 1); }  // makes `one` readable
    void listen() const {
        char byte;
        CHECK(::read(one, &byte, 1) == 1);
    }
    void close_one() { close(one); }
    void close_other() { close(other); }

private:
    static void close(int& end) {
        if (end >= 0) ::close(std::exchange(end, -1));
    }
};

inline void ignore(Events) {}

/// Ready descriptors, and what for.
using Found = std::map<int, Events>;

/// What select() finds now. It finds each descriptor once.
Found found(Selector& selector, double timeout = 0);

void call_all(Selector& selector, double timeout = 0);

/// Whatever was done to it: a descriptor can be registered, found ready, called back for, and left.
void check_usable(Selector& selector);

double seconds_of(const std::function<void()>& work);

/// How many are open; or, of them, how many a program that is started would inherit.
std::size_t open_descriptors(bool inherited = false);
