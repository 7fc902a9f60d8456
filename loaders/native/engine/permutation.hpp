// A keyed permutation of {0, …, size-1} with O(1) memory and O(1) access to any position: a Feistel network on the
// smallest even number of bits that holds `size`, walked until it lands inside (fewer than four steps on average).
// Source: Black and Rogaway, "Ciphers with arbitrary finite domains" (CT-RSA 2002).
#pragma once

#include <array>
#include <cstdint>

#include "engine/philox.hpp"

namespace fastvit {

class Permutation {
  public:
    // `item` separates permutations of one seed and epoch from each other (such as the windows of a quasi-random order).
    Permutation(std::uint64_t size, std::uint64_t seed, std::uint32_t epoch, std::uint64_t item) : size_(size) {
        while (half_bits_ < 31 && (std::uint64_t{1} << (2 * half_bits_)) < size) ++half_bits_;
        half_mask_ = (std::uint64_t{1} << half_bits_) - 1;
        for (std::uint32_t block = 0; block < kRounds / 4; ++block) {
            const Philox4 words = draw(Purpose::permutation, block, seed, epoch, item);
            for (std::uint32_t word = 0; word < 4; ++word) round_keys_[4 * block + word] = words[word];
        }
    }

    // Requires position < size <= 2^62.
    std::uint64_t operator()(std::uint64_t position) const {
        do position = encrypt(position);
        while (position >= size_);
        return position;
    }

  private:
    static constexpr std::uint32_t kRounds = 8;

    std::uint64_t encrypt(std::uint64_t value) const {
        std::uint64_t left = value >> half_bits_, right = value & half_mask_;
        for (const std::uint32_t key : round_keys_) {
            const std::uint64_t next = left ^ (mix(right, key) & half_mask_);
            left = right;
            right = next;
        }
        return (left << half_bits_) | right;
    }

    static std::uint64_t mix(std::uint64_t value, std::uint32_t key) {
        std::uint64_t mixed = (value ^ (std::uint64_t{key} << 16)) + key;
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9u;  // the finaliser of SplitMix64
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBu;
        return mixed ^ (mixed >> 31);
    }

    std::uint64_t size_;
    unsigned half_bits_ = 1;
    std::uint64_t half_mask_ = 1;
    std::array<std::uint32_t, kRounds> round_keys_{};
};

}  // namespace fastvit
