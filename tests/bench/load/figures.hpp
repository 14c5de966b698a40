// figures.hpp: what is measured of a server and its answers, and how that is printed.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <filesystem>
#include <fstream>

#include <time.h>

#include "options.hpp"

namespace load {

using Count = unsigned long long;
using Nanoseconds = std::int64_t;
constexpr Nanoseconds second = 1'000'000'000, millisecond = 1'000'000;

inline Nanoseconds in_nanoseconds(double seconds) {
    return static_cast<Nanoseconds>(seconds * second);
}

inline Nanoseconds read_clock(clockid_t clock) {
    timespec now{};
    return ::clock_gettime(clock, &now) < 0 ? -1 : now.tv_sec * second + now.tv_nsec;
}

inline Nanoseconds now() { return read_clock(CLOCK_MONOTONIC); }

/// Counts durations in buckets that grow with the value, 64 to each doubling: below 2 % off
/// anywhere between a nanosecond and centuries, in 30 KB.
class Histogram {
public:
    void add(Nanoseconds value) {
        const auto v = static_cast<std::uint64_t>(std::max<Nanoseconds>(value, 0));
        ++buckets_[bucket(v)];
        ++count_;
        max_ = std::max(max_, v);
    }

    /// The value that `share` of all do not exceed, in microseconds: the upper end of the bucket
    /// that it lies in.
    double quantile(double share) const {
        const auto rank = static_cast<Count>(std::ceil(share * static_cast<double>(count_)));
        Count seen = 0;
        std::uint64_t found = max_;
        for (std::size_t i = 0; i < buckets_.size() && seen < rank; ++i)
            if ((seen += buckets_[i]) >= rank) found = std::min(upper_end(i), max_);
        return static_cast<double>(found) / 1000;
    }

    Count count() const { return count_; }

private:
    // Up to 127, a bucket each. From there on, the value without its lower bits, so that seven are
    // left: 64 to 127; and how many were dropped says which 64 buckets are meant.
    static std::size_t bucket(std::uint64_t value) {
        const int dropped = std::max(static_cast<int>(std::bit_width(value)) - 7, 0);
        return static_cast<std::size_t>(dropped) * 64 + static_cast<std::size_t>(value >> dropped);
    }
    static std::uint64_t upper_end(std::size_t bucket) {
        const std::size_t dropped = bucket < 128 ? 0 : bucket / 64 - 1;
        return ((static_cast<std::uint64_t>(bucket - dropped * 64) + 1) << dropped) - 1;
    }

    std::array<Count, 58 * 64 + 64> buckets_{};
    Count count_ = 0;
    std::uint64_t max_ = 0;
};

/// What a line of /proc that begins with `key` says; -1 if there is none.
inline long long proc_value(const std::filesystem::path& file, const std::string& key) {
    std::ifstream lines(file);
    for (std::string line; std::getline(lines, line);)
        if (line.starts_with(key)) return std::atoll(line.c_str() + key.size());
    return -1;
}

/// Bytes of its memory, from a line that counts in kilobytes; -1 if the system does not tell.
inline long long memory(pid_t pid, const char* file, const char* key) {
    const long long kilobytes = proc_value("/proc/" + std::to_string(pid) + "/" + file, key);
    return kilobytes < 0 ? -1 : kilobytes * 1024;
}

/// The threads of a process, and those of its children; nothing if there is no such process.
inline std::vector<pid_t> tasks(pid_t pid) {
    std::vector<pid_t> found;
    std::error_code error;
    for (const auto& thread :
         std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task", error)) {
        found.push_back(std::atoi(thread.path().filename().c_str()));
        std::ifstream children(thread.path() / "children");
        for (pid_t child; children >> child;)
            for (const pid_t task : tasks(child)) found.push_back(task);
    }
    return found;
}

/// The process and its children: a task that leads its own group.
inline std::vector<pid_t> family(pid_t pid) {
    std::vector<pid_t> found{pid};
    for (const pid_t task : tasks(pid))
        if (task != pid && proc_value("/proc/" + std::to_string(task) + "/status", "Tgid:") == task)
            found.push_back(task);
    return found;
}

/// Memory that is the processes' own: what they wrote to and no file stands behind. Buffers of
/// sockets are the kernel's, and are not in it.
inline long long own_memory(pid_t pid) {
    long long sum = -1;
    for (const pid_t each : family(pid))
        if (const long long own = memory(each, "smaps_rollup", "Anonymous:"); own >= 0)
            sum = std::max(sum, 0LL) + own;
    return sum;
}

/// What a process has used up, as far as the system tells: -1 where it does not.
struct Used {
    Nanoseconds cpu = -1;                        // of all its threads, and its children's
    long long voluntary = -1, involuntary = -1;  // context switches: it slept; it was sent away
};

inline Used used(pid_t pid) {
    Used sum;
    if (!pid) return sum;
    for (const pid_t each : family(pid)) {
        clockid_t clock{};
        if (::clock_getcpuclockid(each, &clock) == 0)
            sum.cpu = std::max<Nanoseconds>(sum.cpu, 0) + read_clock(clock);
    }
    for (const pid_t task : tasks(pid)) {
        const std::string status = "/proc/" + std::to_string(task) + "/status";
        sum.voluntary =
            std::max(sum.voluntary, 0LL) + proc_value(status, "voluntary_ctxt_switches:");
        sum.involuntary =
            std::max(sum.involuntary, 0LL) + proc_value(status, "nonvoluntary_ctxt_switches:");
    }
    return sum;
}

struct Spread {
    double low = 0, median = 0, high = 0;  // quartiles
};

inline Spread spread(std::vector<double> values) {
    if (values.empty()) return {};
    std::sort(values.begin(), values.end());
    const auto at = [&](double share) {
        const double place = share * static_cast<double>(values.size() - 1);
        const auto below = static_cast<std::size_t>(place);
        return std::lerp(values[below], values[std::min(below + 1, values.size() - 1)],
                         place - static_cast<double>(below));
    };
    return {at(0.25), at(0.5), at(0.75)};
}

inline std::string known(long long value) { return value < 0 ? "null" : std::to_string(value); }

/// All that was counted of one server.
class Tally {
public:
    Histogram latencies{};
    long long memory_before = -1, memory_with_silent = -1;  // the server's own

