// The manifest's reader, behind the seal.
#include <safegen/detail/manifest.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  safegen::detail::read_seal(text);
  try {
    safegen::detail::parse_manifest(text);
  } catch (const std::exception&) {
  }
  return 0;
}
