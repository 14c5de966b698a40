// options.hpp, the same in every stage: the command line.
#pragma once

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include <arpa/inet.h>
#include <unistd.h>

#include "service.hpp"
#include "text.hpp"

constexpr double no_limit = std::numeric_limits<double>::infinity();  // in seconds

struct Port {
    Service service;
    int number;  // 0: any free one
};

/// The command line, read.
class Options {
public:
    const int stage;   // its ports are 9N01, 9N02 and 9N03 if none is named
    const char* name;  // of the stage, as its folder is called
    const char* address = "127.0.0.1";
    std::vector<Port> ports{};
    double timeout = no_limit;  // seconds that one wait may last
    bool verbose = false;
    bool quiet = false;
    bool probe = false;    // stage 2
    std::string selector;  // stage 6

    /// A bad word ends the program with one line on stderr and status 2, -h with status 0.
    /// `selectors`: what -s may name, the default last.
    Options(int argc, char* argv[], int number, const char* folder,
            const std::vector<std::string>& selectors = {})
        : stage(number), name(folder), selector(selectors.empty() ? "" : selectors.back()) {
        const std::string known = joined({"+:a:e:g:c:t:vqh", own("p", "s:")});
        opterr = 0;  // the one line is ours
        for (int word = 1, option; (option = ::getopt(argc, argv, known.c_str())) != -1;
             word = optind)
            switch (option) {
            case 'a': address = checked_address(); break;
            case 'e': ports.push_back({Service::echo, port(option)}); break;
            case 'g': ports.push_back({Service::greet, port(option)}); break;
            case 'c': ports.push_back({Service::chat, port(option)}); break;
            case 't': timeout = value_of(option, 0.001, 86400); break;
            case 'v': verbose = true; break;
            case 'q': quiet = true; break;
            case 'p': probe = true; break;
            case 's': selector = one_of(selectors); break;
            case 'h': help();
            case ':': fail(2, "-%c wants a value; %s", optopt, usage().c_str());
            default: fail(2, "unknown option %s; %s", unknown(argv[word]).c_str(), usage().c_str());
            }
        if (optind < argc)
            fail(2, "unknown word %s; %s", in_quotes(argv[optind]).c_str(), usage().c_str());
        if (verbose && quiet) fail(2, "either -v or -q, not both");
        if (ports.empty())
            for (const Service service : {Service::echo, Service::greet, Service::chat})
                ports.push_back({service, 9001 + 100 * stage + static_cast<int>(service)});
    }

    /// Ends the program with one line on stderr. Status 2: a bad word; 1: the system refused.
    [[noreturn, gnu::format(printf, 3, 4)]] void fail(int status, const char* format, ...) const {
        char text[512];
        va_list values;
        va_start(values, format);
        std::vsnprintf(text, sizeof text, format, values);
        va_end(values);
        std::fprintf(stderr, "%s: %s\n", name, text);
        std::exit(status);
    }

private:
    // What only stage 2 has, or only stage 6.
    const char* own(const char* of_2, const char* of_6) const {
        return stage == 2 ? of_2 : stage == 6 ? of_6 : "";
    }

    // What getopt() did not know. Of --foo it says no more than that '-' is no option.
    static std::string unknown(std::string_view word) {
        const char option[] = {'-', static_cast<char>(optopt), '\0'};
        return in_quotes(word.starts_with("--") ? word : option).c_str();
    }

    double value_of(int option, double least, double most) const {
        char* end = optarg;
        const double value = std::strtod(optarg, &end);
        // Written so that what is not a number (nan) fails, too.
        if (end == optarg || *end != '\0' || !(value >= least && value <= most))
            fail(2, "-%c %s: a number from %g to %g is wanted", option, in_quotes(optarg).c_str(),
                 least, most);
        return value;
    }

    std::string one_of(const std::vector<std::string>& names) const {
        std::string list;
        for (const std::string& known : names) {
            if (known == optarg) return known;
            list += joined({list.empty() ? "" : known == names.back() ? " or " : ", ", known});
        }
        fail(2, "-s %s: %s is wanted", in_quotes(optarg).c_str(), list.c_str());
    }

    int port(int option) const {
        const double value = value_of(option, 0, 65535);
        if (std::string_view(optarg).find_first_not_of("0123456789") != std::string_view::npos)
            fail(2, "-%c %s: a port is a whole number", option, in_quotes(optarg).c_str());
        return static_cast<int>(value);
    }

    // A complete address: getaddrinfo() alone would take 1.2.3 for 1.2.0.3.
    const char* checked_address() const {
        const std::string_view given(optarg);
        const std::string plain(given.substr(0, given.find('%')));  // fe80::1%eth0 names its link
        in6_addr parsed;
        if (::inet_pton(AF_INET, optarg, &parsed) != 1 &&
            ::inet_pton(AF_INET6, plain.c_str(), &parsed) != 1)
            fail(2, "-a %s: an IPv4 or IPv6 address is wanted, such as 127.0.0.1 or ::1",
                 in_quotes(given).c_str());
        return optarg;
    }

    std::string usage() const {
        return joined({"usage: ", name,
                       " [-a ADDRESS] [-e PORT] [-g PORT] [-c PORT] [-t SECONDS] [-v | -q] [-h]",
                       own(" [-p]", " [-s select|poll|epoll]")});
    }

    [[noreturn]] void help() const {
        const int first = 9001 + 100 * stage;
        std::printf(
            "%s\n"
            "  -e, -g, -c PORT  the port of echo, greet, chat; 0: any free one. None named: all\n"
            "                   three, on %d, %d and %d. Some named: those, in that order.\n"
            "  -a ADDRESS       listen on this IPv4 or IPv6 address, not on 127.0.0.1\n"
            "  -t SECONDS       how long one wait lasts at the most (stages 3 to 6)\n"
            "  -v               narrate every system call\n"
            "  -q               only start, listen and stats\n"
            "SIGUSR1 prints the counters; SIGINT (Ctrl-C) and SIGTERM stop.\n",
            usage().c_str(), first, first + 1, first + 2);
        if (std::fflush(stdout) != 0) fail(1, "cannot print the help: %s", errno_name(errno));
        std::exit(0);
    }
};
