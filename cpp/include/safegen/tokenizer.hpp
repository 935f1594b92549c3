// Prompts to token ids from a tokenizer.json: CLIP's byte-level BPE and T5's Unigram, nothing else.
//
// What a file asks for beyond these is refused when it is read, never approximated. Held equal to the
// library `tokenizers` by tests/cpp.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "charsmap.hpp"
#include "json.hpp"
#include "unicode.hpp"

namespace safegen {

using Ids = std::vector<std::int64_t>;

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

/// Unigram language model: the most probable pieces by Viterbi's algorithm.
class Unigram {
 public:
  explicit Unigram(const Json& model) {
    if (value_or(model, "byte_fallback", false)) throw std::invalid_argument("a Unigram model with byte fallback");
    double least = std::numeric_limits<double>::infinity();
    for (const Json& entry : model.at("vocab")) {
      const double score = entry.at(1).get<double>();
      const auto piece = entry.at(0).get<std::string>();
      longest_ = std::max(longest_, piece.size());
      least = std::min(least, score);
      pieces_.emplace(piece, Piece{static_cast<std::int64_t>(pieces_.size()), score});
    }
    unknown_ = model.at("unk_id").get<std::int64_t>();
    unknown_score_ = least - 10.0;
  }

  void encode(std::string_view text, Ids& ids) const {
    struct Best {
      double score = 0.0;
      std::size_t start = std::string::npos;
      std::int64_t id = 0;
    };
    std::vector<Best> best(text.size() + 1);
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t step = length_of(text, at);
      bool single = false;
      for (std::size_t size = 1; size <= std::min(longest_, text.size() - at); ++size) {
        const auto found = pieces_.find(std::string(text.substr(at, size)));
        if (found == pieces_.end()) continue;
        single = single || size == step;
        const double score = best[at].score + found->second.score;
        Best& there = best[at + size];
        if (there.start == std::string::npos || score > there.score) there = {score, at, found->second.id};
      }
      const double score = best[at].score + unknown_score_;
      Best& there = best[at + step];
      if (!single && (there.start == std::string::npos || score > there.score)) there = {score, at, unknown_};
      at += step;
    }
    Ids backwards;
    for (std::size_t end = text.size(); end > 0; end = best[end].start)
      if (backwards.empty() || best[end].id != unknown_ || backwards.back() != unknown_)  // one for a whole run
        backwards.push_back(best[end].id);
    ids.insert(ids.end(), backwards.rbegin(), backwards.rend());
  }

 private:
  struct Piece {
    std::int64_t id;
    double score;
  };

  static std::size_t length_of(std::string_view text, std::size_t at) {
    std::size_t end = at + 1;
    while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0u) == 0x80u) ++end;
    return end - at;
  }

  std::unordered_map<std::string, Piece> pieces_;
  std::size_t longest_ = 0;
  std::int64_t unknown_ = 0;
  double unknown_score_ = 0.0;
};

class Tokenizer {
 public:
  /// Read a tokenizer.json.
  ///
  /// Throws std::invalid_argument or nlohmann's exceptions where it is none, or asks for more than is known.
  explicit Tokenizer(std::string_view text) {
    const Json file = Json::parse(text);
    read_added(file.at("added_tokens"));
    if (!file.at("normalizer").is_null()) read_normalizer(file.at("normalizer"));
    read_pre_tokenizer(file.at("pre_tokenizer"));
    read_model(file.at("model"));
    if (!file.at("post_processor").is_null()) read_post_processor(file.at("post_processor"));
  }

  /// Ids of a prompt in windows of `length`, each with its own start and end, padded; at least one window.
  std::vector<Ids> encode(std::string_view prompt, std::size_t length, std::int64_t pad) const {
    const std::size_t room = length - std::min(length, before_.size() + after_.size());
    if (room == 0) throw Error(Code::engine, "a tokenizer's window has no room for text.");
    const Ids ids = encode(prompt);
    std::vector<Ids> windows;
    for (std::size_t at = 0; windows.empty() || at < ids.size(); at += room) {
      Ids& window = windows.emplace_back(before_);
      const std::size_t end = std::min(ids.size(), at + room);
      window.insert(window.end(), ids.begin() + static_cast<std::ptrdiff_t>(at), ids.begin() + static_cast<std::ptrdiff_t>(end));
      window.insert(window.end(), after_.begin(), after_.end());
      window.resize(length, pad);
    }
    return windows;
  }

