// load: puts echo and chat servers under load, checks every byte that comes back, and says what it
// cost them. `make bench` is its user; build/load -h says how to use it by hand.
//
// How it measures:
//   - A slice loads one server: every connection has its messages under way, each answer is
//     followed by the next message, and the slice ends when the last answer has come. So the
//     server's CPU time over the slice belongs to whole messages.
//   - Several servers take turns in short slices. What changes the machine's speed in between (the
//     clock rate, another program) then hits all alike: ratios repeat where figures do not.
//   - Pinned to one CPU, server and load never run at the same time; no cache line travels between
//     CPUs and nobody is woken from another one, which is where most of the noise comes from. CPU
//     time per message then repeats within a few per cent. Messages a second mean little there.
//   - Latencies go into a histogram, so that however long it runs, it keeps all of them. With -r a
//     message's latency counts from when it should have left: a server that stalls is late for all
//     the messages of that time, not for the one that noticed ("coordinated omission").

#include <sched.h>
#include <sys/resource.h>

#include "load/modes.hpp"

namespace {

using namespace load;
using Targets = std::vector<std::unique_ptr<Target>>;

/// Puts processes on one CPU for as long as this lives.
class Pin {
public:
    explicit Pin(const Options& options) {
        if (options.cpu < 0) return;
        cpu_set_t only;
        CPU_ZERO(&only);
        CPU_SET(options.cpu, &only);
        std::vector<pid_t> every{0};  // thread: who is started later is where its starter is
        for (const Named& target : options.targets)
            for (const pid_t task : target.pid ? tasks(target.pid) : std::vector<pid_t>{})
                every.push_back(task);
        for (const pid_t task : every) {
            cpu_set_t before;
            ::sched_getaffinity(task, sizeof before, &before);
            if (::sched_setaffinity(task, sizeof only, &only) < 0)
                fail(1, "-p %d: %s", options.cpu, std::strerror(errno));
            before_.push_back({task, before});
        }
    }
    ~Pin() {
        for (const auto& [pid, set] : before_) ::sched_setaffinity(pid, sizeof set, &set);
    }

private:
    std::vector<std::pair<pid_t, cpu_set_t>> before_{};
};

void raise_limit(const Options& options) {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
    std::size_t need = 16;
    for (const Named& target : options.targets)
        need += options.connections + 2 + options.silent_of(target);
    if (limit.rlim_cur != RLIM_INFINITY && need > limit.rlim_cur)
        fail(1, "%zu descriptors are needed, and this process may have %llu (ulimit -n)", need,
             static_cast<Count>(limit.rlim_cur));
}

void measure(const Options& options, const Targets& targets) {
    for (const auto& target : targets)
        if (options.warmup > 0) target->slice(options.warmup, false);
    const auto rounds =
        static_cast<std::size_t>(std::max(1.0, std::round(options.seconds / options.slice)));
    for (std::size_t round = 0; round < rounds; ++round)
        for (const auto& target : targets) {
            // The others have driven what it needs out of the caches: that cost is not its own.
            if (targets.size() > 1) target->slice(options.slice / 10, false);
            target->slice(options.slice, true);
        }
}

void report(const Options& options, const Targets& targets) {
    print(R"({"mode": "%s", "connections": %zu, "depth": %zu, "bytes": %zu, "silent": %zu,
 "rate": %s, "slice_ms": %.3f, "pinned": %s,
 "targets": [
)",
          options.mode.c_str(), options.connections, options.depth, options.bytes, options.silent,
          options.rate > 0 ? std::to_string(options.rate).c_str() : "null", options.slice * 1000,
          known(options.cpu).c_str());
    double busy = 0;
    for (const auto& target : targets) {
        target->report(*targets.front());
        print(target == targets.back() ? "\n" : ",\n");
        busy = std::max(busy, target->busy());
    }
    print(" ],\n \"load_busy\": %.3f, \"note\": ", busy);
    if (options.cpu >= 0)
        print("\"load and servers shared one CPU: compare CPU time per message, nothing else\"}\n");
    else if (busy > 0.9)
        print(
            "\"the load itself was busy %.0f %% of the time: the servers could have done more\"}\n",
            busy * 100);
    else print("null}\n");
}

}  // namespace

int main(int argc, char* argv[]) {
    ::signal(SIGPIPE, SIG_IGN);
    const Options options = parse(argc, argv);
    require_stdout();
    raise_limit(options);
    const Pin pin(options);
    const Sequence said = what_is_said(options);
    Targets targets;
    for (const Named& named : options.targets) targets.push_back(make_target(options, named, said));
    for (const auto& target : targets) target->open();
    if (options.connections > 0) measure(options, targets);
    for (const auto& target : targets) target->check_silent();
    report(options, targets);
}
