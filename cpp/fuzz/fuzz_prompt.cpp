// Prompts of any bytes, with the tokenizer that SAFEGEN_TOKENIZER names.
#include <cstdlib>
#include <safegen/file.hpp>
#include <safegen/tokenizer.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const safegen::Tokenizer tokenizer(safegen::MappedFile(std::getenv("SAFEGEN_TOKENIZER"), safegen::Code::engine).text());
  try {
    tokenizer.encode({reinterpret_cast<const char*>(data), size}, 24, 0);
  } catch (const safegen::Error&) {
  }
  return 0;
}
