// modes.hpp: the three ways to load a server, -m echo, connect and chat.
#pragma once

#include <deque>
#include <optional>

#include <arpa/inet.h>

#include "target.hpp"

namespace load {

/// Each answer is followed by the next message; or, with -r, messages leave when they are due.
class Echo final : public Target {
public:
    using Target::Target;

private:
    void open_active() override {
        while (connections_.size() < options_.connections) add_connection(connected());
    }

    void start() override {
        due_ = 0;
        for (std::size_t i = 0; i < connections_.size() && options_.rate <= 0; ++i) {
            const Nanoseconds at = now();
            for (std::size_t n = 0; n < options_.depth; ++n) add_message(i, at);
            send_some(i);
        }
    }

    /// With -r: message n is due n / RATE seconds after the start, on connection n modulo C.
    Nanoseconds until_next() override {
        while (options_.rate > 0) {
            const Nanoseconds due =
                began_ + in_nanoseconds(static_cast<double>(due_) / options_.rate);
            if (due >= end_ && under_way_ == 0) return std::max<Nanoseconds>(end_ - now(), 1);
            if (due >= end_) break;
            const Nanoseconds left = due - now();
            if (left > 0) return left;
            const auto index = static_cast<std::size_t>(due_++ % connections_.size());
            if (under_way_ == 0) last_answer_ = now();  // patience begins with the first that waits
            add_message(index, due);
            send_some(index);
        }
        return Target::until_next();
    }

    void handle(std::size_t index, bool readable, bool writable) override {
        if (readable) receive_answers(index);
        if (writable) send_some(index);
    }

    void receive_answers(std::size_t index) {
        Connection& connection = connections_[index];
        const Count before = connection.received / options_.bytes;
        receive(index, said_, connection.sent);
        const Count came = connection.received / options_.bytes - before;
        const bool goes_on = options_.rate <= 0 && last_answer_ < end_;
        answered(connection, came);
        for (Count n = 0; goes_on && n < came; ++n) add_message(index, last_answer_);
        if (goes_on && came) send_some(index);
    }

    Count due_ = 0;
};

/// Connections opened, used for one message, and closed.
class Connect final : public Target {
public:
    using Target::Target;

private:
    void open_active() override { connections_.resize(options_.connections); }

    void start() override {
        for (std::size_t i = 0; i < connections_.size(); ++i) open_one(i);
    }

    void open_one(std::size_t index) {
        Connection& connection = connections_[index];
        connection = Connection{};
        connection.begin = (opened_++ % 100'003) * 7919;
        connection.fd = new_socket();
        connection.watched_for_writing = true;  // that is when it is connected
        ::fcntl(connection.fd, F_SETFL, O_NONBLOCK);
        take_turns(connection.fd);
        add_message(index, now());
        if (::connect(connection.fd, address_->ai_addr, address_->ai_addrlen) < 0 &&
            errno != EINPROGRESS)
            fail(1, "%s: connect: %s", name(), std::strerror(errno));
        waiter_.watch(EPOLL_CTL_ADD, connection.fd, index, true);
    }

    /// The side that closes first keeps the port for a minute (TIME_WAIT), and there are some
    /// 28,000. All of 127.0.0.0/8 is ours: take turns with several addresses of our own.
    void take_turns(int fd) const {
        if (options_.address != "127.0.0.1") return;
        const int on = 1;
        ::setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        sockaddr_in own{};
        own.sin_family = AF_INET;
        own.sin_addr.s_addr = htonl(INADDR_LOOPBACK + static_cast<in_addr_t>(opened_ % 16));
        ::bind(fd, reinterpret_cast<sockaddr*>(&own), sizeof own);
    }

    void handle(std::size_t index, bool readable, bool writable) override {
        Connection& connection = connections_[index];
        if (writable) send_some(index);
        if (readable) receive(index, said_, connection.sent);
        if (connection.received < options_.bytes) return;
        answered(connection, 1);
        connection = Connection{};
        if (last_answer_ < end_) open_one(index);
    }

    Count opened_ = 0;
};

/// Connection 0 speaks, all the others listen. Once all have heard a line, the next one is said.
class Chat final : public Target {
public:
    using Target::Target;

