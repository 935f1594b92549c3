// The words of CLIP's tokenizer.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "unicode.hpp"

namespace safegen::detail {

/// Whether a regular expression is that of CLIP, with or without its special tokens.
inline bool is_clip(std::string_view pattern) {
  constexpr std::string_view special = "<\\|startoftext\\|>|<\\|endoftext\\|>|";
  if (pattern.substr(0, special.size()) == special) pattern.remove_prefix(special.size());
  return pattern == "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+";
}

/// The name of a start or end that the text spells out, such as one in capitals before.
inline std::string special_at(const std::vector<char32_t>& points, std::size_t at) {
  for (const std::string name : {"startoftext", "endoftext"}) {
    const std::string whole = "<|" + name + "|>";
    if (points.size() - at >= whole.size() && std::equal(whole.begin(), whole.end(), points.begin() + static_cast<std::ptrdiff_t>(at),
                                                         [](char a, char32_t b) { return static_cast<char32_t>(a) == b; }))
      return name;
  }
  return "";
}

/// How long the contraction is that starts here; 0 where none does.
inline std::size_t contraction_at(const std::vector<char32_t>& points, std::size_t at) {
  if (points[at] != U'\'') return 0;
  for (const std::u32string_view end : {U"s", U"t", U"re", U"ve", U"m", U"ll", U"d"}) {
    if (at + end.size() < points.size() &&
        std::equal(end.begin(), end.end(), points.begin() + static_cast<std::ptrdiff_t>(at + 1)))
      return 1 + end.size();
  }
  return 0;
}

/// CLIP's expression: contractions, runs of letters, single numbers, runs of everything else but space.
template <typename Take>
void clip_words(std::string_view text, bool specials, Take take) {
  const std::vector<char32_t> points = unicode::decode(text);
  const auto is_other = [](char32_t p) { return !unicode::is_space(p) && !unicode::is_letter(p) && !unicode::is_number(p); };
  std::size_t at = 0;
  while (at < points.size()) {
    if (const std::string name = specials ? special_at(points, at) : ""; !name.empty()) {
      for (const std::string& part : {std::string("<|"), name, std::string("|>")}) take(part);  // as ByteLevel splits it
      at += name.size() + 4;
      continue;
    }
    std::size_t end = at + contraction_at(points, at);
    if (end == at && unicode::is_letter(points[at]))
      while (end < points.size() && unicode::is_letter(points[end])) ++end;
    else if (end == at && unicode::is_number(points[at]))
      ++end;
    else if (end == at)
      while (end < points.size() && is_other(points[end])) ++end;
    if (end == at) {
      ++at;
      continue;
    }
    std::string word;
    for (; at < end; ++at) unicode::append(word, points[at]);
    take(word);
  }
}

}  // namespace safegen::detail
