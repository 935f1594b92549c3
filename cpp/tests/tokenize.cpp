// One JSON text of a prompt a line in, one JSON list of its windows of ids a line out.
//
//   tokenize TOKENIZER.json LENGTH PAD_TOKEN < prompts
#include <iostream>
#include <safegen/detail/file.hpp>
#include <safegen/detail/tokenizer.hpp>

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const safegen::detail::MappedFile file(argv[1], safegen::Code::engine);
  const safegen::detail::Tokenizer tokenizer(file.text());
  const auto pad = tokenizer.id_of(argv[3]);
  if (!pad) return 1;
  for (std::string line; std::getline(std::cin, line);) {
    const auto prompt = safegen::detail::Json::parse(line).get<std::string>();
    std::cout << safegen::detail::Json(tokenizer.encode(prompt, std::stoul(argv[2]), *pad)).dump() << "\n";
  }
}
