// The truth table: what each of the four ways to wait says of a descriptor, state by state, and
// what recv, send and SO_ERROR say then. Every cell is asked of the kernel that it runs on.
//
//     make truth                      the whole table
//     make truth ARGS="full refused"  these rows alone
//     make truth ARGS=--json          for programs
//
// A state is made the same way each time: open, register, ask until the edge-triggered wait has no
// more to tell, and only then let happen what the state is about. So the edge-triggered column
// answers: "what do I hear of this, if I have heard all before it?"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <span>
#include <string_view>

#include <sys/utsname.h>

#include "../output/print.hpp"
#include "states.hpp"

namespace {

constexpr char legend[] = R"(
r readable   w writable   x urgent data (PRI)   d peer sends no more (RDHUP)
h hang-up (HUP)   e error (ERR)   n not open (NVAL)   - nothing
Asked for: r w x d, unless the row says otherwise. select tells e as r and w, h as r (select(2)).
first, again: what edge-triggered tells of this when all before was heard, and when asked once more.
The other waits tell the same each time. recv, SO_ERROR: the second time, too, where it differs.
recv: 0 is the end of input; oob is recv(MSG_OOB); of a listener accept(); after "ok:" recv then.
What is no socket gets read() and write().
)";

using Told = std::pair<const State*, Row>;

void print_table(const std::vector<Told>& table, const char* kernel) {
    constexpr char line[] = "  %-19s%-41s%-8s%-7s%-7s%-7s%-7s%-16s%-13s%-15s %2s\n";
    print("What Linux %s says of a descriptor\n\n%75s  %5s  %s\n", kernel, "", "epoll",
          "edge-triggered");
    print(line, "", "", "select", "poll", "level", "first", "again", "recv", "send", "SO_ERROR",
          " Q");
    for (const auto& [state, row] : table) {
        if (*state->group) print("%s\n", state->group);
        const std::string question = state->question ? std::to_string(state->question) : "-";
        print(line, state->name, state->title, row.select.c_str(), row.poll.c_str(),
              row.level.c_str(), row.edge.c_str(), row.edge_again.c_str(), row.recv.c_str(),
              row.send.c_str(), row.so_error.c_str(), question.c_str());
    }
    print("%s\nWhy\n", legend);
    for (const auto& [state, row] : table)
        print("  %-19s%s [%s]\n", state->name, state->why, state->source);
    print("\nQ: what learners ask most\n");
    for (int number = 1; const auto& [asked, answer] : questions) {
        const auto answers = [&](const Told& told) { return told.first->question == number; };
        if (std::any_of(table.begin(), table.end(), answers))
            print("  %2d  %s %s\n", number, asked, answer);
        ++number;
    }
}

std::string in_quotes(std::string_view text) {
    std::string json = "\"";
    for (const char letter : text) {
        char code[8];
        std::snprintf(code, sizeof code, "\\u%04x", static_cast<unsigned char>(letter));
        const bool plain = letter >= ' ' && letter != '"' && letter != '\\';
        json += plain ? std::string(1, letter) : code;
    }
    return json + '"';
}

/// {"name": "value", ...}: every value is a string.
std::string object(const std::vector<std::pair<const char*, std::string>>& members) {
    std::string json;
    for (const auto& [name, value] : members)
        json += (json.empty() ? "{" : ", ") + in_quotes(name) + ": " + in_quotes(value);
    return json + "}";
}

void print_json(const std::vector<Told>& table, const char* kernel) {
    print("{\"kernel\": %s, \"states\": [", in_quotes(kernel).c_str());
    const char* between = "\n";
    for (const auto& [state, row] : table) {
        const std::string json = object({{"state", state->name},
                                         {"title", state->title},
                                         {"select", row.select},
                                         {"poll", row.poll},
                                         {"level", row.level},
                                         {"edge", row.edge},
                                         {"edge_again", row.edge_again},
                                         {"recv", row.recv},
                                         {"send", row.send},
                                         {"so_error", row.so_error},
                                         {"question", std::to_string(state->question)},
                                         {"why", state->why},
                                         {"source", state->source}});
        print("%s%s", std::exchange(between, ",\n"), json.c_str());
    }
    print("\n], \"questions\": [");
    between = "\n";
    for (const auto& [asked, answer] : questions)
        print("%s%s", std::exchange(between, ",\n"),
              object({{"question", asked}, {"answer", answer}}).c_str());
    print("\n]}\n");
}

[[noreturn]] void unknown(std::string_view word) {
    std::string line =
        "truth: unknown word " + in_quotes(word) + "; there are --json and the states";
    for (const State& state : states) line += std::string(" ") + state.name;
    std::fprintf(stderr, "%s\n", line.c_str());
    std::exit(2);
}

Told told_by_kernel(const State& state) {
    try {
        return {&state, ask(state.make)};
    } catch (const Unavailable&) {
        return {&state, {"n/a", "n/a", "n/a", "n/a", "n/a", "n/a", "n/a", "n/a"}};
    } catch (const std::exception& error) {
        std::fprintf(stderr, "truth: %s cannot be made: %s\n", state.name, error.what());
        std::exit(1);
    }
}

/// Lets there be a descriptor number that select has no room for, where the system allows it.
void raise_limit() {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = std::max(limit.rlim_cur, std::min<rlim_t>(limit.rlim_max, 2 * FD_SETSIZE));
    ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

int main(int argc, char* argv[]) {
    bool json = false;
    std::vector<const State*> wanted;
    for (const std::string_view word : std::span(argv + 1, argv + argc)) {
        const auto named = [&](const State& state) { return state.name == word; };
        const State* const state = std::find_if(std::begin(states), std::end(states), named);
        if (state != std::end(states)) wanted.push_back(state);
        else if (word == "--json") json = true;
        else unknown(word);
    }
    if (wanted.empty())
        for (const State& state : states) wanted.push_back(&state);

    require_stdout();
    std::signal(SIGPIPE, SIG_IGN);  // or the first EPIPE would be the end of this program
    raise_limit();
    std::vector<Told> table;
    for (const State* const state : wanted) table.push_back(told_by_kernel(*state));
    utsname system{};
    ::uname(&system);
    (json ? print_json : print_table)(table, system.release);
}
