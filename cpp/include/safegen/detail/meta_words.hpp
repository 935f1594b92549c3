// The words of T5's tokenizer, each of which starts with a visible space.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "unicode.hpp"

namespace safegen::detail {

/// How a text becomes words.
struct MetaSpace {
  bool by_space = false;    ///< any white space parts words, not plain spaces alone
  bool first_only = false;  ///< the first word alone gets a space that it does not have
};

/// Hand out the words. `first`: nothing of the prompt lies before this text.
template <typename Take>
void meta_words(std::string_view text, bool first, const MetaSpace& space, Take take) {
  static const std::string mark = "\u2581";
  std::vector<std::string> parts(1);
  for (const char32_t point : unicode::decode(text)) {
    if (space.by_space && unicode::is_space(point)) {
      if (!parts.back().empty()) parts.emplace_back();
    } else if (point == U' ') {
      parts.back() += mark;
    } else {
      unicode::append(parts.back(), point);
    }
  }
  if (space.by_space && parts.back().empty()) parts.pop_back();
  for (std::string& part : parts) {
    if (part.empty()) continue;
    if ((!space.first_only || first) && part.compare(0, mark.size(), mark) != 0) part.insert(0, mark);
    first = false;
    std::size_t start = 0;
    for (std::size_t next; start < part.size(); start = next) {
      next = std::min(part.find(mark, start + 1), part.size());
      take(std::string_view(part).substr(start, next - start));
    }
  }
}

}  // namespace safegen::detail
