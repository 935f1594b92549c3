// Token ids.
#pragma once

#include <cstdint>
#include <vector>

namespace safegen::detail {

using Ids = std::vector<std::int64_t>;

}  // namespace safegen::detail
