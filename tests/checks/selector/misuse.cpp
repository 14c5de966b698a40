// misuse.cpp: what is refused, and that it leaves things as they were; and what was closed too
// early.

#include <cstdio>

#include "frame.hpp"

namespace {

constexpr int nobodys = 999999;  // a number that is not open, and beyond every fd_set

int closed_descriptor() {
    const Pair pair;
    return pair.one;
}

void what_is_refused() {
    test("register_twice", [](Selector& selector) {
        const Pair pair;
        int first = 0, second = 0;
        selector.register_fd(pair.one, selectors::read, [&](Events) { ++first; });
        for (const Events events : {selectors::read, selectors::write})
            THROWS(std::invalid_argument,
                   selector.register_fd(pair.one, events, [&](Events) { ++second; }));
        CHECK(selector.size() == 1);
        CHECK(selector.get_key(pair.one).events == selectors::read);
        CHECK(found(selector).empty());
        pair.speak();
        call_all(selector);
        CHECK(first == 1 && second == 0);
        check_usable(selector);
    });

    test("register_a_negative_descriptor", [](Selector& selector) {
        for (const int fd : {-1, -10, -1000000})
            THROWS(std::invalid_argument, selector.register_fd(fd, selectors::read, ignore));
        CHECK(selector.size() == 0);
        check_usable(selector);
    });

    test("register_a_closed_descriptor", [](Selector& selector) {
        const int closed = closed_descriptor();
        FAILS(EBADF, selector.register_fd(closed, selectors::read, ignore));
        FAILS(backend == "select" ? EMFILE : EBADF,
              selector.register_fd(nobodys, selectors::read, ignore));
        CHECK(selector.size() == 0);
        THROWS(std::out_of_range, selector.get_key(closed));
        CHECK(found(selector).empty());
        check_usable(selector);  // which is likely to get that very number
    });

    test("register_for_no_events", [](Selector& selector) {
        const Pair pair;
        for (const Events wrong : {0U, 1U << 20, 999999U, selectors::read | selectors::broken})
            THROWS(std::invalid_argument, selector.register_fd(pair.one, wrong, ignore));
        CHECK(selector.size() == 0);
        selector.register_fd(pair.one, selectors::read, ignore);
        check_usable(selector);
    });

    test("modify_the_unknown", [](Selector& selector) {
        const Pair pair;
        for (const int fd : {pair.one, -1, nobodys})
            THROWS(std::out_of_range, selector.modify(fd, selectors::read));
        CHECK(selector.size() == 0);
        CHECK(found(selector).empty());
        check_usable(selector);
    });

    test("modify_to_no_events", [](Selector& selector) {
        const Pair pair;
        selector.register_fd(pair.one, selectors::read, ignore);
        THROWS(std::invalid_argument, selector.modify(pair.one, 0));
        THROWS(std::invalid_argument, selector.modify(pair.one, selectors::read | 1U << 20));
        CHECK(selector.get_key(pair.one).events == selectors::read);
        pair.speak();
        CHECK(found(selector).at(pair.one) == selectors::read);
        check_usable(selector);
    });

    test("unregister_the_unknown", [](Selector& selector) {
        const Pair pair;
        for (const int fd : {pair.one, -1, nobodys})
            THROWS(std::out_of_range, selector.unregister(fd));
        selector.register_fd(pair.one, selectors::read, ignore);
        selector.unregister(pair.one);
        THROWS(std::out_of_range, selector.unregister(pair.one));
        CHECK(selector.size() == 0);
        check_usable(selector);
    });

    test("get_the_key_of_the_unknown", [](Selector& selector) {
        const Pair pair;
        for (const int fd : {pair.one, -1, nobodys})
            THROWS(std::out_of_range, selector.get_key(fd));
        const Key& key = selector.register_fd(pair.one, selectors::read, ignore);
        CHECK(key.fd == pair.one && key.events == selectors::read && key.callback);
        CHECK(&selector.get_key(pair.one) == &key);
        CHECK(&selector.modify(pair.one, selectors::write) == &key);
        CHECK(key.events == selectors::write);
        selector.unregister(pair.one);
        THROWS(std::out_of_range, selector.get_key(pair.one));
    });

    test("a_regular_file", [](Selector& selector) {
        std::FILE* file = std::tmpfile();
        CHECK(file != nullptr);
        const int fd = ::fileno(file);
        if (backend == "epoll") {
            FAILS(EPERM, selector.register_fd(fd, selectors::read, ignore));
            CHECK(selector.size() == 0);
            THROWS(std::out_of_range, selector.get_key(fd));
        } else {  // always ready
            selector.register_fd(fd, selectors::read, ignore);
            CHECK(found(selector).at(fd) == selectors::read);
            selector.unregister(fd);
        }
        check_usable(selector);
        std::fclose(file);
    });
}

void what_was_closed_too_early() {
    test("closed_while_it_is_registered", [](Selector& selector) {
        Pair pair;
        const Pair another;
        const int number = pair.one;
        for (const int fd : {number, another.one})
            selector.register_fd(fd, selectors::read, ignore);
        another.speak();
        pair.close_one();
        // select() refuses to wait, poll() reports it, epoll has forgotten it; unregister() mends
        // it.
        Found ready = {{another.one, selectors::read}};
        if (backend == "poll") ready[number] = selectors::read;
        if (backend == "select") FAILS(EBADF, selector.select());
        else CHECK(found(selector) == ready);
        selector.unregister(number);
        CHECK(found(selector) == Found{{another.one, selectors::read}});
        check_usable(selector);
    });

    test("modify_a_closed_descriptor", [](Selector& selector) {
        Pair pair;
        const int number = pair.one;
        selector.register_fd(number, selectors::read, ignore);
        pair.close_one();
        FAILS(EBADF, selector.modify(number, selectors::write));
        CHECK(selector.get_key(number).events == selectors::read);
        selector.unregister(number);
        check_usable(selector);
    });

    test("unregister_after_close", [](Selector& selector) {
        Pair pair;
        const int ends[] = {pair.one, pair.other};
        selector.register_fd(pair.one, selectors::read, ignore);
        selector.register_fd(pair.other, selectors::write, ignore);
        pair.close_one();
        pair.close_other();
        for (const int end : ends) selector.unregister(end);
        CHECK(selector.size() == 0);
        CHECK(found(selector).empty());
        check_usable(selector);
    });

    test("unregister_after_close_and_reuse", [](Selector& selector) {
        Pair pair;
        selector.register_fd(pair.one, selectors::read, ignore);
        selector.register_fd(pair.other, selectors::write, ignore);
        {
            const Pair newer;
            CHECK(::dup2(newer.one, pair.one) == pair.one);  // closes the old one on the way
            CHECK(::dup2(newer.other, pair.other) == pair.other);
        }
        pair.speak();
        // epoll goes by what the number stood for: it knows of neither.
        if (backend == "epoll") {
            CHECK(found(selector).empty());
            FAILS(ENOENT, selector.modify(pair.one, selectors::write));
            CHECK(selector.get_key(pair.one).events == selectors::read);
        }
        for (const int end : {pair.one, pair.other}) selector.unregister(end);
        CHECK(selector.size() == 0);
        CHECK(found(selector).empty());
        selector.register_fd(pair.one, selectors::read, ignore);
        CHECK(found(selector) == Found{{pair.one, selectors::read}});
        selector.unregister(pair.one);
        check_usable(selector);
    });

    test("unregister_after_close_and_a_copy_lives", [](Selector& selector) {
        Pair pair;
        const int number = pair.one;
        selector.register_fd(number, selectors::read, ignore);
        const int copy = ::dup(number);
        pair.speak();
        pair.close_one();
        selector.unregister(number);
        CHECK(found(selector).empty());  // epoll cannot be told, and goes on reporting it to us
        ::close(copy);
        check_usable(selector);
    });
}

}  // namespace

void misuse() {
    what_is_refused();
    what_was_closed_too_early();
}
