// How many MCUs lie between two restart markers that a converter writes.
#pragma once

#include <algorithm>

namespace fastvit {

// The divisor of `number` that is nearest to `wanted`. An interval that divides a row of MCUs begins where each row begins,
// so that a crop's rows never start in the middle of one.
inline int nearest_divisor(int number, int wanted) {
    wanted = std::min(wanted, number);
    for (int distance = 0;; ++distance) {
        if (wanted - distance >= 1 && number % (wanted - distance) == 0) return wanted - distance;
        if (wanted + distance <= number && number % (wanted + distance) == 0) return wanted + distance;
    }
}

}  // namespace fastvit
