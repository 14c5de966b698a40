// service.hpp: what is said. Bytes come in, bytes go out; nothing here knows of sockets.
// The same file, byte for byte, in every stage.
#pragma once

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

enum class Service { echo, greet, chat };

inline const char* name_of(Service service) {
    return service == Service::echo ? "echo" : service == Service::greet ? "greet" : "chat";
}

constexpr std::size_t line_limit = 4096;          // bytes of one line, its newline not counted
constexpr std::size_t name_limit = 20;            // bytes of a chat member's name
constexpr std::size_t outbox_limit = 256 * 1024;  // bytes that may wait for one peer

/// Bytes to read at once of a client of this service, at the most. What one member of a chat says
/// is sent to all the others: two hundred who paste a book at the same time shall not keep
/// everybody else waiting for gigabytes to be sent.
constexpr std::size_t read_limit(Service service) {
    return service == Service::chat ? 1024 : 16 * 1024;
}

/// Bytes that wait to be sent to one peer, oldest first.
class Outbox {
public:
    bool empty() const { return bytes_.empty(); }
    std::size_t size() const { return bytes_.size() - sent_; }
    std::string_view waiting() const { return {bytes_.data() + sent_, size()}; }
    void append(std::string_view bytes) { bytes_.append(bytes); }

    /// The kernel took `count` bytes of waiting(): fewer, perhaps, than it was offered.
    void sent(std::size_t count) {
        sent_ += count;
        if (sent_ == bytes_.size()) {
            bytes_.clear();
            sent_ = 0;
            // Ten thousand peers who once had much to read must not hold that memory for ever.
            if (bytes_.capacity() > line_limit) bytes_.shrink_to_fit();
        } else if (sent_ >= bytes_.size() / 2) {
            // Moving the rest to the front at every short send would cost the square of it, and
            // never moving it would let an outbox that is never quite empty grow without end.
            bytes_.erase(0, sent_);
            sent_ = 0;
        }
    }

private:
    std::string bytes_;
    std::size_t sent_ = 0;  // how many bytes at the front are gone already
};

/// One peer's conversation: what of a line has come, what waits to be sent, when it ends.
struct Session {
    Service service;
    int id;                         // whose it is; means something to the server only
    Outbox outbox{};                // what waits to be sent
    std::string inbox{};            // a line whose newline has not come yet
    std::string name{};             // of a chat member
    const char* closing = nullptr;  // why it ends, as soon as the outbox is sent
    bool too_slow = false;          // it ends now: more waits for it than may
    bool spoken_to = false;         // it stands in Services::spoken_to: once is enough
    bool gone = false;  // about to be closed: a thousand who leave at once need not hear of it
};

/// How many bytes at the front of `text` are one character that a terminal just shows: well-formed
/// UTF-8 (RFC 3629), no control character (C0, DEL, C1), and none that breaks a line or turns it
/// around (U+2028 to U+202E, U+2066 to U+2069). 0 if they are not.
inline std::size_t shown_length(std::string_view text) {
    const auto byte = [&](std::size_t i) {
        return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
    };
    const auto tail = [&](std::size_t i) { return byte(i) >= 0x80 && byte(i) <= 0xBF; };
    const unsigned first = byte(0), second = byte(1);
    if (first >= 0x20 && first < 0x7F) return 1;
    if (!tail(1)) return 0;
    if (first == 0xC2) return second >= 0xA0 ? 2 : 0;  // below: C1, as good as an escape sequence
    if (first >= 0xC3 && first <= 0xDF) return 2;
    if (!tail(2)) return 0;
    const unsigned third = byte(2);
    if (first == 0xE2 && second == 0x80 && third >= 0xA8 && third <= 0xAE) return 0;
    if (first == 0xE2 && second == 0x81 && third >= 0xA6 && third <= 0xA9) return 0;
    if (first == 0xE0) return second >= 0xA0 ? 3 : 0;  // below: longer than need be
    if (first == 0xED) return second <= 0x9F ? 3 : 0;  // above: half of a UTF-16 pair
    if (first >= 0xE1 && first <= 0xEF) return 3;
    if (!tail(3)) return 0;
    if (first == 0xF0) return second >= 0x90 ? 4 : 0;
    if (first == 0xF4) return second <= 0x8F ? 4 : 0;
    return first >= 0xF1 && first <= 0xF3 ? 4 : 0;
}

/// `text` with a question mark for every byte that could do more than be shown.
inline std::string printable(std::string_view text) {
    std::string shown;
    while (!text.empty()) {
        const std::size_t length = shown_length(text);
        if (length == 0) shown += '?';
        else shown += text.substr(0, length);
        text.remove_prefix(std::max<std::size_t>(length, 1));
    }
    return shown;
}

/// The three services, and the chat's one room. A server tells it who connects, what bytes came,
/// who is gone; it fills outboxes, and lists in `spoken_to` whose.
class Services {
public:
    std::vector<Session*> spoken_to;  // each once; the server sends, and clears the list

    void connect(Session& session) {
        if (session.service == Service::greet)
            say(session, "welcome: every line comes back with ' good' behind it, q ends\n");
        if (session.service == Service::chat) join(session);
    }

