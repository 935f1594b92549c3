// The tokens of a tokenizer.json that a text holds as they are written, such as its end.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "json.hpp"

namespace safegen::detail {

class AddedTokens {
 public:
  AddedTokens() = default;

  explicit AddedTokens(const Json& list) {
    for (const Json& token : list) {
      for (const char* flag : {"single_word", "lstrip", "rstrip"})
        if (value_or(token, flag, false)) throw std::invalid_argument(std::string("an added token with ") + flag);
      Added added{token.at("content").get<std::string>(), token.at("id").get<std::int64_t>(),
                  value_or(token, "normalized", false)};
      if (added.content.empty()) throw std::invalid_argument("an added token without text");
      tokens_.push_back(std::move(added));
    }
    // of two that start at the same place the longer one counts
    std::stable_sort(tokens_.begin(), tokens_.end(),
                     [](const Added& a, const Added& b) { return a.content.size() > b.content.size(); });
  }

  /// Hand out the added tokens of a text, and what lies between them.
  template <typename Take>
  void split(std::string_view text, bool normalized, Take take) const {
    std::size_t start = 0;
    for (std::size_t at = 0; at < text.size();) {
      const auto found = std::find_if(tokens_.begin(), tokens_.end(), [&](const Added& added) {
        return added.normalized == normalized && text.substr(at, added.content.size()) == added.content;
      });
      if (found == tokens_.end()) {
        ++at;
        continue;
      }
      if (at > start) take(text.substr(start, at - start), std::nullopt);
      take({}, found->id);
      start = at += found->content.size();
    }
    if (start < text.size()) take(text.substr(start), std::nullopt);
  }

  /// The id of the token of this text.
  std::optional<std::int64_t> id_of(const std::string& token) const {
    for (const Added& added : tokens_)
      if (added.content == token) return added.id;
    return std::nullopt;
  }

 private:
  struct Added {
    std::string content;
    std::int64_t id;
    bool normalized;
  };

  std::vector<Added> tokens_;
};

}  // namespace safegen::detail
