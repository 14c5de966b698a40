// options.hpp: the command line of load, and how it gives up.
#pragma once

#include <array>
#include <cmath>
#include <sstream>
#include <vector>

#include <signal.h>

#include "../../output/print.hpp"

namespace load {

/// Ends the load with one line. Status 2: a bad word; 1: the server or the system failed.
[[noreturn, gnu::format(printf, 2, 3)]] inline void fail(int status, const char* format, ...) {
    char text[512];
    va_list values;
    va_start(values, format);
    std::vsnprintf(text, sizeof text, format, values);
    va_end(values);
    std::fprintf(stderr, "load: %s\n", text);
    std::exit(status);
}

/// A server, as it is named on the command line.
struct Named {
    std::string name;
    int port = 0;
    pid_t pid = 0;    // 0: not given, and nothing is said of what it cost
    int silent = -1;  // -1: as many as -k says
};

struct Options {
    std::string mode = "echo", address = "127.0.0.1";
    std::size_t connections = 1, depth = 1, bytes = 64, silent = 0;
    double seconds = 2, warmup = 0.2, rate = 0, slice = 0, patience = 10;
    int cpu = -1;
    std::vector<Named> targets{};

    std::size_t silent_of(const Named& named) const {
        return named.silent < 0 ? silent : static_cast<std::size_t>(named.silent);
    }
};

constexpr const char* usage =
    "usage: load [-m echo|connect|chat] [-c CONNECTIONS] [-d DEPTH] [-s BYTES] [-k SILENT]\n"
    "            [-t SECONDS] [-w SECONDS] [-r RATE] [-l MILLISECONDS] [-p CPU] [-o SECONDS]\n"
    "            [-a ADDRESS] [-h] [NAME=]PORT[:PID[:SILENT]] ...\n";

constexpr const char* help =
    "Loads the servers on these ports, and prints what came of it as JSON.\n"
    "  -m MODE     echo: messages, each answered by the same bytes, each byte checked\n"
    "              connect: connections opened, used for one message, and closed\n"
    "              chat: one speaks, CONNECTIONS others listen, each line checked\n"
    "  -c, -d, -s  so many active connections (1), with so many messages under way each (1), of\n"
    "              so many bytes (64). -c 0: only opens the silent ones, and says what they take\n"
    "  -k SILENT   so many connections beside them that say nothing (0); behind a PID, for that\n"
    "              server alone\n"
    "  -t, -w      measures for so long (2), for each server, after a warm-up (0.2)\n"
    "  -r RATE     so many messages a second, and not each as soon as the last is answered;\n"
    "              their latency counts from when they should have left\n"
    "  -l MS       the servers take turns in slices of so many milliseconds (50 with several\n"
    "              servers; all in one slice with a single one)\n"
    "  -p CPU      puts itself and the servers (those with a PID) on that one CPU meanwhile\n"
    "  -o SECONDS  gives up when nothing has been answered for so long (10)\n"
    "  -a ADDRESS  where the servers are (127.0.0.1)\n"
    "With a PID: CPU time for each message, memory and context switches of that process.\n"
    "Exit status 1, and one line, if a byte came back wrong, or none came.\n"
    "    build/05_epoll -q -e 9501 &\n"
    "    build/load -c 50 9501:$!\n";

inline double number(int option, double least, double most, bool whole = false) {
    char* end = nullptr;
    const double value = std::strtod(optarg, &end);
    if (end == optarg || *end != '\0' || !(value >= least && value <= most) ||
        (whole && value != std::floor(value)))
        fail(2, "-%c '%.40s': %s from %g to %.9g is wanted", option, optarg,
             whole ? "a whole number" : "a number", least, most);
    return value;
}

/// [NAME=]PORT[:PID[:SILENT]]
inline Named target(const std::string& word) {
    const std::size_t equals = word.find('=');
    const bool has_name = equals != word.npos;
    const std::string name = has_name ? word.substr(0, equals) : "";
    std::istringstream parts(has_name ? word.substr(equals + 1) : word);
    std::array<int, 3> numbers{0, 0, -1};
    std::size_t count = 0;
    bool good = !word.ends_with(':') && name.find_first_of("\"\\") == name.npos;
    for (std::string part; good && std::getline(parts, part, ':'); ++count) {
        good = count < numbers.size() && !part.empty() && part.size() < 10 &&
               part.find_first_not_of("0123456789") == part.npos;
        if (good) numbers[count] = std::stoi(part);
    }
    const auto [port, pid, silent] = numbers;
    if (!good || port < 1 || port > 65535 || silent > 1'000'000)
        fail(2, "'%.60s' is no server: [NAME=]PORT[:PID[:SILENT]] is wanted", word.c_str());
    if (pid && ::kill(pid, 0) < 0 && errno == ESRCH)
        fail(2, "'%.60s': there is no process %d", word.c_str(), pid);
    return {name.empty() ? std::to_string(port) : name, port, pid, silent};
}

inline void check(const Options& options) {
    if (options.mode != "echo" && options.mode != "connect" && options.mode != "chat")
        fail(2, "-m '%.40s': echo, connect or chat is wanted", options.mode.c_str());
    if (options.targets.empty())
        fail(2, "which server? [NAME=]PORT[:PID[:SILENT]] is wanted; load -h tells more");
    if (options.rate > 0 && options.mode != "echo") fail(2, "-r goes with -m echo only");
    if (options.connections == 0 && options.mode != "echo") fail(2, "-c 0 goes with -m echo only");
    if (options.mode == "chat" && (options.bytes < 2 || options.bytes > 4097))
        fail(2, "-s %zu: a line of chat is 2 to 4097 bytes, its newline included", options.bytes);
}

inline Options parse(int argc, char* argv[]) {
    Options options;
    opterr = 0;  // the one line is ours
    const auto count = [](int option, double least, double most) {
        return static_cast<std::size_t>(number(option, least, most, true));
    };
    for (int option; (option = ::getopt(argc, argv, "+:m:c:d:s:k:t:w:r:l:p:o:a:h")) != -1;)
        switch (option) {
        case 'm': options.mode = optarg; break;
        case 'c': options.connections = count(option, 0, 100'000); break;
        case 'd': options.depth = count(option, 1, 100'000); break;
        case 's': options.bytes = count(option, 1, 64 << 20); break;
        case 'k': options.silent = count(option, 0, 1'000'000); break;
        case 't': options.seconds = number(option, 0.001, 86400); break;
        case 'w': options.warmup = number(option, 0, 86400); break;
        case 'r': options.rate = number(option, 0.001, 1e9); break;
        case 'l': options.slice = number(option, 1, 1e6) / 1000; break;
        case 'p': options.cpu = static_cast<int>(number(option, 0, 1023, true)); break;
        case 'o': options.patience = number(option, 0.01, 86400); break;
        case 'a': options.address = optarg; break;
        case 'h': print("%s%s", usage, help); std::exit(0);
        case ':': fail(2, "-%c wants a value; load -h tells more", optopt);
        default: fail(2, "unknown option '%.40s'; load -h tells more", argv[optind - 1]);
        }
    for (; optind < argc; ++optind) options.targets.push_back(target(argv[optind]));
    check(options);
    if (options.slice == 0) options.slice = options.targets.size() > 1 ? 0.05 : options.seconds;
    return options;
}

}  // namespace load