    /// TCP keeps no messages apart: `bytes` may be half a line or a hundred. Whoever sent them is
    /// answered without being listed. Returns what is to be sent as it is, and need not be copied
    /// into the outbox first: echo's bytes, if none wait there already.
    std::string_view receive(Session& session, std::string_view bytes) {
        if (session.service != Service::echo) cut_lines(session, bytes);
        else if (session.outbox.empty()) return bytes;
        else session.outbox.append(bytes);
        return {};
    }

    /// The peer will send no more (it may still read): what it sent last is a line, too.
    void end_of_input(Session& session) {
        if (!session.inbox.empty()) receive(session, "\n");
    }

    void leave(Session& session) {
        if (std::erase(members_, &session) != 0) announce("* " + session.name + " leaves\n");
    }

    /// The server stops.
    void say_goodbye(Session& session) {
        if (session.service == Service::greet) say(session, "goodbye: the server stops\n");
        if (session.service == Service::chat) say(session, "* the server stops\n");
    }

private:
    void cut_lines(Session& session, std::string_view bytes) {
        while (!bytes.empty() && !session.closing) {
            const std::size_t newline = bytes.find('\n');
            const bool whole = newline != bytes.npos;
            std::string_view line = bytes.substr(0, newline);
            bytes.remove_prefix(whole ? newline + 1 : bytes.size());
            if (!whole || !session.inbox.empty()) line = session.inbox.append(line);
            if (line.ends_with('\r')) line.remove_suffix(1);  // perhaps the end of it, perhaps not
            if (line.size() > line_limit) refuse_line(session);
            else if (whole) take_line(session, line);
            if (whole) session.inbox.clear();
        }
        if (!said_.empty()) announce(std::exchange(said_, {}), &session);
        if (session.closing) leave(session);  // who is shown the door is in the room no more
    }

    void say(Session& session, std::string_view text) {
        session.outbox.append(text);
        if (session.spoken_to) return;
        session.spoken_to = true;
        spoken_to.push_back(&session);
    }

    // Whoever does not read the answers to its own words is not read itself, and makes nobody else
    // wait. A chat member is talked to by all the others as well: when they speak, there has to be
    // room, or it goes.
    void announce(std::string_view text, const Session* speaker = nullptr) {
        for (Session* member : members_) {
            if (member == speaker || member->gone) continue;
            if (member->outbox.size() + text.size() > outbox_limit) member->too_slow = true;
            say(*member, member->too_slow ? "" : text);
        }
    }

    void refuse_line(Session& session) {
        session.closing = "line_too_long";
        const bool greets = session.service == Service::greet;
        say(session, greets ? "error: a line is 4096 bytes at the most\n"
                            : "* a line is 4096 bytes at the most\n");
    }

    void take_line(Session& session, std::string_view line) {
        if (session.service == Service::chat) return chat(session, line);
        if (line == "q") {
            session.closing = "quit";
            return say(session, "goodbye\n");
        }
        say(session, line);
        say(session, " good\n");
    }

    void join(Session& session) {
        session.name = "guest-" + std::to_string(++guests_);
        const std::string others = members_.empty() ? "alone here" : "here: " + names();
        say(session, "* you are " + session.name + ", " + others + "\n");
        announce("* " + session.name + " joins\n");
        members_.push_back(&session);
    }

    void chat(Session& session, std::string_view line) {
        const std::string_view command = line.substr(0, line.find(' '));
        if (command == "/nick")
            rename(session, line.substr(std::min(line.size(), command.size() + 1)));
        else if (line == "/who") say(session, "* here: " + names() + "\n");
        else if (line.starts_with('/'))
            say(session, "* no such command: there are /nick NAME and /who\n");
        else if (!line.empty()) said_ += session.name + ": " + printable(line) + "\n";
    }

    // Nothing but ASCII in a name, and no name but one's own that looks like the server's doing:
    // nobody can be mistaken for somebody else.
    void rename(Session& session, std::string_view name) {
        const auto fits = [](unsigned char c) {
            return c < 0x80 && (std::isalnum(c) || c == '-' || c == '_');
        };
        if (name.empty() || name.size() > name_limit ||
            !std::all_of(name.begin(), name.end(), fits))
            return say(session, "* a name is 1 to 20 letters, digits, - or _\n");
        const std::string wanted = lower(name);
        const auto has_it = [&](const Session* member) {
            return member != &session && lower(member->name) == wanted;
        };
        if (wanted.starts_with("guest-") || wanted == "server" ||
            std::any_of(members_.begin(), members_.end(), has_it))
            return say(session, "* that name is taken\n");
        const std::string news = "* " + session.name + " is now " + std::string(name) + "\n";
        say(session, news);
        said_ += news;
        session.name = name;
    }

    std::string names() const {
        constexpr std::size_t most = 50;
        std::string list;
        for (std::size_t i = 0; i < members_.size() && i < most; ++i)
            list += (i == 0 ? "" : ", ") + members_[i]->name;
        if (members_.size() > most)
            list += " and " + std::to_string(members_.size() - most) + " more";
        return list;
    }

    static std::string lower(std::string_view text) {
        std::string small(text);
        for (char& c : small) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
        return small;
    }

    std::vector<Session*> members_;  // of the chat, in the order of joining
    std::string said_;  // to all the others, by one of them: passed on once a read, not once a line
    unsigned long guests_ = 0;
};
