// Prompts of any bytes, with the tokenizer that SAFEGEN_TOKENIZER names.
#include <cstdlib>
#include <safegen/detail/file.hpp>
#include <safegen/detail/tokenizer.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const safegen::detail::Tokenizer tokenizer(safegen::detail::MappedFile(std::getenv("SAFEGEN_TOKENIZER"), safegen::Code::engine).text());
  try {
    tokenizer.encode({reinterpret_cast<const char*>(data), size}, 24, 0);
  } catch (const safegen::Error&) {
  }
  return 0;
}