    /// The line that is said.
    static std::string line(std::size_t bytes) {
        std::string text(bytes, '\n');
        for (std::size_t i = 0; i + 1 < bytes; ++i) text[i] = static_cast<char>('a' + i % 26);
        return text;
    }

    void check_silent() const override {}  // they are told what all are told

private:
    void silent_came(bool last) override {
        expect_lines(silent_.back(), 1);
        for (std::size_t i = 0; last && i + 1 < silent_.size(); ++i)
            expect_lines(silent_[i], silent_.size() - 1 - i);
    }

    void open_active() override {
        while (connections_.size() <= options_.connections) {
            Descriptor fd = connected();
            const std::string welcome = expect_lines(fd, 1);
            if (connections_.empty()) learn_what_is_heard(welcome);
            add_connection(std::move(fd));
            connections_.back().begin = 0;
        }
        // Each has been told of all who came after it.
        for (std::size_t i = 0; i < options_.connections; ++i) {
            ::fcntl(connections_[i].fd, F_SETFL, 0);
            expect_lines(connections_[i].fd, options_.connections - i);
            ::fcntl(connections_[i].fd, F_SETFL, O_NONBLOCK);
        }
    }

    /// Reads (blocking) until so many lines have come; returns the first.
    std::string expect_lines(int fd, std::size_t lines) {
        std::string heard;
        for (std::size_t seen = 0; seen < lines;) {
            const ssize_t count = ::recv(fd, buffer_.data(), buffer_.size(), 0);
            if (count <= 0) fail(1, "%s: a line did not reach a member of the chat", name());
            const auto end = buffer_.begin() + count;
            heard.append(buffer_.begin(), end);
            seen += static_cast<std::size_t>(std::count(buffer_.begin(), end, '\n'));
        }
        return heard.substr(0, heard.find('\n'));
    }

    void learn_what_is_heard(const std::string& welcome) {
        const std::string greeting = "* you are ";
        if (!welcome.starts_with(greeting))
            fail(1, "%s: this is no chat: '%.60s'", name(), welcome.c_str());
        const std::string speaker =
            welcome.substr(greeting.size(), welcome.find(',') - greeting.size());
        heard_.emplace(speaker + ": " + line(options_.bytes), said_.longest());
    }

    void start() override {
        for (std::size_t n = 0; n < options_.depth; ++n) say_line();
        send_some(0);
    }

    void say_line() {
        add_message(0, last_answer_);
        heard_by_.push_back(0);
    }

    void handle(std::size_t index, bool readable, bool writable) override {
        if (readable) hear(index);
        if (writable) send_some(index);
    }

    void hear(std::size_t index) {
        Connection &speaker = connections_[0], &member = connections_[index];
        const Count length = heard_->period(), before = member.received / length;
        if (index == 0)
            fail(1, "%s: the speaker was told something: '%.60s'", name(),
                 expect_lines(speaker.fd, 1).c_str());
        receive(index, *heard_, speaker.to_send / options_.bytes * length);
        for (Count n = before; n < member.received / length; ++n) {
            const auto i = static_cast<std::size_t>(n - lines_done_);  // which of those under way
            count_answer(speaker.left[i]);
            ++heard_by_[i];
        }
        while (!heard_by_.empty() && heard_by_.front() == options_.connections) {
            heard_by_.pop_front();
            speaker.left.erase(speaker.left.begin());
            ++lines_done_;
            --under_way_;
            if (last_answer_ < end_) say_line();
        }
        send_some(0);
    }

    std::optional<Sequence> heard_{};     // what is said, as the others hear it
    std::deque<std::size_t> heard_by_{};  // how many have heard each line under way
    Count lines_done_ = 0;
};

/// The sequence of what is said to all the servers.
inline Sequence what_is_said(const Options& options) {
    const std::size_t at_once =
        std::min<std::size_t>(options.bytes * std::min<std::size_t>(options.depth, 64), 4 << 20);
    return {options.mode == "chat" ? Chat::line(options.bytes) : random_bytes(),
            std::max<std::size_t>(at_once, 4096)};
}

inline std::unique_ptr<Target> make_target(const Options& options, const Named& named,
                                           const Sequence& said) {
    if (options.mode == "chat") return std::make_unique<Chat>(options, named, said);
    if (options.mode == "connect") return std::make_unique<Connect>(options, named, said);
    return std::make_unique<Echo>(options, named, said);
}

}  // namespace load
