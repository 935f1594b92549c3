// SentencePiece's precompiled normalization: a double-array trie from prefixes to their replacements.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "unicode.hpp"

namespace safegen::detail {

/// Bytes of a base64 text. Throws std::invalid_argument.
inline std::string from_base64(std::string_view text) {
  static constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  std::uint32_t bits = 0;
  int held = 0;
  for (const char letter : text) {
    if (letter == '=') break;
    const std::size_t digit = digits.find(letter);
    if (digit == std::string_view::npos) throw std::invalid_argument("a charsmap is not base64");
    bits = bits << 6 | static_cast<std::uint32_t>(digit);
    if ((held += 6) >= 8) bytes += static_cast<char>(bits >> (held -= 8) & 255u);
  }
  return bytes;
}

class Charsmap {
 public:
  explicit Charsmap(std::string_view blob) {
    std::uint64_t size = blob.size() < 4 ? 1 : unit(blob, 0);
    if (size % 4 != 0 || size > blob.size() - 4) throw std::invalid_argument("a charsmap is cut short");
    for (std::size_t at = 4; at < 4 + size; at += 4) units_.push_back(unit(blob, at));
    replacements_ = blob.substr(4 + size);
  }

  /// As the library `tokenizers` applies it: short grapheme clusters whole, everything else by character.
  std::string normalize(std::string_view text) const {
    std::string result;
    for (const std::string& cluster : unicode::graphemes(text)) {
      if (cluster.size() < 6) {
        if (const auto found = replacement(cluster)) {
          result += *found;
          continue;
        }
      }
      for (const char32_t point : unicode::decode(cluster)) {
        std::string character;
        unicode::append(character, point);
        result += replacement(character).value_or(character);
      }
    }
    return result;
  }

 private:
  static std::uint32_t unit(std::string_view blob, std::size_t at) {
    std::uint32_t value = 0;
    for (int i = 3; i >= 0; --i) value = value << 8 | static_cast<unsigned char>(blob[at + static_cast<std::size_t>(i)]);
    return value;
  }

  /// What stands for the shortest known prefix of a text.
  std::optional<std::string> replacement(std::string_view text) const {
    if (units_.empty()) return std::nullopt;
    std::size_t node = offset(units_[0]);
    for (const char letter : text) {
      const auto byte = static_cast<unsigned char>(letter);
      if (byte == 0) return std::nullopt;
      node ^= byte;
      if (node >= units_.size() || (units_[node] & 0x800000FFu) != byte) return std::nullopt;
      const bool ends = units_[node] >> 8 & 1u;
      node ^= offset(units_[node]);
      if (!ends) continue;
      if (node >= units_.size()) return std::nullopt;
      const std::size_t start = units_[node] & 0x7FFFFFFFu;
      if (start >= replacements_.size()) return std::nullopt;
      return replacements_.substr(start, replacements_.find('\0', start) - start);
    }
    return std::nullopt;
  }

  static std::size_t offset(std::uint32_t unit) { return (unit >> 10) << ((unit & 0x200u) >> 6); }

  std::vector<std::uint32_t> units_;
  std::string replacements_;
};

}  // namespace safegen::detail
