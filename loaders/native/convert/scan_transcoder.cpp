#include "convert/scan_transcoder.hpp"

#include <array>

#include "jpeg/header.hpp"
#include "convert/scan_writer.hpp"
#include "convert/tokenizer.hpp"

namespace fastvit {

std::vector<std::optional<std::vector<std::uint8_t>>> transcode_scans(
    std::span<const std::span<const std::uint8_t>> jpegs, int wanted_interval) {
    struct Slot {
        scan::Tokenizer image;
        std::optional<std::size_t> number;
    };
    static thread_local std::array<Slot, 2> slots;
    static thread_local std::vector<std::uint8_t> scratch;
    std::vector<std::optional<std::vector<std::uint8_t>>> results(jpegs.size());
    std::size_t next = 0;
    const auto fill = [&](Slot& slot) {
        slot.number.reset();
        while (!slot.number && next < jpegs.size()) {
            try {
                slot.image.begin(jpegs[next], wanted_interval);
                slot.number = next;
            } catch (const scan::NotForUs&) {
            }
            ++next;
        }
    };
    for (Slot& slot : slots) fill(slot);
    while (slots[0].number || slots[1].number) {
        scan::Tokenizer &one = slots[0].image, &other = slots[1].image;
        if (slots[0].number && slots[1].number && one.keeps_ac() == other.keeps_ac())
            scan::Tokenizer::run(one, &other);
        else
            scan::Tokenizer::run(slots[0].number ? one : other, nullptr);
        for (Slot& slot : slots) {
            if (!slot.number || !slot.image.is_finished()) continue;
            if (!slot.image.is_damaged()) results[*slot.number] = scan::write_scan(slot.image, scratch);
            fill(slot);
        }
    }
    return results;
}

}  // namespace fastvit
