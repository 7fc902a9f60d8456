// What the readers and writers of Huffman codes share. The table that finds the next code is not among it: the decoder wants
// to have a coefficient's value at once (shift and sign), the transcoder its symbol. Entries that serve both either
// compute the shift, which makes decoding whole images 1.0 % more instructions, or have 8 bytes instead of 4, which
// makes it 0.5 % more instructions and 23 % more misses of the first cache (callgrind, 40 photos of ImageNet).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace fastvit {

constexpr int kMaxCodeBits = 16;

// Call `use(length, code, symbol)` for each code, in ascending order: `counts[length]` codes of each length, whose symbols
// follow one another (ITU-T T.81, annex C).
template <typename Use>
void for_each_code(std::span<const std::uint8_t, kMaxCodeBits + 1> counts, const std::uint8_t* symbols, const Use& use) {
    std::uint32_t code = 0;
    for (int length = 1; length <= kMaxCodeBits; ++length, code <<= 1)
        for (int left = counts[static_cast<std::size_t>(length)]; left > 0; --left, ++code) use(length, code, *symbols++);
}

// For reading over AC coefficients that nobody wants: one look-up skims all whole codes in the next 11 bits.
class SkimTable {
  public:
    // As many whole codes with their values as there are, not beyond the end of a block.
    struct alignas(2) Skim {
        std::uint8_t num_bits;
        std::uint8_t step;  // the coefficients; kEnd more at the end of the block; kNothing where not even one code fits
    };
    static constexpr int kBits = 11;  // entries of 2 bytes: the table takes 4 KB of the first cache
    static constexpr int kEnd = 128;
    static constexpr int kNothing = 255;

    Skim find(std::uint64_t window) const { return skims_[window >> (64 - kBits)]; }

    bool is_built() const { return is_built_; }
    void clear() { is_built_ = false; }

    // `find(window)` tells the code that comes next as a Skim, with no bits where it is none or a long one.
    template <typename Find>
    void build(const Find& find) {
        is_built_ = true;
        for (std::size_t bits = 0; bits < skims_.size(); ++bits) {
            const std::uint64_t window = std::uint64_t{bits} << (64 - kBits);
            int num_bits = 0, step = 0;
            while (step < 64) {
                const Skim next = find(window << num_bits);
                if (next.num_bits == 0 || num_bits + next.num_bits > kBits) break;
                if (next.step != kEnd && step + next.step >= 64) break;  // or it could pass for an end
                num_bits += next.num_bits;
                step += next.step;
            }
            skims_[bits] = {static_cast<std::uint8_t>(num_bits), static_cast<std::uint8_t>(num_bits ? step : kNothing)};
        }
    }

  private:
    std::array<Skim, 1 << kBits> skims_;
    bool is_built_ = false;
};

}  // namespace fastvit
