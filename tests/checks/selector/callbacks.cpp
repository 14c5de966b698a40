// callbacks.cpp: callbacks that change what is registered while a batch is under way.

#include <memory>

#include "frame.hpp"

namespace {

// Two that are ready in the same batch. Whichever is called first does `deed` to the other.
struct Couple {
    Pair pairs[2];
    int calls = 0;

    void start(Selector& selector, const std::function<void(Pair& other)>& deed) {
        for (int i = 0; i < 2; ++i) {
            selector.register_fd(pairs[i].one, selectors::read, [this, i, deed](Events) {
                if (++calls > 1) return;
                deed(pairs[1 - i]);
            });
            pairs[i].speak();
        }
        CHECK(found(selector).size() == 2);
        call_all(selector);
    }
};

}  // namespace

void callbacks() {
    test("an_exception_from_a_callback", [](Selector& selector) {
        const Pair pair;
        selector.register_fd(pair.one, selectors::read,
                             [](Events) { throw std::runtime_error("mine"); });
        pair.speak();
        try {
            call_all(selector);
            CHECK(false);
        } catch (const std::runtime_error&) {}
        selector.unregister(pair.one);
        check_usable(selector);
    });

    test("a_callback_unregisters_and_closes_another", [](Selector& selector) {
        Couple couple;
        couple.start(selector, [&](Pair& other) {
            selector.unregister(other.one);
            other.close_one();
        });
        CHECK(couple.calls == 1);  // the other's event was for one that is gone
        CHECK(selector.size() == 1);
        CHECK(found(selector).size() == 1);
        check_usable(selector);
    });

    test("a_callback_registers_another_under_the_same_number", [](Selector& selector) {
        Couple couple;
        int strangers = 0;
        int number = -1;
        std::unique_ptr<Pair> stranger;
        couple.start(selector, [&](Pair& other) {
            number = other.one;
            selector.unregister(number);
            other.close_one();
            stranger = std::make_unique<Pair>();
            if (stranger->one != number) {
                CHECK(::dup2(stranger->one, number) == number);
                stranger->close_one();
                stranger->one = number;
            }
            selector.register_fd(number, selectors::read, [&](Events) { ++strangers; });
        });
        CHECK(couple.calls == 1);
        CHECK(strangers == 0);  // nothing has come for it: the event was for the old one
        CHECK(selector.size() == 2);
        CHECK(!found(selector).contains(number));
        stranger->speak();
        call_all(selector);
        CHECK(strangers == 1);
        check_usable(selector);
    });

    test("a_callback_stops_another_from_reading", [](Selector& selector) {
        Couple couple;
        couple.start(selector, [&](Pair& other) { selector.modify(other.one, selectors::write); });
        CHECK(couple.calls == 1);  // readable, but nobody wants to know any more
        check_usable(selector);
    });

    test("a_callback_unregisters_and_closes_itself", [](Selector& selector) {
        Pair pair;
        int calls = 0;
        // What the callback holds has to live until it returns.
        const std::string held(1000, 'x');
        selector.register_fd(pair.one, selectors::read, [&, held](Events) {
            ++calls;
            selector.unregister(pair.one);
            pair.close_one();
            CHECK(held == std::string(1000, 'x'));
        });
        pair.speak();
        call_all(selector);
        call_all(selector);
        CHECK(calls == 1);
        CHECK(selector.size() == 0);
        check_usable(selector);
    });

    test("a_callback_replaces_itself", [](Selector& selector) {
        Pair pair;
        const std::string held(1000, 'x');
        int old_calls = 0, new_calls = 0;
        selector.register_fd(pair.one, selectors::read, [&, held](Events) {
            ++old_calls;
            selector.unregister(pair.one);
            selector.register_fd(pair.one, selectors::read, [&](Events) { ++new_calls; });
            CHECK(held == std::string(1000, 'x'));
        });
        pair.speak();
        call_all(selector);
        CHECK(old_calls == 1 && new_calls == 0);
        call_all(selector);
        CHECK(old_calls == 1 && new_calls == 1);
        check_usable(selector);
    });

    test("a_callback_registers_many", [](Selector& selector) {
        const Pair first;
        const Pair pairs[300];
        int calls = 0;
        selector.register_fd(first.one, selectors::read, [&](Events) {
            first.listen();
            for (const Pair& pair : pairs) {  // so many that what holds the keys has to grow
                selector.register_fd(pair.one, selectors::read, [&](Events) { ++calls; });
                pair.speak();
            }
        });
        first.speak();
        call_all(selector);
        CHECK(calls == 0);  // they were not in this batch
        CHECK(selector.size() == 301);
        Found seen;
        for (int round = 0; round < 4; ++round) seen.merge(found(selector));
        CHECK(seen.size() == 300);
    });

    test("all_but_one_leave_in_one_batch", [](Selector& selector) {
        Pair pairs[50];
        int calls = 0;
        for (Pair& mine : pairs) {
            selector.register_fd(mine.one, selectors::read, [&](Events) {
                if (++calls > 1) return;
                for (Pair& pair : pairs) {
                    if (&pair == &mine) continue;
                    selector.unregister(pair.one);
                    pair.close_one();
                }
            });
            mine.speak();
        }
        call_all(selector);
        CHECK(calls == 1);
        CHECK(selector.size() == 1);
        CHECK(found(selector).size() == 1);
        check_usable(selector);
    });
}
