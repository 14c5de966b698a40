// readiness.cpp: who is ready, and how long select() waits for that.

#include <cmath>
#include <csignal>

#include <netinet/in.h>
#include <sys/time.h>

#include "frame.hpp"

namespace {

void who_is_ready() {
    test("nothing_registered", [](Selector& selector) {
        CHECK(selector.size() == 0);
        CHECK(selector.select(0).empty());
        CHECK(seconds_of([&] { CHECK(selector.select(0.02).empty()); }) >= 0.02);
        check_usable(selector);
    });

    test("readable_and_writable", [](Selector& selector) {
        const Pair pair;
        selector.register_fd(pair.one, selectors::read, ignore);
        CHECK(found(selector).empty());
        pair.speak();
        CHECK(found(selector) == Found{{pair.one, selectors::read}});
        CHECK(found(selector).size() == 1);  // and again, as long as it is
        selector.modify(pair.one, selectors::read | selectors::write);
        CHECK(found(selector).at(pair.one) == (selectors::read | selectors::write));
        selector.modify(pair.one, selectors::write);
        CHECK(found(selector).at(pair.one) == selectors::write);
        pair.listen();
        selector.modify(pair.one, selectors::read);
        CHECK(found(selector).empty());
        selector.unregister(pair.one);
        pair.speak();
        CHECK(found(selector).empty());
    });

    test("both_events_at_once", [](Selector& selector) {
        const Pair pair;
        const Events both = selectors::read | selectors::write;
        selector.register_fd(pair.one, both, ignore);
        CHECK(found(selector) == Found{{pair.one, selectors::write}});
        pair.speak();
        CHECK(found(selector) == Found{{pair.one, both}});
    });

    test("modify_to_the_same_events", [](Selector& selector) {
        const Pair pair;
        int calls = 0;
        const Key& key = selector.register_fd(pair.one, selectors::read, [&](Events) { ++calls; });
        for (int i = 0; i < 2; ++i) CHECK(&selector.modify(pair.one, selectors::read) == &key);
        CHECK(key.events == selectors::read && selector.size() == 1);
        CHECK(found(selector).empty());
        pair.speak();
        CHECK(found(selector) == Found{{pair.one, selectors::read}});
        call_all(selector);
        CHECK(calls == 1);
        selector.unregister(pair.one);
        CHECK(found(selector).empty());
    });

    test("only_those_that_are_ready", [](Selector& selector) {
        const Pair pairs[20];
        for (const Pair& pair : pairs) selector.register_fd(pair.one, selectors::read, ignore);
        pairs[3].speak();
        pairs[17].speak();
        CHECK(found(selector) ==
              Found{{pairs[3].one, selectors::read}, {pairs[17].one, selectors::read}});
        for (const Pair& pair : pairs) selector.unregister(pair.one);
        CHECK(found(selector).empty());
    });

    test("pairs_talk_and_leave_in_any_order", [](Selector& selector) {
        const Pair pairs[12];
        std::map<int, const Pair*> of_writer;
        for (const Pair& pair : pairs) {
            selector.register_fd(pair.one, selectors::read, ignore);
            selector.register_fd(pair.other, selectors::write, ignore);
            of_writer[pair.other] = &pair;
        }
        for (int left = 12; left > 0; --left) {
            Found ready = found(selector);
            CHECK(ready.size() == of_writer.size());
            const auto [writer, events] = *std::next(ready.begin(), 17 % left);
            CHECK(events == selectors::write);
            const Pair& pair = *of_writer.at(writer);
            pair.speak();
            ready[pair.one] = selectors::read;
            CHECK(found(selector) == ready);
            pair.listen();
            for (const int end : {pair.one, pair.other}) selector.unregister(end);
            of_writer.erase(writer);
        }
        CHECK(selector.size() == 0);
        CHECK(found(selector).empty());
    });

    test("peer_gone", [](Selector& selector) {
        Pair pair;
        selector.register_fd(pair.one, selectors::read, ignore);
        pair.close_other();
        CHECK(found(selector).at(pair.one) == selectors::read);  // the next read says what happened
        selector.modify(pair.one, selectors::write);
        CHECK(found(selector).at(pair.one) == selectors::write);
    });

    test("pipe_without_reader", [](Selector& selector) {
        int ends[2];
        CHECK(::pipe(ends) == 0);
        selector.register_fd(ends[1], selectors::write, ignore);
        ::close(ends[0]);
        CHECK(found(selector).at(ends[1]) == selectors::write);
        selector.unregister(ends[1]);
        ::close(ends[1]);
    });

    test("urgent_data", [](Selector& selector) {
        sockaddr_in address{};
        socklen_t size = sizeof address;
        auto* const pointer = reinterpret_cast<sockaddr*>(&address);
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
        CHECK(::bind(listener, pointer, size) == 0);
        CHECK(::listen(listener, 1) == 0);
        CHECK(::getsockname(listener, pointer, &size) == 0);
        const int peer = ::socket(AF_INET, SOCK_STREAM, 0);
        CHECK(::connect(peer, pointer, size) == 0);
        const int fd = ::accept(listener, nullptr, nullptr);
        selector.register_fd(fd, selectors::read | selectors::urgent, ignore);
        CHECK(found(selector).empty());
        CHECK(::send(peer, "!", 1, MSG_OOB) == 1);
        CHECK((found(selector, 5).at(fd) & selectors::urgent) != 0);
        char byte = 0;
        CHECK(::recv(fd, &byte, 1, MSG_OOB) == 1 && byte == '!');
        selector.modify(fd, selectors::read);
        CHECK((found(selector)[fd] & selectors::urgent) == 0);
        selector.unregister(fd);
        for (const int each : {fd, peer, listener}) ::close(each);
    });

    test("only_urgent_is_wanted_and_the_peer_is_gone", [](Selector& selector) {
        Pair pair;
        selector.register_fd(pair.one, selectors::urgent, ignore);
        pair.close_other();
        CHECK(found(selector).size() == (backend == "select" ? 0 : 1));
    });

    test("more_at_once_than_fit_one_answer", [](Selector& selector) {
        const Pair pairs[400];
        std::map<int, int> calls;
        for (const Pair& pair : pairs) {
            selector.register_fd(pair.one, selectors::read, [&](Events) {
                ++calls[pair.one];
                pair.listen();
            });
            pair.speak();
        }
        for (int round = 0; round < 4 && calls.size() < 400; ++round) call_all(selector);
        CHECK(calls.size() == 400);
        for (const auto& [fd, count] : calls) CHECK(count == 1);
        CHECK(found(selector).empty());
    });
}

void how_long_it_waits() {
    test("no_time_limit", [](Selector& selector) {
        const Pair pair;
        selector.register_fd(pair.one, selectors::read, ignore);
        const Key& key = selector.register_fd(pair.other, selectors::write, ignore);
        const selectors::ReadyList& ready = selector.select();
        CHECK(ready == selectors::ReadyList{{&key, selectors::write}});
        CHECK(&ready == &selector.ready());
        CHECK(selector.select(selectors::no_limit).size() == 1);
    });

    test("time_limit", [](Selector& selector) {
        const Pair pair;
        selector.register_fd(pair.one, selectors::read, ignore);
        for (const double limit : {0.05, 0.0005, 0.0}) {
            errno = EINTR;
            const double took = seconds_of([&] { CHECK(selector.select(limit).empty()); });
            CHECK(errno == 0);
            CHECK(took >= limit && took < 5);
        }
        pair.speak();
        CHECK(seconds_of([&] { CHECK(selector.select(3600).size() == 1); }) < 5);
        CHECK(selector.select().size() == 1);
    });

    test("a_very_long_time_limit", [](Selector& selector) {
        const Pair pair;
        selector.register_fd(pair.one, selectors::read, ignore);
        pair.speak();
        CHECK(selector.select(1e300).size() == 1);
    });

    test("a_negative_time_limit_is_not_waited_for", [](Selector& selector) {
        const Pair pair;
        selector.register_fd(pair.one, selectors::read, ignore);
        for (const double limit : {-1.0, -0.0001, -1e300, -HUGE_VAL})
            CHECK(seconds_of([&] { CHECK(selector.select(limit).empty()); }) < 5);
        pair.speak();
        CHECK(selector.select(-1).size() == 1);
    });

    test("a_time_limit_that_is_no_number", [](Selector& selector) {
        const Pair pair;
        selector.register_fd(pair.one, selectors::read, ignore);
        THROWS(std::invalid_argument, selector.select(std::nan("")));
        check_usable(selector);
    });
}

void a_signal_comes(Selector& selector, double limit) {
    const Pair pair;
    selector.register_fd(pair.one, selectors::read, ignore);
    struct sigaction action {};
    action.sa_handler = [](int) {};
    action.sa_flags = SA_RESTART;  // which is for other calls
    CHECK(::sigaction(SIGALRM, &action, nullptr) == 0);
    itimerval timer{};
    timer.it_value.tv_usec = timer.it_interval.tv_usec = 20000;  // again and again: none is missed
    CHECK(::setitimer(ITIMER_REAL, &timer, nullptr) == 0);
    for (int i = 0; i < 2; ++i) CHECK(selector.select(limit).empty() && errno == EINTR);
    timer = {};
    CHECK(::setitimer(ITIMER_REAL, &timer, nullptr) == 0);
    CHECK(selector.select(0).empty() && errno == 0);
    check_usable(selector);
}

}  // namespace

void readiness() {
    who_is_ready();
    how_long_it_waits();
    test("a_signal_ends_a_wait_with_a_limit", [](Selector& all) { a_signal_comes(all, 60); });
    test("a_signal_ends_a_wait_without_limit",
         [](Selector& all) { a_signal_comes(all, selectors::no_limit); });
}
