// CLIP's model of words: byte-pair encoding.
#pragma once

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ids.hpp"
#include "json.hpp"
#include "unicode.hpp"

namespace safegen::detail {

/// Byte-pair encoding over bytes written as printable characters.
class Bpe {
 public:
  explicit Bpe(const Json& model) : suffix_(value_or<std::string>(model, "end_of_word_suffix", "")) {
    if (!value_or<std::string>(model, "continuing_subword_prefix", "").empty() ||
        value_or(model, "fuse_unk", false) || value_or(model, "byte_fallback", false))
      throw std::invalid_argument("a BPE model of another kind than CLIP's");
    for (const auto& [piece, id] : model.at("vocab").items()) ids_[piece] = id.get<std::int64_t>();
    std::size_t rank = 0;
    for (const Json& merge : model.at("merges")) {
      std::string both;
      if (merge.is_string()) {
        both = merge.get<std::string>();
        if (std::count(both.begin(), both.end(), ' ') != 1) throw std::invalid_argument("a merge is not a pair");
      } else {
        both = merge.at(0).get<std::string>() + " " + merge.at(1).get<std::string>();
      }
      ranks_.emplace(std::move(both), rank++);
    }
    const auto unknown = ids_.find(value_or<std::string>(model, "unk_token", ""));
    if (unknown != ids_.end()) unknown_ = unknown->second;
    // GPT-2's table: printable bytes are themselves, the others follow from 256 on
    char32_t next = 256;
    for (char32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      unicode::append(letters_[byte], printable ? byte : next++);
    }
  }

  void encode(std::string_view word, Ids& ids) const {
    std::vector<std::string> parts;
    for (const char byte : word) parts.push_back(letters_[static_cast<unsigned char>(byte)]);
    if (!parts.empty()) parts.back() += suffix_;
    while (merge_best(parts)) {
    }
    for (const std::string& part : parts) {
      const auto found = ids_.find(part);
      if (found != ids_.end())
        ids.push_back(found->second);
      else if (unknown_)
        ids.push_back(*unknown_);
    }
  }

 private:
  /// Merge the pair of the lowest rank, at its first place and, of the same rank, all the later ones.
  bool merge_best(std::vector<std::string>& parts) const {
    constexpr std::size_t none = std::numeric_limits<std::size_t>::max();
    std::size_t best = none;
    std::vector<std::size_t> rank(parts.size(), none);
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto found = ranks_.find(parts[i] + " " + parts[i + 1]);
      if (found != ranks_.end()) best = std::min(best, rank[i] = found->second);
    }
    if (best == none) return false;
    std::vector<std::string> merged;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      merged.push_back(std::move(parts[i]));
      if (rank[i] == best) merged.back() += parts[++i];
    }
    parts = std::move(merged);
    return true;
  }

  std::string suffix_;
  std::unordered_map<std::string, std::int64_t> ids_;
  std::unordered_map<std::string, std::size_t> ranks_;
  std::optional<std::int64_t> unknown_;
  std::array<std::string, 256> letters_;
};

}  // namespace safegen::detail
