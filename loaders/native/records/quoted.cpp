#include "records/quoted.hpp"

#include <cstdint>

namespace fastvit {

std::string quoted(std::string_view name) {
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string out = "'";
    for (const char letter : name.substr(0, 200)) {
        const auto byte = static_cast<std::uint8_t>(letter);
        if (byte >= 0x20 && byte < 0x7F)
            out += letter;
        else
            out += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
    }
    return out + "'";
}

}  // namespace fastvit