  /// Ids of a text, without start and end.
  Ids encode(std::string_view text) const {
    Ids ids;
    bool first = true;
    split(text, false, [&](std::string_view part, std::optional<std::int64_t> raw) {
      if (raw) {
        ids.push_back(*raw);
        first = false;
        return;
      }
      const std::string normal = normalize(part);
      split(normal, true, [&](std::string_view piece, std::optional<std::int64_t> known) {
        if (known)
          ids.push_back(*known);
        else
          encode_words(piece, first, ids);
        first = false;
      });
    });
    return ids;
  }

  /// The id of a token, special ones included.
  std::optional<std::int64_t> id_of(const std::string& token) const {
    for (const Added& added : added_)
      if (added.content == token) return added.id;
    const auto found = vocab_.find(token);
    return found == vocab_.end() ? std::nullopt : std::optional(found->second);
  }

 private:
  struct Added {
    std::string content;
    std::int64_t id;
    bool normalized;
  };
  enum class Kind { nfc, lowercase, strip, charsmap, spaces };
  struct Step {
    Kind kind;
    bool left = true, right = true;  ///< strip: which ends
    std::string content = {};        ///< spaces: what stands for a run of them,
    std::size_t least = 1;           ///< this long: 1 counts all white space, 2 plain spaces alone
  };

  void read_added(const Json& tokens) {
    for (const Json& token : tokens) {
      for (const char* flag : {"single_word", "lstrip", "rstrip"})
        if (value_or(token, flag, false)) throw std::invalid_argument(std::string("an added token with ") + flag);
      Added added{token.at("content").get<std::string>(), token.at("id").get<std::int64_t>(),
                  value_or(token, "normalized", false)};
      if (added.content.empty()) throw std::invalid_argument("an added token without text");
      added_.push_back(std::move(added));
    }
    // of two that start at the same place the longer one counts
    std::stable_sort(added_.begin(), added_.end(),
                     [](const Added& a, const Added& b) { return a.content.size() > b.content.size(); });
  }

