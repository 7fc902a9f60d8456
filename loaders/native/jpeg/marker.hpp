// Where entropy-coded data end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace fastvit {

// The next marker in [from, end): its code follows what is returned. Of fill bytes in front of it, the last one is its
// first byte; each FF of the data has a 0 behind it. Null where there is none.
inline const std::uint8_t* find_marker(const std::uint8_t* from, const std::uint8_t* end) {
    while (true) {
        const void* found = std::memchr(from, 0xFF, static_cast<std::size_t>(end - from));
        from = found ? static_cast<const std::uint8_t*>(found) : end;
        if (end - from < 2) return nullptr;
        if (from[1] != 0 && from[1] != 0xFF) return from;
        from += from[1] == 0 ? 2 : 1;
    }
}

}  // namespace fastvit
