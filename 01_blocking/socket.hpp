// socket.hpp: every system call on a socket: listen, accept, recv, send, close. The calls are the
// same for blocking and non-blocking sockets; on a blocking one they sleep. What is not here is the
// stage's own business: which socket to touch next.
// The same file, byte for byte, in every stage.
#pragma once

#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <utility>

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "program.hpp"
#include "service.hpp"

/// Owns a descriptor, and closes it.
class Descriptor {
public:
    explicit Descriptor(int number) : number_(number) {}
    Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
    Descriptor& operator=(Descriptor&&) = delete;
    // Not again on EINTR: the number is free by then, and may be somebody else's (close(2)).
    ~Descriptor() {
        if (number_ >= 0) ::close(number_);
    }
    int get() const { return number_; }

private:
    int number_;
};

/// What can be wanted of a descriptor, and what it can be ready for: poll()'s bits. A hang-up or an
/// error is reported unasked.
using Events = unsigned;
constexpr Events nothing = 0, readable = POLLIN, writable = POLLOUT, urgent = POLLPRI;
constexpr Events hangup = POLLHUP | POLLERR;

/// A descriptor of the watched list that a wait found ready, and what for.
struct Ready {
    int fd;
    Events events;
};

inline std::string letters(Events events) {
    std::string text;
    if (events & readable) text += 'r';
    if (events & writable) text += 'w';
    if (events & urgent) text += 'x';
    if (events & hangup) text += 'h';
    return text.empty() ? "-" : text;
}

/// "4:r,7:rw": the ready list; after the first sixteen, how many more.
inline std::string list(std::span<const Ready> all) {
    constexpr std::size_t most = 16;
    std::string text;
    for (std::size_t i = 0; i < all.size() && i < most; ++i)
        text += (i ? "," : "") + std::to_string(all[i].fd) + ":" + letters(all[i].events);
    if (all.size() > most) text += ",+" + std::to_string(all.size() - most);
    return text.empty() ? "-" : text;
}

struct Listener {
    Descriptor fd;
    Service service;
    Events watched = nothing;  // what the stage was last told to watch it for
};

struct Client {
    Descriptor fd;
    Session session;
    Events watched = nothing;        // what the stage was last told to watch it for
    bool eof = false;                // half-closed: it sends no more, and may still read
    bool held = false;               // not read until its outbox has drained: backpressure
    const char* ending = "eof";      // why it is closed, once nothing is wanted of it
    const char* finished = nullptr;  // why it is closed at the end of this round

    /// For writing only while something waits to be written: an idle socket is always writable, and
    /// a wait that asks for that never sleeps.
    Events wants() const {
        if (finished) return nothing;
        const bool listens = !eof && !held && !session.closing;
        return (listens ? readable | urgent : nothing) |
               (session.outbox.empty() ? nothing : writable);
    }
};

inline void set_nonblocking(const Descriptor& fd) { ::fcntl(fd.get(), F_SETFL, O_NONBLOCK); }

