// Names of any bytes for messages.
#pragma once

#include <string>
#include <string_view>

namespace fastvit {

// In quotes; bytes that are no printable ASCII as \xNN. Long names are cut.
std::string quoted(std::string_view name);

}  // namespace fastvit
