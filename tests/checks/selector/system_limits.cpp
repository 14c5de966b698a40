// system_limits.cpp: descriptors and memory: how many there can be, what if there are none, and
// that none is left behind.

#include <algorithm>
#include <cstdlib>
#include <new>

#include <sys/resource.h>

#include "frame.hpp"

namespace {

// Every allocation of this program; the one that makes it 0 fails.
long allocations_left = -1;

// Lets there be that many descriptors, or skips the test.
void need(rlim_t descriptors) {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_max < descriptors) skip();
    limit.rlim_cur = std::max(limit.rlim_cur, descriptors);
    CHECK(::setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

}  // namespace

void* operator new(std::size_t size) {
    if (allocations_left > 0 && --allocations_left == 0) throw std::bad_alloc();
    if (void* const memory = std::malloc(size)) return memory;
    throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

void system_limits() {
    test("a_descriptor_beyond_an_fd_set", [](Selector& selector) {
        need(FD_SETSIZE + 100);
        const Pair pair;
        const int high = ::dup2(pair.one, FD_SETSIZE), last = ::dup2(pair.one, FD_SETSIZE - 1);
        CHECK(high == FD_SETSIZE && last == FD_SETSIZE - 1);
        if (backend == "select") {
            FAILS(EMFILE, selector.register_fd(high, selectors::read, ignore));
            CHECK(selector.size() == 0);
        } else {
            selector.register_fd(high, selectors::read, ignore);
            pair.speak();
            CHECK(found(selector).at(high) == selectors::read);
            pair.listen();
        }
        selector.register_fd(last, selectors::read, ignore);
        pair.speak();
        CHECK(found(selector).at(last) == selectors::read);
        pair.listen();
        check_usable(selector);
        ::close(high);
        ::close(last);
    });

    test("more_descriptors_than_an_fd_set_holds", [](Selector& selector) {
        constexpr std::size_t count = FD_SETSIZE * 6 / 10;  // pairs
        need(2 * count + 100);
        const Pair pairs[count];
        std::size_t taken = 0;
        Found writers, seen;
        const auto add = [&](int fd, Events events) {
            if (backend == "select" && fd >= FD_SETSIZE) {
                FAILS(EMFILE, selector.register_fd(fd, events, ignore));
                return;
            }
            selector.register_fd(fd, events, ignore);
            ++taken;
            if (events == selectors::write) writers[fd] = events;
        };
        for (const Pair& pair : pairs)
            add(pair.one, selectors::read), add(pair.other, selectors::write);
        CHECK(selector.size() == taken);
        CHECK(backend == "select" ? taken < FD_SETSIZE : taken == 2 * count);
        for (int round = 0; round < 4; ++round) seen.merge(found(selector, selectors::no_limit));
        CHECK(seen == writers);
    });

    test("it_leaves_nothing_behind", [](Selector&) {
        const std::size_t before = open_descriptors();
        const Pair pair;
        for (int i = 0; i < 10; ++i) {
            const auto selector = selectors::make(backend);
            selector->register_fd(pair.one, selectors::read, ignore);
            selector->select(0);
        }
        CHECK(open_descriptors() == before + 2);  // nor does it close what is not its own
        pair.speak();
        pair.listen();
    });

    test("a_program_that_is_started_inherits_nothing", [](Selector&) {
        const std::size_t before = open_descriptors(true);
        const auto selector = selectors::make(backend);
        CHECK(open_descriptors(true) == before);
    });

    test("no_descriptor_is_left_for_it", [](Selector&) {
        rlimit before{};
        ::getrlimit(RLIMIT_NOFILE, &before);
        const rlimit none{0, before.rlim_max};
        CHECK(::setrlimit(RLIMIT_NOFILE, &none) == 0);
        const int error = error_of([] { selectors::make(backend)->select(0); });
        CHECK(::setrlimit(RLIMIT_NOFILE, &before) == 0);
        CHECK(error == (backend == "epoll" ? EMFILE : 0));
    });

    test("an_allocation_fails", [](Selector&) {
        for (long nth = 1; nth < 20; ++nth) {
            const auto selector = selectors::make(backend);
            const Pair pair, another;
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
    });

    test("the_default_is_one_of_them", [](Selector& selector) {
        selectors::DefaultSelector default_one;
        check_usable(default_one);
        const std::string calls[] = {default_one.call(), selector.call()};
        CHECK(calls[0] == (selectors::names.back() == "epoll" ? "epoll_wait" : "poll"));
        CHECK(calls[1] == (backend == "epoll" ? "epoll_wait" : backend));
    });
}
