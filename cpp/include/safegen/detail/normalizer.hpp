// What a tokenizer.json does to a text before it splits it into words.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "charsmap.hpp"
#include "json.hpp"
#include "unicode.hpp"

namespace safegen::detail {

/// The regular expression of a step.
inline std::string regex(const Json& step) { return value_or<std::string>(step.at("pattern"), "Regex", ""); }

class Normalizer {
 public:
  /// The text after all steps, in their order.
  std::string normalize(std::string_view part) const {
    std::string text(part);
    for (const Step& step : steps_) {
      switch (step.kind) {
        case Kind::nfc: text = unicode::nfc(text); break;
        case Kind::lowercase: text = unicode::lowercase(text); break;
        case Kind::strip: text = unicode::strip(text, step.left, step.right); break;
        case Kind::charsmap: text = charsmap_->normalize(text); break;
        case Kind::spaces: text = one_for_many(text, step); break;
      }
    }
    return text;
  }

  /// Add the steps of one. Throws std::invalid_argument where it is of another kind.
  void read(const Json& normalizer) {
    const auto type = normalizer.at("type").get<std::string>();
    if (type == "Sequence") {
      for (const Json& step : normalizer.at("normalizers")) {
        if (step.at("type") == "Sequence") throw std::invalid_argument("normalizers within normalizers");
        read(step);
      }
    } else if (type == "NFC") {
      steps_.push_back({Kind::nfc});
    } else if (type == "Lowercase") {
      steps_.push_back({Kind::lowercase});
    } else if (type == "Strip") {
      steps_.push_back({Kind::strip, value_or(normalizer, "strip_left", true), value_or(normalizer, "strip_right", true)});
    } else if (type == "Precompiled") {
      charsmap_.emplace(from_base64(normalizer.at("precompiled_charsmap").get<std::string>()));
      steps_.push_back({Kind::charsmap});
    } else if (type == "Replace" && (regex(normalizer) == "\\s+" || regex(normalizer) == " {2,}")) {
      const std::size_t least = regex(normalizer) == "\\s+" ? 1 : 2;
      steps_.push_back({Kind::spaces, true, true, normalizer.at("content").get<std::string>(), least});
    } else {
      throw std::invalid_argument("the normalizer " + type);
    }
  }

 private:
  enum class Kind { nfc, lowercase, strip, charsmap, spaces };
  struct Step {
    Kind kind;
    bool left = true, right = true;  ///< strip: which ends
    std::string content = {};        ///< spaces: what stands for a run of them,
    std::size_t least = 1;           ///< this long: 1 counts all white space, 2 plain spaces alone
  };

  /// Runs of spaces as one text.
  static std::string one_for_many(std::string_view text, const Step& step) {
    std::string result, run;
    std::size_t length = 0;
    const auto close = [&] {
      result += length >= step.least ? step.content : run;
      run.clear();
      length = 0;
    };
    for (const char32_t point : unicode::decode(text)) {
      if (step.least == 1 ? unicode::is_space(point) : point == U' ') {
        unicode::append(run, point);
        ++length;
        continue;
      }
      if (length) close();
      unicode::append(result, point);
    }
    if (length) close();
    return result;
  }

  std::vector<Step> steps_;
  std::optional<Charsmap> charsmap_;
};

}  // namespace safegen::detail
