// Stage 6: a selector with callbacks.
//
// The trouble with stage 5: the loop has to know what each ready descriptor is, and the program is
// written for one system call of one operating system.
//
// The one change: a descriptor is registered together with what to do when it is ready. The loop
// asks and calls back; it knows nothing of listeners or clients. Which system call waits is the
// selector's business: select, poll or epoll, chosen at the start.
//
// What it costs: an indirect call for each event, and a program that can no longer be read from top
// to bottom: what happens next is whatever was registered. "The callback is called by the user's
// process; the system only notifies."
//
// Try: make diff-6. make run-6 ARGS="-s poll", and -s select. In a debugger, break in a callback,
// and look who called it.

#include "selector.hpp"
#include "socket.hpp"

namespace {

class Server {
public:
    Server(Program& program, selectors::Selector& selector)
        : program_(program), selector_(selector) {}

    void run() {
        while (!program_.stopped()) {
            for (const auto& [key, events] : wait()) key->call(events);
            sockets_.close_finished();
        }
        sockets_.close_all();
    }

private:
    // What we want to know of a descriptor has changed. New ones come with what to do when ready.
    void watch(int fd, Events before, Events now) try {
        if (now == nothing) selector_.unregister(fd);
        else if (before == nothing) selector_.register_fd(fd, now, callback(fd));
        else selector_.modify(fd, now);
    } catch (const std::system_error& refused) {
        if (before != nothing) selector_.unregister(fd);  // it stands there as it did before
        sockets_.cannot_watch(fd, refused.code().value());
    }

    selectors::Callback callback(int fd) {
        if (fd == program_.signal_fd()) return [](Events) {};  // run() asks what it was
        if (sockets_.listener(fd))
            return [this, fd](Events) { sockets_.accept_from(*sockets_.listener(fd)); };
        return [this, &client = *sockets_.client(fd)](Events events) {
            if (events & urgent) sockets_.read_urgent(client);
            if (events & readable) sockets_.read_from(client);
            if (events & writable) sockets_.write_to(client);
        };
    }

    // Sleeps until a watched descriptor is ready, or the time limit is over.
    const selectors::ReadyList& wait() try {
        const double before = program_.stopwatch();
        const auto& found = selector_.select(sockets_.wait_limit());
        ready_.clear();
        for (const auto& [key, events] : found) ready_.push_back({key->fd, events});
        sockets_.waited(selector_.call(), ready_, selector_.walked(), before, 0);
        return found;
    } catch (const std::system_error& failed) {
        static const selectors::ReadyList none;
        sockets_.waited(selector_.call(), {}, 0, program_.stopwatch(), failed.code().value());
        return none;
    }

    Program& program_;
    selectors::Selector& selector_;
    std::vector<Ready> ready_;
    Sockets sockets_{program_, Mode::nonblocking,
                     [this](int fd, Events before, Events now) { watch(fd, before, now); }};
};

std::unique_ptr<selectors::Selector> make_selector(const Program& program) try {
    const std::string_view name = program.options.selector;
    if (name == "select") return std::make_unique<selectors::SelectSelector>();
    if (name == "poll") return std::make_unique<selectors::PollSelector>();
#if SELECTOR_HAS_EPOLL
    if (name == "epoll") return std::make_unique<selectors::EpollSelector>();
    const char* known = "select, poll or epoll";
#else
    const char* known = "select or poll";
#endif
    program.fail(2, "-s %s: %s is wanted", in_quotes(name).c_str(), known);
} catch (const std::system_error& refused) {
    program.fail(1, "%s", refused.what());
}

}  // namespace

int main(int argc, char* argv[]) {
    Program program(argc, argv,
                    {.number = 6,
                     .name = "06_selector_callbacks",
                     .waits = true,
                     .options = "s:",
                     .usage = " [-s select|poll|epoll]"});
    if (!program.options.selector) program.options.selector = SELECTOR_HAS_EPOLL ? "epoll" : "poll";
    const auto selector = make_selector(program);
    program.start();
    const bool limited = program.options.selector == std::string_view("select");
    program.limit_descriptors(limited ? FD_SETSIZE : RLIM_INFINITY);
    Server(program, *selector).run();
    program.stats();
}
