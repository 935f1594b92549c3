// A text encoder's tokenizer with the windows that the encoder takes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "file.hpp"
#include "manifest.hpp"
#include "tokenizer.hpp"

namespace safegen::detail {

class PromptWindows {
 public:
  PromptWindows(const fs::path& folder, const TextWindow& window)
      : tokenizer_(MappedFile(folder / window.file, Code::engine).text()), length_(window.max_length), chunked_(window.chunked) {
    const auto pad = tokenizer_.id_of(window.pad_token);
    if (!pad)
      throw Error(Code::engine, (folder / window.file).string() + ": the padding token '" + window.pad_token + "' is not in the vocabulary.");
    pad_ = *pad;
  }

  /// Windows of ids; at least one.
  std::vector<Ids> encode(std::string_view prompt) const { return tokenizer_.encode(prompt, length_, pad_); }

  std::size_t length() const { return length_; }
  /// Whether a prompt may fill several windows; else what lies beyond the first is cut off.
  bool chunked() const { return chunked_; }

 private:
  Tokenizer tokenizer_;
  std::size_t length_;
  bool chunked_;
  std::int64_t pad_ = 0;
};

}  // namespace safegen::detail
