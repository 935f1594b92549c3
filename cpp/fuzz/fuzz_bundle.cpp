// The bundle's reader, behind the seal, and the thresholds that a guard takes from it.
#include <safegen/detail/guard.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const safegen::detail::Bundle bundle = safegen::detail::parse_bundle({reinterpret_cast<const char*>(data), size});
    safegen::detail::Table table;
    for (const double sigma : {0.9, 0.5, 0.1}) table.rows.push_back({500, 1, 1, 0, 1, 0, 0, 0, std::sqrt(1 - sigma * sigma), sigma});
    safegen::detail::open_guard(bundle.guard, &bundle, table);
    safegen::detail::open_guard({{"mode", "paper"}}, &bundle, table);
  } catch (const std::exception&) {
  }
  return 0;
}
