// selector_test.cpp: what selector.hpp promises, without a server around it. test_selector.py
// builds it, and runs each test for each of the selectors: selector_test poll register_twice
//
// Status 0: it held. 1: it did not; stderr says what. 77: it cannot be tried here.

#include "../../../06_selector_callbacks/selector.hpp"

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>
#include <set>

#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

// Every allocation of this program; the one that makes it 0 fails.
long allocations_left = -1;

void* operator new(std::size_t size) {
    if (allocations_left > 0 && --allocations_left == 0) throw std::bad_alloc();
    if (void* const memory = std::malloc(size)) return memory;
    throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using selectors::Events;
using selectors::Key;
using selectors::Selector;

const std::string* backend;  // select, poll or epoll

std::unique_ptr<Selector> make() {
    if (*backend == "select") return std::make_unique<selectors::SelectSelector>();
    if (*backend == "poll") return std::make_unique<selectors::PollSelector>();
#ifdef SELECTORS_HAVE_EPOLL
    if (*backend == "epoll") return std::make_unique<selectors::EpollSelector>();
#endif
    std::exit(77);
}

[[noreturn]] void fail(int line, const char* text) {
    std::fprintf(stderr, "line %d: %s\n", line, text);
    std::exit(1);
}

#define CHECK(condition)                              \
    do {                                              \
        if (!(condition)) fail(__LINE__, #condition); \
    } while (false)

// The exception has to be exactly that one, and to say something.
#define THROWS(exception, statement)                                                       \
    do {                                                                                   \
        bool thrown = false;                                                               \
        try {                                                                              \
            statement;                                                                     \
        } catch (const exception& error) {                                                 \
            thrown = std::strlen(error.what()) > 5;                                        \
        } catch (...) {                                                                    \
            fail(__LINE__, #statement " throws, but not " #exception);                     \
        }                                                                                  \
        if (!thrown) fail(__LINE__, #statement " throws no " #exception " that says why"); \
    } while (false)

// The same, for an error that the system reported.
#define FAILS(number, statement)                                                       \
    do {                                                                               \
        int code = 0;                                                                  \
        try {                                                                          \
            statement;                                                                 \
        } catch (const std::system_error& error) {                                     \
            code = error.code().value();                                               \
        } catch (...) {                                                                \
            fail(__LINE__, #statement " throws, but no system_error");                 \
        }                                                                              \
        if (code != number) fail(__LINE__, #statement " does not fail with " #number); \
    } while (false)

// A connected pair, closed at the end unless it has been before.
struct Pair {
    int one = -1, other = -1;

    Pair() {
        int both[2];
        CHECK(::socketpair(AF_UNIX, SOCK_STREAM, 0, both) == 0);
        one = both[0];
        other = both[1];
    }
    ~Pair() { close_one(), close_other(); }
    Pair(const Pair&) = delete;
    Pair& operator=(const Pair&) = delete;

    void speak() const { CHECK(::write(other, "x", 1) == 1); }  // makes `one` readable
    void listen() const {
        char byte;
        CHECK(::read(one, &byte, 1) == 1);
    }
    void close_one() {
        if (one >= 0) ::close(one), one = -1;
    }
    void close_other() {
        if (other >= 0) ::close(other), other = -1;
    }
};

void ignore(Events) {}

// What select() finds now, by descriptor; waits for nothing.
std::map<int, Events> found(Selector& selector) {
    std::map<int, Events> ready;
    for (const auto& [key, events] : selector.select(0)) ready[key->fd] = events;
    return ready;
}

void call_all(Selector& selector, double timeout = 0) {
    for (const auto& [key, events] : selector.select(timeout))
        if (events & key->events) key->callback(events & key->events);
}

// Whatever was done to it: a descriptor can be registered, found ready, called back for, and left.
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

int closed_descriptor() {
    const Pair pair;
    return pair.one;
}

std::size_t open_descriptors() {
    std::size_t count = 0;
    for (int fd = 0; fd < 1024; ++fd) count += ::fcntl(fd, F_GETFD) >= 0;
    return count;
}

std::map<std::string, void (*)()>& tests() {
    static std::map<std::string, void (*)()> all;
    return all;
}

struct Test {
    Test(const char* name, void (*body)()) { tests()[name] = body; }
};

#define TEST(name)                          \
    void name();                            \
    const Test test_of_##name(#name, name); \
    void name()

// ---- What is ready ------------------------------------------------------------------------------

TEST(nothing_registered) {
    const auto selector = make();
    CHECK(selector->size() == 0);
    CHECK(selector->select(0).empty());
    CHECK(selector->select(0.01).empty());
    check_usable(*selector);
}

TEST(readable_and_writable) {
    const auto selector = make();
    const Pair pair;
    selector->register_fd(pair.one, selectors::read, ignore);
    CHECK(found(*selector).empty());
    pair.speak();
    CHECK(found(*selector) == (std::map<int, Events>{{pair.one, selectors::read}}));
    CHECK(found(*selector).size() == 1);  // and again, as long as it is
    selector->modify(pair.one, selectors::read | selectors::write);
    CHECK(found(*selector).at(pair.one) == (selectors::read | selectors::write));
    selector->modify(pair.one, selectors::write);
    CHECK(found(*selector).at(pair.one) == selectors::write);
    pair.listen();
    selector->modify(pair.one, selectors::read);
    CHECK(found(*selector).empty());
    selector->unregister(pair.one);
    pair.speak();
    CHECK(found(*selector).empty());
}

TEST(only_those_that_are_ready) {
    const auto selector = make();
    Pair pairs[20];
    for (const Pair& pair : pairs) selector->register_fd(pair.one, selectors::read, ignore);
    pairs[3].speak();
    pairs[17].speak();
    const std::map<int, Events> expected = {{pairs[3].one, selectors::read},
                                            {pairs[17].one, selectors::read}};
    CHECK(found(*selector) == expected);
    for (const Pair& pair : pairs) selector->unregister(pair.one);
    CHECK(found(*selector).empty());
}

TEST(peer_gone) {
    const auto selector = make();
    Pair pair;
    selector->register_fd(pair.one, selectors::read, ignore);
    pair.close_other();
    CHECK(found(*selector).at(pair.one) == selectors::read);  // the next read says what happened
    selector->modify(pair.one, selectors::write);
    CHECK(found(*selector).at(pair.one) == selectors::write);
}

TEST(pipe_without_reader) {
    const auto selector = make();
    int ends[2];
    CHECK(::pipe(ends) == 0);
    selector->register_fd(ends[1], selectors::write, ignore);
    ::close(ends[0]);
    CHECK(found(*selector).at(ends[1]) == selectors::write);
    selector->unregister(ends[1]);
    ::close(ends[1]);
}

TEST(urgent_data) {
    const auto selector = make();
    sockaddr_in address{};
    socklen_t size = sizeof address;
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
    CHECK(::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    CHECK(::listen(listener, 1) == 0);
    CHECK(::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size) == 0);
    const int peer = ::socket(AF_INET, SOCK_STREAM, 0);
    CHECK(::connect(peer, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    const int fd = ::accept(listener, nullptr, nullptr);
    selector->register_fd(fd, selectors::read | selectors::urgent, ignore);
    CHECK(found(*selector).empty());
    CHECK(::send(peer, "!", 1, MSG_OOB) == 1);
    CHECK((selector->select(5).at(0).second & selectors::urgent) != 0);
    char byte = 0;
    CHECK(::recv(fd, &byte, 1, MSG_OOB) == 1 && byte == '!');
    selector->modify(fd, selectors::read);
    CHECK((found(*selector)[fd] & selectors::urgent) == 0);
    selector->unregister(fd);
    for (const int each : {fd, peer, listener}) ::close(each);
}

TEST(only_urgent_is_wanted_and_the_peer_is_gone) {
    const auto selector = make();
    Pair pair;
    selector->register_fd(pair.one, selectors::urgent, ignore);
    pair.close_other();
    CHECK(found(*selector).size() == (*backend == "select" ? 0 : 1));
}

TEST(more_at_once_than_fit_one_answer) {
    const auto selector = make();
    std::vector<std::unique_ptr<Pair>> pairs;
    std::map<int, int> calls;
    for (int i = 0; i < 400; ++i) {
        pairs.push_back(std::make_unique<Pair>());
        const Pair& pair = *pairs.back();
        selector->register_fd(pair.one, selectors::read, [&calls, &pair](Events) {
            ++calls[pair.one];
            pair.listen();
        });
        pair.speak();
    }
    for (int round = 0; round < 4 && calls.size() < 400; ++round) call_all(*selector);
    CHECK(calls.size() == 400);
    for (const auto& [fd, count] : calls) CHECK(count == 1);
    CHECK(found(*selector).empty());
}

// ---- How long it waits --------------------------------------------------------------------------

TEST(time_limit) {
    const auto selector = make();
    const Pair pair;
    selector->register_fd(pair.one, selectors::read, ignore);
    CHECK(seconds_of([&] { CHECK(selector->select(0.05).empty()); }) >= 0.05);
    CHECK(seconds_of([&] { CHECK(selector->select(0.0015).empty()); }) >= 0.0015);
    CHECK(seconds_of([&] { CHECK(selector->select(0).empty()); }) < 5);
    pair.speak();
    CHECK(seconds_of([&] { CHECK(selector->select(3600).size() == 1); }) < 5);
    CHECK(selector->select().size() == 1);
}

TEST(a_very_long_time_limit) {
    const auto selector = make();
    const Pair pair;
    selector->register_fd(pair.one, selectors::read, ignore);
    pair.speak();
    CHECK(selector->select(1e300).size() == 1);
}

TEST(a_negative_time_limit_is_not_waited_for) {
    const auto selector = make();
    const Pair pair;
    selector->register_fd(pair.one, selectors::read, ignore);
    CHECK(seconds_of([&] { CHECK(selector->select(-1).empty()); }) < 5);
    CHECK(selector->select(-1e300).empty());
    pair.speak();
    CHECK(selector->select(-1).size() == 1);
    CHECK(selector->select(selectors::no_limit).size() == 1);
}

TEST(a_time_limit_that_is_no_number) {
    const auto selector = make();
    const Pair pair;
    selector->register_fd(pair.one, selectors::read, ignore);
    THROWS(std::invalid_argument, selector->select(std::nan("")));
    check_usable(*selector);
}

TEST(a_signal_ends_the_wait) {
    const auto selector = make();
    const Pair pair;
    selector->register_fd(pair.one, selectors::read, ignore);
    struct sigaction action {};
    action.sa_handler = [](int) {};
    CHECK(::sigaction(SIGALRM, &action, nullptr) == 0);
    itimerval timer{};
    timer.it_value.tv_usec = timer.it_interval.tv_usec = 20000;  // again and again: none is missed
    CHECK(::setitimer(ITIMER_REAL, &timer, nullptr) == 0);
    CHECK(selector->select(60).empty());
    timer = {};
    CHECK(::setitimer(ITIMER_REAL, &timer, nullptr) == 0);
    check_usable(*selector);
}

// ---- Misuse -------------------------------------------------------------------------------------

TEST(register_twice) {
    const auto selector = make();
    const Pair pair;
    int first = 0, second = 0;
    selector->register_fd(pair.one, selectors::read, [&](Events) { ++first; });
    THROWS(std::invalid_argument,
           selector->register_fd(pair.one, selectors::write, [&](Events) { ++second; }));
    CHECK(selector->size() == 1);
    CHECK(selector->get_key(pair.one).events == selectors::read);
    CHECK(found(*selector).empty());
    pair.speak();
    call_all(*selector);
    CHECK(first == 1 && second == 0);
    check_usable(*selector);
}

TEST(register_a_negative_descriptor) {
    const auto selector = make();
    THROWS(std::invalid_argument, selector->register_fd(-1, selectors::read, ignore));
    THROWS(std::invalid_argument, selector->register_fd(-1000000, selectors::read, ignore));
    CHECK(selector->size() == 0);
    check_usable(*selector);
}

TEST(register_a_closed_descriptor) {
    const auto selector = make();
    const int closed = closed_descriptor();
    FAILS(EBADF, selector->register_fd(closed, selectors::read, ignore));
    CHECK(selector->size() == 0);
    THROWS(std::out_of_range, selector->get_key(closed));
    CHECK(found(*selector).empty());
    check_usable(*selector);  // which is likely to get that very number
}

TEST(register_for_no_events) {
    const auto selector = make();
    const Pair pair;
    THROWS(std::invalid_argument, selector->register_fd(pair.one, 0, ignore));
    THROWS(std::invalid_argument, selector->register_fd(pair.one, 1U << 20, ignore));
    CHECK(selector->size() == 0);
    selector->register_fd(pair.one, selectors::read, ignore);
    check_usable(*selector);
}

TEST(modify_the_unknown) {
    const auto selector = make();
    const Pair pair;
    THROWS(std::out_of_range, selector->modify(pair.one, selectors::read));
    THROWS(std::out_of_range, selector->modify(-1, selectors::read));
    CHECK(selector->size() == 0);
    check_usable(*selector);
}

TEST(modify_to_no_events) {
    const auto selector = make();
    const Pair pair;
    selector->register_fd(pair.one, selectors::read, ignore);
    THROWS(std::invalid_argument, selector->modify(pair.one, 0));
    THROWS(std::invalid_argument, selector->modify(pair.one, selectors::read | 1U << 20));
    CHECK(selector->get_key(pair.one).events == selectors::read);
    pair.speak();
    CHECK(found(*selector).at(pair.one) == selectors::read);
    check_usable(*selector);
}

TEST(modify_a_closed_descriptor) {
    const auto selector = make();
    Pair pair;
    const int number = pair.one;
    selector->register_fd(number, selectors::read, ignore);
    pair.close_one();
    FAILS(EBADF, selector->modify(number, selectors::write));
    CHECK(selector->get_key(number).events == selectors::read);
    selector->unregister(number);
    check_usable(*selector);
}

TEST(unregister_the_unknown) {
    const auto selector = make();
    const Pair pair;
    THROWS(std::out_of_range, selector->unregister(pair.one));
    THROWS(std::out_of_range, selector->unregister(-1));
    selector->register_fd(pair.one, selectors::read, ignore);
    selector->unregister(pair.one);
    THROWS(std::out_of_range, selector->unregister(pair.one));
    CHECK(selector->size() == 0);
    check_usable(*selector);
}

TEST(unregister_after_close) {
    const auto selector = make();
    Pair pair;
    const int number = pair.one;
    selector->register_fd(number, selectors::read, ignore);
    pair.close_one();
    selector->unregister(number);
    CHECK(selector->size() == 0);
    CHECK(found(*selector).empty());
    check_usable(*selector);
}

TEST(closed_and_never_unregistered) {
    const auto selector = make();
    Pair pair;
    const int number = pair.one;
    selector->register_fd(number, selectors::read, ignore);
    pair.close_one();
    // select() refuses to wait, poll() reports it, epoll has forgotten it: none of them crashes or
    // hangs, and unregister() mends it.
    try {
        selector->select(0);
    } catch (const std::system_error& error) {
        CHECK(error.code().value() == EBADF);
    }
    selector->unregister(number);
    CHECK(found(*selector).empty());
    check_usable(*selector);
}

TEST(get_the_key_of_the_unknown) {
    const auto selector = make();
    const Pair pair;
    THROWS(std::out_of_range, selector->get_key(pair.one));
    THROWS(std::out_of_range, selector->get_key(-1));
    const Key& key = selector->register_fd(pair.one, selectors::read, ignore);
    CHECK(key.fd == pair.one && key.events == selectors::read);
    CHECK(&selector->get_key(pair.one) == &key);
    CHECK(&selector->modify(pair.one, selectors::write) == &key);
    CHECK(key.events == selectors::write);
}

TEST(a_descriptor_beyond_an_fd_set) {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, FD_SETSIZE + 100);
    ::setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur <= FD_SETSIZE) std::exit(77);
    const auto selector = make();
    const Pair pair;
    const int high = ::dup2(pair.one, FD_SETSIZE);
    CHECK(high == FD_SETSIZE);
    const int last = ::dup2(pair.one, FD_SETSIZE - 1);
    if (*backend == "select") {
        FAILS(EMFILE, selector->register_fd(high, selectors::read, ignore));
        CHECK(selector->size() == 0);
    } else {
        selector->register_fd(high, selectors::read, ignore);
        pair.speak();
        CHECK(found(*selector).at(high) == selectors::read);
        pair.listen();
    }
    selector->register_fd(last, selectors::read, ignore);
    pair.speak();
    CHECK(found(*selector).at(last) == selectors::read);
    pair.listen();
    check_usable(*selector);
    ::close(high);
    ::close(last);
}

TEST(a_regular_file) {
    const auto selector = make();
    std::FILE* file = std::tmpfile();
    CHECK(file != nullptr);
    const int fd = ::fileno(file);
    if (*backend == "epoll") {
        FAILS(EPERM, selector->register_fd(fd, selectors::read, ignore));
        CHECK(selector->size() == 0);
    } else {  // always ready
        selector->register_fd(fd, selectors::read, ignore);
        CHECK(found(*selector).at(fd) == selectors::read);
        selector->unregister(fd);
    }
    check_usable(*selector);
    std::fclose(file);
}

TEST(an_exception_from_a_callback) {
    const auto selector = make();
    const Pair pair;
    const auto throws = [](Events) { throw std::runtime_error("mine"); };
    selector->register_fd(pair.one, selectors::read, throws);
    pair.speak();
    try {
        call_all(*selector);
        CHECK(false);
    } catch (const std::runtime_error&) {}
    selector->unregister(pair.one);
    check_usable(*selector);
}

// ---- Callbacks that change what is registered ---------------------------------------------------

// Two that are ready in the same batch. Whichever is called first does `deed` to the other.
struct Couple {
    Pair pairs[2];
    int calls = 0;
    int first = -1;  // which of the two was called first

    void start(Selector& selector, const std::function<void(Pair& other)>& deed) {
        for (int i = 0; i < 2; ++i) {
            selector.register_fd(pairs[i].one, selectors::read, [this, i, deed](Events) {
                if (++calls > 1) return;
                first = i;
                deed(pairs[1 - i]);
            });
            pairs[i].speak();
        }
        CHECK(found(selector).size() == 2);
        call_all(selector);
    }
};

TEST(a_callback_unregisters_and_closes_another) {
    const auto selector = make();
    Couple couple;
    couple.start(*selector, [&](Pair& other) {
        selector->unregister(other.one);
        other.close_one();
    });
    CHECK(couple.calls == 1);  // the other's event was for one that is gone
    CHECK(selector->size() == 1);
    CHECK(found(*selector).size() == 1);
    check_usable(*selector);
}

TEST(a_callback_registers_another_under_the_same_number) {
    const auto selector = make();
    Couple couple;
    int strangers = 0;
    int number = -1;
    std::unique_ptr<Pair> stranger;
    couple.start(*selector, [&](Pair& other) {
        number = other.one;
        selector->unregister(number);
        other.close_one();
        stranger = std::make_unique<Pair>();
        if (stranger->one != number) {
            CHECK(::dup2(stranger->one, number) == number);
            stranger->close_one();
            stranger->one = number;
        }
        selector->register_fd(number, selectors::read, [&](Events) { ++strangers; });
    });
    CHECK(couple.calls == 1);
    CHECK(strangers == 0);  // nothing has come for it: the event was for the old one
    CHECK(selector->size() == 2);
    CHECK(!found(*selector).contains(number));
    stranger->speak();
    call_all(*selector);
    CHECK(strangers == 1);
    check_usable(*selector);
}

TEST(a_callback_stops_another_from_reading) {
    const auto selector = make();
    Couple couple;
    couple.start(*selector, [&](Pair& other) { selector->modify(other.one, selectors::write); });
    CHECK(couple.calls == 1);  // readable, but nobody wants to know any more
    check_usable(*selector);
}

TEST(a_callback_unregisters_and_closes_itself) {
    const auto selector = make();
    Pair pair;
    int calls = 0;
    // What the callback holds has to live until it returns.
    const std::string held(1000, 'x');
    selector->register_fd(pair.one, selectors::read, [&, held](Events) {
        ++calls;
        selector->unregister(pair.one);
        pair.close_one();
        CHECK(held == std::string(1000, 'x'));
    });
    pair.speak();
    call_all(*selector);
    call_all(*selector);
    CHECK(calls == 1);
    CHECK(selector->size() == 0);
    check_usable(*selector);
}

TEST(a_callback_replaces_itself) {
    const auto selector = make();
    Pair pair;
    const std::string held(1000, 'x');
    int old_calls = 0, new_calls = 0;
    selector->register_fd(pair.one, selectors::read, [&, held](Events) {
        ++old_calls;
        selector->unregister(pair.one);
        selector->register_fd(pair.one, selectors::read, [&](Events) { ++new_calls; });
        CHECK(held == std::string(1000, 'x'));
    });
    pair.speak();
    call_all(*selector);
    CHECK(old_calls == 1 && new_calls == 0);
    call_all(*selector);
    CHECK(old_calls == 1 && new_calls == 1);
    check_usable(*selector);
}

TEST(a_callback_registers_many) {
    const auto selector = make();
    const Pair first;
    std::vector<std::unique_ptr<Pair>> pairs;
    int calls = 0;
    selector->register_fd(first.one, selectors::read, [&](Events) {
        first.listen();
        for (int i = 0; i < 300; ++i) {  // so many that what holds the keys has to grow
            pairs.push_back(std::make_unique<Pair>());
            selector->register_fd(pairs.back()->one, selectors::read, [&](Events) { ++calls; });
            pairs.back()->speak();
        }
    });
    first.speak();
    call_all(*selector);
    CHECK(calls == 0);  // they were not in this batch
    CHECK(selector->size() == 301);
    std::set<int> seen;
    for (int round = 0; round < 4; ++round)
        for (const auto& [fd, events] : found(*selector)) seen.insert(fd);
    CHECK(seen.size() == 300);
}

TEST(all_but_one_leave_in_one_batch) {
    const auto selector = make();
    std::vector<std::unique_ptr<Pair>> pairs;
    int calls = 0;
    for (int i = 0; i < 50; ++i) {
        pairs.push_back(std::make_unique<Pair>());
        Pair& mine = *pairs.back();
        selector->register_fd(mine.one, selectors::read, [&](Events) {
            if (++calls > 1) return;
            for (const auto& pair : pairs) {
                if (pair.get() == &mine) continue;
                selector->unregister(pair->one);
                pair->close_one();
            }
        });
        mine.speak();
    }
    call_all(*selector);
    CHECK(calls == 1);
    CHECK(selector->size() == 1);
    CHECK(found(*selector).size() == 1);
    check_usable(*selector);
}

// ---- What it owns -------------------------------------------------------------------------------

TEST(it_leaves_nothing_behind) {
    const std::size_t before = open_descriptors();
    for (int i = 0; i < 10; ++i) {
        const auto selector = make();
        const Pair pair;
        selector->register_fd(pair.one, selectors::read, ignore);
        selector->select(0);
    }
    CHECK(open_descriptors() == before);
}

TEST(an_allocation_fails) {
    for (long nth = 1; nth < 20; ++nth) {
        const auto selector = make();
        Pair pair, another;
        selector->register_fd(pair.one, selectors::read, ignore);
        const selectors::Callback callback = [&another](Events) { another.listen(); };
        bool failed = false;
        allocations_left = nth;
        try {
            selector->register_fd(another.one, selectors::read, callback);
        } catch (const std::bad_alloc&) {
            failed = true;
        }
        allocations_left = -1;
        CHECK(selector->size() == (failed ? 1U : 2U));
        another.speak();
        CHECK(found(*selector).size() == (failed ? 0U : 1U));
        if (failed) selector->register_fd(another.one, selectors::read, callback);
        CHECK(found(*selector).size() == 1);
        allocations_left = 1;  // to leave takes no memory
        selector->unregister(another.one);
        allocations_left = -1;
        CHECK(found(*selector).empty());
        check_usable(*selector);
        CHECK(failed || nth > 1);
    }
}

TEST(a_program_that_is_started_inherits_nothing) {
    const auto inherited = [] {
        std::size_t count = 0;
        for (int fd = 0; fd < 1024; ++fd) {
            const int flags = ::fcntl(fd, F_GETFD);
            count += flags >= 0 && (flags & FD_CLOEXEC) == 0;
        }
        return count;
    };
    const std::size_t before = inherited();
    const auto selector = make();
    CHECK(inherited() == before);
}

TEST(the_default_is_one_of_them) {
    selectors::DefaultSelector selector;
    check_usable(selector);
    const std::string call = selector.call();
    CHECK(call == (selectors::names.back() == "epoll" ? "epoll_wait" : "poll"));
    CHECK(make()->call() == (*backend == "epoll" ? "epoll_wait" : *backend));
}

}  // namespace

int main(int argc, char* argv[]) {
    if (argc != 3) return 2;
    const std::string wanted = argv[1];
    backend = &wanted;
    const auto test = tests().find(argv[2]);
    if (test == tests().end()) return 2;
    test->second();
}