/// "127.0.0.1:9001" or "[::1]:9001".
inline std::string address_text(const sockaddr_storage& address, socklen_t size) {
    char host[INET6_ADDRSTRLEN + 32], port[8];  // with room for a zone, as in fe80::1%eth0
    if (::getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, host, sizeof host, port,
                      sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return "?";
    const bool v6 = address.ss_family == AF_INET6;
    return (v6 ? "[" + std::string(host) + "]" : std::string(host)) + ":" + port;
}

enum class Mode { blocking, nonblocking };

/// The listeners and clients of one server, and the steps that each stage takes with them. A step
/// never closes anything: descriptor numbers are handed out again at once, and an event still to be
/// handled in this round would reach a stranger. close_finished() ends the round.
class Sockets {
public:
    std::vector<Listener> listeners;
    std::vector<std::unique_ptr<Client>> clients;  // by descriptor, a small number; null: no client

    /// Called whenever what we want to know of a descriptor changes, and only then: from `before`
    /// to `now`. `nothing` before: it is new; `nothing` now: it is not watched any more.
    using Watch = std::function<void(int fd, Events before, Events now)>;

    /// Opens every listener asked for, or ends the program. Without `watch` nothing is watched.
    Sockets(Program& program, Mode mode, Watch watch = nullptr)
        : program_(program), mode_(mode), watch_(std::move(watch)) {
        for (const Port& port : program.options.ports) listen_on(port);
        watch_for(program.signal_fd(), nothing, readable);
        watch_listeners(readable);
    }

    /// The client with this descriptor, or null.
    Client* client(int fd) const {
        const auto place = static_cast<std::size_t>(fd);
        return place < clients.size() ? clients[place].get() : nullptr;
    }

    /// The listener with this descriptor, or null.
    Listener* listener(int fd) {
        for (Listener& listener : listeners)
            if (listener.fd.get() == fd) return &listener;
        return nullptr;
    }

    /// Seconds that the next wait may last at the most; negative: no limit.
    double wait_limit() const {
        const double limit = program_.options.timeout;
        return accepting_ || (limit >= 0 && limit < retry_every) ? limit : retry_every;
    }

    /// To be told of each wait: the call's name, what became ready, how many entries were walked to
    /// find that out, stopwatch() before the call, and errno if it failed.
    void waited(const char* call, std::span<const Ready> ready, std::size_t scanned, double before,
                int error) {
        ++counters_.waits;
        counters_.ready += ready.size();
        counters_.scanned += scanned;
        if (program_.narrating()) narrate_wait(call, ready, before, error);
        if (error && error != EINTR) program_.rest(retry_every);  // out of memory: no spinning
    }

    bool accepting() const { return accepting_; }

    /// To be told of a descriptor that the system refuses to watch: nothing would ever be heard of
    /// it again.
    void cannot_watch(int fd, int error) {
        --watching_;
        if (Client* lost = client(fd)) {
            lost->watched = nothing;
            finish(*lost, errno_name(error));
        } else if (Listener* paused = listener(fd); paused && counters_.waits > 0) {
            paused->watched = nothing;
            pause(error);
        } else {
            program_.fail(1, "cannot watch fd %d: %s", fd, errno_name(error));
        }
    }

    /// Accepts one newcomer; null if there is none, or none can be had now.
    Client* accept_from(Listener& listener) {
        if (!accepting_) return nullptr;
        sockaddr_storage address{};
        socklen_t size = sizeof address;
        const double before = program_.stopwatch();
        ++counters_.accept;
        Descriptor fd(::accept(listener.fd.get(), reinterpret_cast<sockaddr*>(&address), &size));
        if (fd.get() < 0) {
            not_accepted(listener, errno, before);
            return nullptr;
        }
        const int number = fd.get();
        if (mode_ == Mode::nonblocking) make_nonblocking(fd);
        else Program::may_sleep_in(1, number);
        // An answer is sent whole, and nothing is gained by keeping its last segment back until the
        // one before is acknowledged (Nagle's algorithm, RFC 896): with a peer that delays its
        // acknowledgements that costs 40 ms. (If it is refused, that is all it costs.)
        const int on = 1;
        ::setsockopt(number, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        made("setsockopt", fd, " option=TCP_NODELAY");
        const auto place = static_cast<std::size_t>(number);
        if (clients.size() <= place) clients.resize(place + 1);
        clients[place].reset(new Client{std::move(fd), Session{listener.service, number}});
        Client& client = *clients[place];
        counters_.max_clients = std::max(counters_.max_clients, ++counters_.clients);
        if (program_.narrating())
            program_.narrate("accept", "fd=%d service=%s peer=%s clients=%zu%s", number,
                             name_of(listener.service), address_text(address, size).c_str(),
                             client_count(), slept(before).c_str());
        services_.connect(client.session);
        answer_others();
        update(client);
        return &client;
    }

    /// One bounded read, so that a client who never stops sending does not keep the others waiting;
    /// what is left makes the socket ready again in the next round. Answers are sent at once.
    void read_from(Client& client) {
        if (!(client.watched & readable)) return;
        const int fd = client.fd.get();
        const double before = program_.stopwatch();
        ++counters_.recv;
        const ssize_t count = ::recv(fd, buffer_, read_limit(client.session.service), 0);
        if (count < 0) return not_done(client, "recv", errno, before);
        const std::string_view bytes(buffer_, static_cast<std::size_t>(count));
        counters_.bytes_in += bytes.size();
        if (program_.narrating()) narrate_recv(fd, bytes, before);
        client.session.spoken_to = true;  // it is answered below, and need not be listed for it
        if (count > 0) {
            const std::string_view as_it_is = services_.receive(client.session, bytes);
            if (!as_it_is.empty()) {  // nobody else has been spoken to
                client.session.spoken_to = false;
                return send_to(client, as_it_is);
            }
        } else {  // the end of its input, not of our answer
            client.eof = true;
            services_.end_of_input(client.session);
        }
        answer(client);
        if (!services_.spoken_to.empty()) answer_others();
    }

    /// TCP's urgent byte travels beside the stream. Whoever is told of it has to fetch it, or is
    /// told in every round (RFC 6093: not for new programs).
    void read_urgent(Client& client) {
        if (!(client.watched & urgent)) return;
        char byte = 0;
        ++counters_.recv;
        const ssize_t count = ::recv(client.fd.get(), &byte, 1, MSG_OOB);
        if (count == 1)
            program_.narrate("urgent", "fd=%d data=%s", client.fd.get(),
                             in_quotes({&byte, 1}).c_str());
        else if (count < 0 && errno != EINVAL && errno != ENOTCONN)
            // EINVAL: fetched, or overtaken by another. ENOTCONN: it is gone, and what came before
            // is still to be read.
            not_done(client, "recv", errno, 0);
    }

    /// One send of what waits. The kernel may take less than it is offered; the rest waits until
    /// the socket is writable.
    void write_to(Client& client) {
        if (client.session.outbox.empty() || client.finished) return;
        send_to(client, client.session.outbox.waiting());
    }

    /// Ends the round: closes whoever is finished, and lets newcomers in where that makes room.
    void close_finished() {
        if (finished_.empty() && accepting_) return;
        const bool room = !finished_.empty();
        // By index, as it grows: who is told that somebody leaves may turn out to be gone as well.
        for (std::size_t i = 0; i < finished_.size(); ++i) {
            services_.leave(finished_[i]->session);
            answer_others();
            close_client(*finished_[i]);
        }
        finished_.clear();
        if (accepting_ || !(room || (retry_at_ != never && monotonic() >= retry_at_))) return;
        accepting_ = true;
        retry_at_ = never;
        program_.narrate("resume", "clients=%zu", client_count());
        watch_listeners(readable);
    }

    /// The server stops: whoever understands it is told, and everything is closed.
    void close_all() {
        for (const auto& client : clients) {
            if (!client) continue;
            make_nonblocking(client->fd);
            services_.say_goodbye(client->session);
            if (client->session.spoken_to) write_to(*client);
            client->finished = "stop";
        }
        for (const auto& client : clients)
            if (client) close_client(*client);
        listeners.clear();
    }

private:
    static constexpr double never = std::numeric_limits<double>::infinity();
    static constexpr double retry_every = 1;  // second

    void listen_on(const Port& port) {
        const std::string number = std::to_string(port.number);
        const char* address = program_.options.address.c_str();
        addrinfo hints{}, *found = nullptr;
        hints.ai_family = AF_UNSPEC;
        hints.ai_socktype = SOCK_STREAM;
        hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;  // asks no name server
        const int unknown = ::getaddrinfo(address, number.c_str(), &hints, &found);
        if (unknown)
            program_.fail(1, "cannot listen on %s: %s", in_quotes(address).c_str(),
                          ::gai_strerror(unknown));
        const auto refused = [&] {
            program_.fail(1, "cannot listen on %s port %d: %s", address, port.number,
                          std::strerror(errno));
        };
        Descriptor fd(::socket(found->ai_family, SOCK_STREAM, 0));
        if (fd.get() < 0) refused();
        made("socket", fd);
        // Without it the port could not be had again while connections of the last run linger in
        // TIME_WAIT.
        const int on = 1;
        ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        made("setsockopt", fd, " option=SO_REUSEADDR");
        // Non-blocking even where a wait says that somebody is there: whoever it was may have left
        // again before accept() is called.
        if (mode_ == Mode::nonblocking) make_nonblocking(fd);
        if (::bind(fd.get(), found->ai_addr, found->ai_addrlen) < 0) refused();
        ::freeaddrinfo(found);
        if (::listen(fd.get(), SOMAXCONN) < 0) refused();
        made("bind", fd);
        made("listen", fd);
        sockaddr_storage bound{};
        socklen_t size = sizeof bound;
        ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound), &size);
        program_.say("listen", "fd=%d service=%s address=%s", fd.get(), name_of(port.service),
                     address_text(bound, size).c_str());
        listeners.push_back({std::move(fd), port.service});
    }

    void watch_for(int fd, Events before, Events now) {
        if (!watch_ || before == now) return;
        ++counters_.watch;
        if (before == nothing) ++watching_;
        if (now == nothing) --watching_;
        if (program_.narrating())
            program_.detail("watch", "fd=%d for=%s", fd, letters(now).c_str());
        watch_(fd, before, now);
    }

    void watch_listeners(Events now) {
        for (Listener& listener : listeners)
            if (now == nothing || accepting_)  // watching the one before may have been refused
                watch_for(listener.fd.get(), std::exchange(listener.watched, now), now);
    }

    /// The newcomer stays in the backlog and the listener ready: to go on watching it would be to
    /// spin. Our own limit gives way when a client leaves; others' use gives no sign: try again.
    void pause(int error) {
        accepting_ = false;
        if (error != EMFILE || client_count() == 0) retry_at_ = monotonic() + retry_every;
        program_.narrate("pause", "reason=%s clients=%zu", errno_name(error), client_count());
        watch_listeners(nothing);
    }

    void not_accepted(const Listener& listener, int error, double before) {
        const bool again = error == EAGAIN || error == EWOULDBLOCK;
        if (again) ++counters_.would_block;
        if (!again || program_.options.verbose)
            program_.narrate("accept", "fd=%d error=%s%s", listener.fd.get(), errno_name(error),
                             slept(before).c_str());
        // Nobody there, a signal, or trouble of that newcomer alone, as accept(2) lists it: the
        // next round mends it. Anything else may last: descriptors or memory are lacking.
        constexpr int passing[] = {EINTR,    ECONNABORTED, EPROTO,      ENOPROTOOPT,
                                   ENETDOWN, ENETUNREACH,  EHOSTUNREACH};
        if (!again && std::find(std::begin(passing), std::end(passing), error) == std::end(passing))
            pause(error);
    }

    /// A call on a client failed. "Not now" means later; anything else, that this client is lost.
    void not_done(Client& client, const char* call, int error, double before) {
        const bool again = error == EAGAIN || error == EWOULDBLOCK;
        if (again) ++counters_.would_block;
        if (!again || program_.options.verbose)
            program_.narrate(call, "fd=%d error=%s%s", client.fd.get(), errno_name(error),
                             slept(before).c_str());
        if (again || error == EINTR) return update(client);
        finish(client, errno_name(error));
    }

    /// Whoever said something in a chat and left draws a reset with the next thing it is told. Its
    /// words came before that, and are still to be read: recv() says when there are no more.
    void not_sent(Client& client, int error, double before) {
        Session& session = client.session;
        const bool left = error == EPIPE || error == ECONNRESET;
        if (!left || session.service != Service::chat || session.closing || client.eof)
            return not_done(client, "send", error, before);
        program_.narrate("send", "fd=%d error=%s%s", client.fd.get(), errno_name(error),
                         slept(before).c_str());
        client.ending = errno_name(error);
        session.outbox.sent(session.outbox.size());
        update(client);
    }

    /// Write first, ask later: what was said is sent now. Only what the kernel does not take waits
    /// for writability; who waits for that already need not be tried in vain.
    void answer(Client& client) {
        client.session.spoken_to = false;
        if (client.session.too_slow) finish(client, "slow_reader");
        else if (client.session.outbox.empty() || client.finished || (client.watched & writable))
            update(client);
        else send_to(client, client.session.outbox.waiting());
    }

    /// One send: of what waits in the outbox or, if nothing does, of bytes that never were in it.
    void send_to(Client& client, std::string_view bytes) {
        const int fd = client.fd.get();
        Outbox& outbox = client.session.outbox;
        const double before = program_.stopwatch();
        ++counters_.send;
        const ssize_t count = ::send(fd, bytes.data(), bytes.size(), 0);
        const int error = count < 0 ? errno : 0;
        const std::size_t taken = error ? 0 : static_cast<std::size_t>(count);
        if (!outbox.empty()) outbox.sent(taken);
        else if (taken < bytes.size()) outbox.append(bytes.substr(taken));
        if (error) return not_sent(client, error, before);
        counters_.bytes_out += taken;
        if (program_.narrating()) narrate_send(fd, count, outbox.size(), before);
        update(client);
    }

    [[gnu::cold]] void answer_others() {
        for (Session* session : services_.spoken_to) answer(*client(session->id));
        services_.spoken_to.clear();
    }

    /// After anything that may have changed what we want of this client.
    void update(Client& client) {
        const Session& session = client.session;
        if (session.outbox.empty()) client.held = false;
        else if (session.outbox.size() >= outbox_limit) client.held = true;
        const Events wanted = client.wants();
        if (wanted == nothing) finish(client, session.closing ? session.closing : client.ending);
        else if (wanted != client.watched) change_watch(client, wanted);
    }

    void change_watch(Client& client, Events wanted) {
        watch_for(client.fd.get(), std::exchange(client.watched, wanted), wanted);
    }

    [[gnu::cold]] void finish(Client& client, const char* reason) {
        if (client.finished) return;
        client.session.gone = true;
        client.finished = reason;
        finished_.push_back(&client);
        watch_for(client.fd.get(), std::exchange(client.watched, nothing), nothing);
    }

    void close_client(Client& client) {
        const int fd = client.fd.get();
        watch_for(fd, client.watched, nothing);
        if (mode_ == Mode::blocking) Program::may_sleep_in(1, -1);
        const std::string_view reason = client.finished;
        if (client.finished == client.session.closing || reason == "stop") read_out(client);
        program_.narrate("close", "fd=%d reason=%s clients=%zu", fd, client.finished,
                         client_count() - 1);
        --counters_.clients;
        clients[static_cast<std::size_t>(fd)].reset();
    }

    /// close() with bytes unread sends a reset, and that may overtake our last words and wipe them
    /// out on the peer's side (RFC 1122, 4.2.2.13). So what has come already is read, and dropped.
    void read_out(Client& client) {
        ::shutdown(client.fd.get(), SHUT_WR);
        made("shutdown", client.fd, " how=SHUT_WR");
        make_nonblocking(client.fd);
        for (std::size_t read = 0; read < outbox_limit;) {
            ++counters_.recv;
            const ssize_t count = ::recv(client.fd.get(), buffer_, sizeof buffer_, 0);
            if (count < 0 && errno == EAGAIN) ++counters_.would_block;
            program_.detail("call", "name=recv fd=%d dropped=%zd", client.fd.get(), count);
            if (count <= 0) return;
            read += static_cast<std::size_t>(count);
            counters_.bytes_in += static_cast<std::uint64_t>(count);
        }
    }

    void make_nonblocking(const Descriptor& fd) {
        set_nonblocking(fd);
        made("fcntl", fd, " flags=O_NONBLOCK");
    }

    /// A system call that only -v wants to see.
    void made(const char* call, const Descriptor& fd, const char* how = "") {
        program_.detail("call", "name=%s fd=%d%s", call, fd.get(), how);
    }

    // Cold: the compiler keeps it out of the way of what every message takes.
    [[gnu::cold]] void narrate_wait(const char* call, std::span<const Ready> ready, double before,
                                    int error) {
        const std::string outcome =
            error ? std::string("error=") + errno_name(error)
                  : "ready=" + std::to_string(ready.size()) + " on=" + list(ready);
        program_.narrate("wait", "call=%s watching=%zu %s slept=%.3f", call, watching_,
                         outcome.c_str(), monotonic() - before);
    }

    [[gnu::cold]] void narrate_recv(int fd, std::string_view bytes, double before) {
        const std::string data = bytes.empty() ? "" : " data=" + in_quotes(bytes);
        program_.narrate("recv", "fd=%d bytes=%zu%s%s", fd, bytes.size(), data.c_str(),
                         slept(before).c_str());
    }

    [[gnu::cold]] void narrate_send(int fd, ssize_t count, std::size_t left, double before) {
        const std::string rest = left == 0 ? "" : " left=" + std::to_string(left);
        program_.narrate("send", "fd=%d bytes=%zd%s%s", fd, count, rest.c_str(),
                         slept(before).c_str());
    }

    std::size_t client_count() const { return static_cast<std::size_t>(counters_.clients); }

    std::string slept(double before) const {
        if (mode_ == Mode::nonblocking) return "";
        char text[32];
        std::snprintf(text, sizeof text, " slept=%.3f", monotonic() - before);
        return text;
    }

    Program& program_;
    Counters& counters_ = program_.counters;
    const Mode mode_;
    const Watch watch_;
    Services services_;
    std::vector<Client*> finished_;
    std::size_t watching_ = 0;
    bool accepting_ = true;
    double retry_at_ = never;  // when to let newcomers in again, though nobody has left
    char buffer_[read_limit(Service::echo)];
};
