// Unicode as prompts need it: code points, classes, lower case, NFC and grapheme clusters, through utf8proc.
#pragma once

#include <utf8proc.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "../pipeline.hpp"

namespace safegen::detail::unicode {

/// The code points of a text. Throws Error where it is not UTF-8.
inline std::vector<char32_t> decode(std::string_view text) {
  std::vector<char32_t> points;
  points.reserve(text.size());
  while (!text.empty()) {
    utf8proc_int32_t point = 0;
    const auto size = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                       static_cast<utf8proc_ssize_t>(text.size()), &point);
    if (size <= 0) throw Error(Code::usage, "a prompt is not UTF-8.");
    points.push_back(static_cast<char32_t>(point));
    text.remove_prefix(static_cast<std::size_t>(size));
  }
  return points;
}

inline void append(std::string& text, char32_t point) {
  utf8proc_uint8_t bytes[4];
  const auto size = utf8proc_encode_char(static_cast<utf8proc_int32_t>(point), bytes);
  text.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(size));
}

inline bool is_letter(char32_t point) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(point));
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

inline bool is_number(char32_t point) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(point));
  return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

/// The property White_Space.
inline bool is_space(char32_t point) {
  if ((point >= 0x09 && point <= 0x0D) || point == 0x85) return true;
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(point));
  return category >= UTF8PROC_CATEGORY_ZS && category <= UTF8PROC_CATEGORY_ZP;
}

/// Each character by itself, with the one mapping to two characters that Unicode has without context.
inline std::string lowercase(std::string_view text) {
  std::string lower;
  for (const char32_t point : decode(text)) {
    append(lower, point == 0x130 ? U'i' : static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(point))));
    if (point == 0x130) append(lower, 0x307);
  }
  return lower;
}

inline std::string nfc(std::string_view text) {
  utf8proc_uint8_t* found = nullptr;
  const auto size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                 static_cast<utf8proc_ssize_t>(text.size()), &found,
                                 static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(found, std::free);
  if (size < 0) throw Error(Code::usage, "a prompt is not UTF-8.");
  return {reinterpret_cast<const char*>(found), static_cast<std::size_t>(size)};
}

/// The text without white space at these of its ends.
inline std::string strip(std::string_view text, bool left, bool right) {
  const std::vector<char32_t> points = decode(text);
  std::size_t first = 0, last = points.size();
  while (left && first < last && is_space(points[first])) ++first;
  while (right && last > first && is_space(points[last - 1])) --last;
  std::string kept;
  for (; first < last; ++first) append(kept, points[first]);
  return kept;
}

/// Extended grapheme clusters (UAX 29).
inline std::vector<std::string> graphemes(std::string_view text) {
  std::vector<std::string> found;
  utf8proc_int32_t state = 0;
  char32_t before = 0;
  for (const char32_t point : decode(text)) {
    if (found.empty() || utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(before),
                                                          static_cast<utf8proc_int32_t>(point), &state))
      found.emplace_back();
    append(found.back(), point);
    before = point;
  }
  return found;
}

}  // namespace safegen::detail::unicode
