// service.hpp, the same in every stage: what is said: echo, greet, chat. Bytes come in, bytes go
// out; nothing here knows of sockets.
#pragma once

#include <cctype>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include <strings.h>

#include "outbox.hpp"
#include "text.hpp"

enum class Service { echo, greet, chat };

inline const char* name_of(Service service) {
    return service == Service::echo ? "echo" : service == Service::greet ? "greet" : "chat";
}

constexpr std::size_t line_limit = 4096;  // bytes of one line, its newline not counted
constexpr std::size_t name_limit = 20;    // bytes of a chat member's name

/// The most bytes to read at once. A chat member's are sent to all the others in the same round.
constexpr std::size_t read_limit(Service service) {
    return service == Service::chat ? 1024 : 16 * 1024;
}

/// One peer's conversation.
struct Session {
    Service service;
    int id;                        // tells the server whose it is; nothing here looks at it
    Outbox outbox{};               // what waits to be sent
    std::string inbox{};           // the start of a line whose newline has not come yet
    std::string name{};            // of a chat member
    const char* ending = nullptr;  // why it ends, once the outbox is sent: no more is answered
    bool eof = false;              // nothing more comes from the peer, or is wanted of it
    bool spoken_to = false;        // it is listed in Services::spoken_to

    /// The first reason stands.
    void end(const char* reason) {
        if (!ending) ending = reason;
    }

    /// Ends it without another word. If nothing is lost by that, the first reason stands.
    void abandon(const char* reason) {
        if (!ending || !outbox.empty()) ending = reason;
        eof = true;
        outbox.clear();
    }
};

/// The three services, and the chat's one room. A server reports who connects, what bytes come and
/// who leaves; the services fill outboxes, and list whose in `spoken_to`.
class Services {
public:
    std::vector<Session*> spoken_to;  // each once; the server sends, and clears the list

    void connect(Session& session) {
        spoken_to.reserve(members_.size() + 2);  // so that nobody is told and then not listed
        if (session.service == Service::greet)
            say(session, "welcome: every line comes back with ' good' behind it, q ends\n");
        if (session.service == Service::chat) join(session);
    }

    /// `bytes` may be half a line or a hundred lines: TCP does not keep messages apart. Returns
    /// what is to be sent unchanged and need not be copied into the outbox: echo's bytes, if none
    /// wait there already.
    std::string_view receive(Session& session, std::string_view bytes) {
        if (session.service != Service::echo) cut_lines(session, bytes);
        else if (session.outbox.empty()) return bytes;
        else session.outbox.append(bytes);
        return {};
    }

    /// The peer sends no more (it may still read): the end of its input ends its last line, too.
    void end_of_input(Session& session) {
        session.eof = true;
        if (!session.inbox.empty()) receive(session, "\n");
    }

    void leave(Session& session) {
        if (std::erase(members_, &session) == 0) return;
        announce("* ");  // in parts, as that takes no memory
        announce(session.name);
        announce(" leaves\n");
    }

    /// The server stops.
    void say_goodbye(Session& session) {
        if (session.service == Service::greet) say(session, "goodbye: the server stops\n");
        if (session.service == Service::chat) say(session, "* the server stops\n");
    }

private:
    void cut_lines(Session& session, std::string_view bytes) {
        said_.clear();
        while (!bytes.empty() && !session.ending) {
            const std::size_t newline = bytes.find('\n');
            const bool whole = newline != bytes.npos;
            std::string_view line = bytes.substr(0, newline);
            bytes.remove_prefix(whole ? newline + 1 : bytes.size());
            if (!whole || !session.inbox.empty()) line = session.inbox.append(line);
            if (line.ends_with('\r')) line.remove_suffix(1);  // perhaps "\r\n", cut in two
            if (line.size() > line_limit) refuse_line(session);
            else if (whole) take_line(session, line);
            if (whole) session.inbox.clear();
        }
        if (!said_.empty()) announce(said_, &session);
        if (session.ending) leave(session);  // at once, and not only when its outbox is sent
    }

    // If there is no memory for it, this session ends, and not the one that is served just now.
    void say(Session& session, std::string_view text) {
        try {
            if (!session.spoken_to) spoken_to.push_back(&session);
            session.spoken_to = true;
            if (!session.ending) session.outbox.append(text);
        } catch (const std::bad_alloc&) {
            session.abandon("ENOMEM");
        }
    }

    // A member that does not read delays nobody: if there is no room for what another one says, it
    // is disconnected.
    void announce(std::string_view text, const Session* speaker = nullptr) {
        for (Session* member : members_) {
            if (member == speaker || member->ending) continue;
            if (member->outbox.size() + text.size() > outbox_limit) member->abandon("slow_reader");
            say(*member, text);
        }
    }

    void refuse_line(Session& session) {
        const bool greets = session.service == Service::greet;
        say(session, greets ? "error: a line is 4096 bytes at the most\n"
                            : "* a line is 4096 bytes at the most\n");
        session.end("line_too_long");
    }

    void take_line(Session& session, std::string_view line) {
        if (session.service == Service::chat) return chat(session, line);
        say(session, line == "q" ? "goodbye" : line);
        say(session, line == "q" ? "\n" : " good\n");
        if (line == "q") session.end("quit");
    }

    void join(Session& session) {
        session.name = joined({"guest-", std::to_string(++guests_)});
        const std::string here = members_.empty() ? "alone here" : joined({"here: ", names()});
        say(session, joined({"* you are ", session.name, ", ", here, "\n"}));
        members_.push_back(&session);
        announce(joined({"* ", session.name, " joins\n"}), &session);
    }

    void chat(Session& session, std::string_view line) {
        const std::size_t space = line.find(' ');
        if (line.substr(0, space) == "/nick")
            rename(session, space == line.npos ? "" : line.substr(space + 1));
        else if (line == "/who") say(session, joined({"* here: ", names(), "\n"}));
        else if (line.starts_with('/'))
            say(session, "* no such command: there are /nick NAME and /who\n");
        else if (!line.empty()) said_ += joined({session.name, ": ", printable(line), "\n"});
    }

    // ASCII letters, digits, - and _ only, and no name twice, nor one that looks like the server's
    // own: nobody can pass for another.
    void rename(Session& session, std::string_view wanted) {
        const std::string name(wanted);
        bool fits = !name.empty() && name.size() <= name_limit;
        for (const char c : name)
            fits = fits && (std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_');
        if (!fits) return say(session, "* a name is 1 to 20 letters, digits, - or _\n");
        bool taken = ::strncasecmp(name.c_str(), "guest-", 6) == 0 ||
                     ::strcasecmp(name.c_str(), "server") == 0;
        for (const Session* other : members_)
            taken = taken ||
                    (other != &session && ::strcasecmp(name.c_str(), other->name.c_str()) == 0);
        if (taken) return say(session, "* that name is taken\n");
        const std::string news = joined({"* ", session.name, " is now ", name, "\n"});
        say(session, news);
        said_ += news;
        session.name = name;
    }

    std::string names() const {
        constexpr std::size_t most = 50;
        std::string list;
        for (std::size_t i = 0; i < members_.size() && i < most; ++i)
            list += joined({i == 0 ? "" : ", ", members_[i]->name});
        if (members_.size() > most)
            list += joined({" and ", std::to_string(members_.size() - most), " more"});
        return list;
    }

    std::vector<Session*> members_;  // of the chat, in the order of joining
    std::string said_;  // lines of one member to all others: passed on once a read, not once a line
    std::size_t guests_ = 0;
};