  void read_normalizer(const Json& normalizer) {
    const auto type = normalizer.at("type").get<std::string>();
    if (type == "Sequence") {
      for (const Json& step : normalizer.at("normalizers")) {
        if (step.at("type") == "Sequence") throw std::invalid_argument("normalizers within normalizers");
        read_normalizer(step);
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

  static std::string regex(const Json& step) { return value_or<std::string>(step.at("pattern"), "Regex", ""); }

  void read_pre_tokenizer(const Json& given) {
    if (given.is_null()) throw std::invalid_argument("no pre_tokenizer");
    Json steps = given.at("type") == "Sequence" ? given.at("pretokenizers") : Json::array({given});
    for (const Json& step : steps) {
      const auto type = step.at("type").get<std::string>();
      if (type == "Split" && step.at("behavior") == "Removed" && step.at("invert") == true && is_clip(regex(step))) {
        words_ = true;
        specials_ = regex(step).find("endoftext") != std::string::npos;
      } else if (type == "ByteLevel" && step.at("add_prefix_space") == false && words_) {
        // the pieces are finer than what it would split by itself
      } else if (type == "WhitespaceSplit") {
        by_space_ = true;
      } else if (type == "Metaspace" && step.at("replacement") == "\u2581" && value_or(step, "split", true)) {
        metaspace_ = true;
        const auto scheme = value_or<std::string>(step, "prepend_scheme", "always");
        if (scheme != "always" && scheme != "first") throw std::invalid_argument("prepend_scheme " + scheme);
        first_only_ = scheme == "first";
      } else {
        throw std::invalid_argument("the pre_tokenizer " + type);
      }
    }
    if (words_ == metaspace_) throw std::invalid_argument("a pre_tokenizer of another kind");
  }

  static bool is_clip(std::string_view pattern) {
    constexpr std::string_view special = "<\\|startoftext\\|>|<\\|endoftext\\|>|";
    if (pattern.substr(0, special.size()) == special) pattern.remove_prefix(special.size());
    return pattern == "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+";
  }

  void read_model(const Json& model) {
    const auto type = model.at("type").get<std::string>();
    if (type == "BPE" && words_) {
      bpe_.emplace(model);
      for (const auto& [piece, id] : model.at("vocab").items()) vocab_[piece] = id.get<std::int64_t>();
    } else if (type == "Unigram" && metaspace_) {
      unigram_.emplace(model);
      for (const Json& entry : model.at("vocab"))
        vocab_.emplace(entry.at(0).get<std::string>(), static_cast<std::int64_t>(vocab_.size()));
    } else {
      throw std::invalid_argument("the model " + type);
    }
  }

  void read_post_processor(const Json& given) {
    const auto type = given.at("type").get<std::string>();
    if (type == "RobertaProcessing" || type == "BertProcessing") {
      before_ = {given.at("cls").at(1).get<std::int64_t>()};
      after_ = {given.at("sep").at(1).get<std::int64_t>()};
    } else if (type == "TemplateProcessing") {
      bool passed = false;
      for (const Json& part : given.at("single")) {
        if (part.contains("Sequence")) {
          passed = true;
          continue;
        }
        const auto name = part.at("SpecialToken").at("id").get<std::string>();
        for (const Json& id : given.at("special_tokens").at(name).at("ids"))
          (passed ? after_ : before_).push_back(id.get<std::int64_t>());
      }
    } else {
      throw std::invalid_argument("the post_processor " + type);
    }
  }

  /// Hand out the added tokens of a text, and what lies between them.
  template <typename Take>
  void split(std::string_view text, bool normalized, Take take) const {
    std::size_t start = 0;
    for (std::size_t at = 0; at < text.size();) {
      const auto found = std::find_if(added_.begin(), added_.end(), [&](const Added& added) {
        return added.normalized == normalized && text.substr(at, added.content.size()) == added.content;
      });
      if (found == added_.end()) {
        ++at;
        continue;
      }
      if (at > start) take(text.substr(start, at - start), std::nullopt);
      take({}, found->id);
      start = at += found->content.size();
    }
    if (start < text.size()) take(text.substr(start), std::nullopt);
  }

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

  void encode_words(std::string_view text, bool first, Ids& ids) const {
    if (bpe_)
      clip_words(text, [&](std::string_view word) { bpe_->encode(word, ids); });
    else
      meta_words(text, first, [&](std::string_view word) { unigram_->encode(word, ids); });
  }

  /// CLIP's expression: contractions, runs of letters, single numbers, runs of everything else but space.
  template <typename Take>
  void clip_words(std::string_view text, Take take) const {
    const std::vector<char32_t> points = unicode::decode(text);
    const auto is_other = [](char32_t p) { return !unicode::is_space(p) && !unicode::is_letter(p) && !unicode::is_number(p); };
    std::size_t at = 0;
    while (at < points.size()) {
      if (const std::string name = specials_ ? special(points, at) : ""; !name.empty()) {
        for (const std::string& part : {std::string("<|"), name, std::string("|>")}) take(part);  // as ByteLevel splits it
        at += name.size() + 4;
        continue;
      }
      std::size_t end = at + contraction(points, at);
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

  /// The name of a start or end that the text spells out, such as one in capitals before.
  static std::string special(const std::vector<char32_t>& points, std::size_t at) {
    for (const std::string name : {"startoftext", "endoftext"}) {
      const std::string whole = "<|" + name + "|>";
      if (points.size() - at >= whole.size() && std::equal(whole.begin(), whole.end(), points.begin() + static_cast<std::ptrdiff_t>(at),
                                                           [](char a, char32_t b) { return static_cast<char32_t>(a) == b; }))
        return name;
    }
    return "";
  }

  static std::size_t contraction(const std::vector<char32_t>& points, std::size_t at) {
    if (points[at] != U'\'') return 0;
    for (const std::u32string_view end : {U"s", U"t", U"re", U"ve", U"m", U"ll", U"d"}) {
      if (at + end.size() < points.size() &&
          std::equal(end.begin(), end.end(), points.begin() + static_cast<std::ptrdiff_t>(at + 1)))
        return 1 + end.size();
    }
    return 0;
  }

  /// Words that each start with the visible space.
  template <typename Take>
  void meta_words(std::string_view text, bool first, Take take) const {
    static const std::string mark = "\u2581";
    std::vector<std::string> parts(1);
    for (const char32_t point : unicode::decode(text)) {
      if (by_space_ && unicode::is_space(point)) {
        if (!parts.back().empty()) parts.emplace_back();
      } else if (point == U' ') {
        parts.back() += mark;
      } else {
        unicode::append(parts.back(), point);
      }
    }
    if (by_space_ && parts.back().empty()) parts.pop_back();
    for (std::string& part : parts) {
      if (part.empty()) continue;
      if ((!first_only_ || first) && part.compare(0, mark.size(), mark) != 0) part.insert(0, mark);
      first = false;
      std::size_t start = 0;
      for (std::size_t next; start < part.size(); start = next) {
        next = std::min(part.find(mark, start + 1), part.size());
        take(std::string_view(part).substr(start, next - start));
      }
    }
  }

  std::vector<Added> added_;
  std::vector<Step> steps_;
  std::optional<Charsmap> charsmap_;
  bool words_ = false, specials_ = false, by_space_ = false, metaspace_ = false, first_only_ = false;
  std::optional<Bpe> bpe_;
  std::optional<Unigram> unigram_;
  std::unordered_map<std::string, std::int64_t> vocab_;
  Ids before_, after_;
};

}  // namespace safegen
