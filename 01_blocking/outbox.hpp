// outbox.hpp, the same in every stage: what waits to be sent to a client.
#pragma once

#include <string>
#include <string_view>

constexpr std::size_t outbox_limit = 256 * 1024;  // bytes that may wait for one peer

/// The bytes that wait to be sent to one peer, oldest first.
class Outbox {
public:
    bool empty() const { return bytes_.empty(); }
    std::size_t size() const { return bytes_.size() - sent_; }
    std::string_view waiting() const { return {bytes_.data() + sent_, size()}; }

    /// Backpressure: a peer that does not read its answers is not read either.
    bool full() const { return size() >= outbox_limit; }

    void append(std::string_view bytes) { bytes_.append(bytes); }

    void clear() {
        bytes_.clear();
        // Ten thousand peers that once had much to read must not keep that memory.
        if (bytes_.capacity() > 4096) std::string().swap(bytes_);
        sent_ = 0;
    }

    /// The kernel took the first `count` of `bytes`, which are waiting() or, if nothing waits, were
    /// never in here: what is left of those is kept.
    void sent_of(std::string_view bytes, std::size_t count) {
        if (count == bytes.size() && empty()) return;
        if (empty()) return append(bytes.substr(count));
        sent_ += count;
        if (sent_ == bytes_.size()) {
            clear();
        } else if (sent_ >= bytes_.size() / 2) {
            // Half of it at a time: to move the rest to the front at every short send would take
            // quadratic time, and never to move it would let an outbox grow that is never empty.
            bytes_.erase(0, sent_);
            sent_ = 0;
        }
    }

private:
    std::string bytes_{};
    std::size_t sent_ = 0;  // bytes at the front that are sent already
};