    void add_slice(Count messages, Nanoseconds wall, Nanoseconds own_cpu, const Used& before,
                   const Used& after) {
        messages_ += messages;
        wall_ += wall;
        own_cpu_ += own_cpu;
        if (after.cpu < 0) return;
        cpu_ += after.cpu - before.cpu;
        if (after.voluntary >= 0) {
            voluntary_ = std::max(voluntary_, 0LL) + after.voluntary - before.voluntary;
            involuntary_ = std::max(involuntary_, 0LL) + after.involuntary - before.involuntary;
        }
        // Zero: not measured. No message came through in a slice that was too short, or a machine
        // that was held up itself charged nothing for it.
        const auto spent = static_cast<double>(after.cpu - before.cpu);
        per_message_.push_back(messages == 0 ? 0 : spent / static_cast<double>(messages));
    }

    /// The share of the time in which the load itself was busy.
    double busy() const {
        return wall_ ? static_cast<double>(own_cpu_) / static_cast<double>(wall_) : 0;
    }

    /// Its part of the JSON, while the connections are still open.
    void report(const Named& named, std::size_t silent, std::size_t bytes,
                const Tally& first) const {
        const double seconds = static_cast<double>(wall_) / 1e9;
        const double rate = seconds > 0 ? static_cast<double>(messages_) / seconds : 0;
        print(R"(    {"name": "%s", "port": %d, "pid": %d, "silent": %zu,
     "messages": %llu, "bytes": %llu, "seconds": %.6f,
     "messages_per_second": %.1f, "bytes_per_second": %.0f,
     "latency_us": {"p50": %.3f, "p99": %.3f, "p99.9": %.3f, "max": %.3f, "counted": %llu},
)",
              named.name.c_str(), named.port, named.pid, silent, messages_, messages_ * bytes,
              seconds, rate, rate * static_cast<double>(bytes), latencies.quantile(0.5),
              latencies.quantile(0.99), latencies.quantile(0.999), latencies.quantile(1),
              latencies.count());
        report_cost(first);
        const bool told = memory_before >= 0 && memory_with_silent >= 0 && silent > 0;
        const double grown = static_cast<double>(memory_with_silent - memory_before);
        print(R"(     "context_switches": {"voluntary": %s, "involuntary": %s},
     "memory": {"resident": %s, "own": %s, "own_before": %s, "own_with_silent": %s,
      "per_silent": %s},
     "load_busy": %.3f})",
              known(voluntary_).c_str(), known(involuntary_).c_str(),
              known(memory(named.pid, "status", "VmRSS:")).c_str(),
              known(own_memory(named.pid)).c_str(), known(memory_before).c_str(),
              known(memory_with_silent).c_str(),
              told ? std::to_string(grown / static_cast<double>(silent)).c_str() : "null", busy());
    }

private:
    void report_cost(const Tally& first) const {
        std::vector<double> measured;
        // Slice against slice, as they took turns: what hit both at that time cancels out.
        std::vector<double> ratios;
        for (std::size_t i = 0; i < per_message_.size(); ++i) {
            if (per_message_[i] <= 0) continue;
            measured.push_back(per_message_[i]);
            if (i < first.per_message_.size() && first.per_message_[i] > 0)
                ratios.push_back(per_message_[i] / first.per_message_[i]);
        }
        if (measured.empty()) return print("     \"cpu_ns_per_message\": null,\n");
        const Spread cost = spread(measured), ratio = spread(ratios);
        print(R"(     "ratio_to_first": {"median": %.4f, "low": %.4f, "high": %.4f},
     "cpu_ns_per_message": {"median": %.1f, "low": %.1f, "high": %.1f, "mean": %.1f,
      "slices": [)",
              ratio.median, ratio.low, ratio.high, cost.median, cost.low, cost.high,
              static_cast<double>(cpu_) / static_cast<double>(messages_));
        for (const double& value : measured)
            print("%s%.1f", &value == &measured.front() ? "" : ", ", value);
        print("]},\n");
    }

    std::vector<double> per_message_{};  // the server's CPU time, slice by slice
    Count messages_ = 0;
    Nanoseconds wall_ = 0, own_cpu_ = 0, cpu_ = 0;
    long long voluntary_ = -1, involuntary_ = -1;
};

}  // namespace load
