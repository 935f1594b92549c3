// The tokenizer's reader, and whatever it made of the file.
#include <safegen/detail/tokenizer.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const safegen::detail::Tokenizer tokenizer({reinterpret_cast<const char*>(data), size});
    tokenizer.encode("a photo of 12 caf\u00e9s, isn't it? <|endoftext|>", 24, 0);
  } catch (const std::exception&) {
  }
  return 0;
}
