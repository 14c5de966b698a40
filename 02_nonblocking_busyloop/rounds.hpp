// rounds.hpp: the rounds of the busy loop, narrated.
#pragma once

#include "narration.hpp"

/// There are too many rounds to narrate each: one line a second says how many there were, and how
/// many calls were made for nothing.
class Rounds {
public:
    explicit Rounds(Narration& narration) : narration_(narration) {}

    /// Call it once a round, with the number of sockets that there are.
    void count(std::size_t tried) {
        narration_.counters.scanned += tried;
        ++rounds_;
        if (!narration_.narrating() || monotonic() < next_line_) return;
        const auto would_block = narration_.counters.would_block;
        narration_.narrate("spin", "rounds=%llu would_block=%llu slept=0.000", rounds_,
                           would_block - narrated_);
        rounds_ = 0;
        narrated_ = would_block;
        next_line_ = monotonic() + 1;
    }

private:
    Narration& narration_;
    unsigned long long rounds_ = 0, narrated_ = 0;
    double next_line_ = monotonic() + 1;
};
