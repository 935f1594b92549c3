// Prompts to token ids from a tokenizer.json: CLIP's byte-level BPE and T5's Unigram, nothing else.
//
// What a file asks for beyond these is refused when it is read, never approximated. Held equal to the
// library `tokenizers` by tests/cpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "../pipeline.hpp"
#include "added_tokens.hpp"
#include "byte_pairs.hpp"
#include "clip_words.hpp"
#include "ids.hpp"
#include "json.hpp"
#include "meta_words.hpp"
#include "normalizer.hpp"
#include "unigram.hpp"

namespace safegen::detail {

class Tokenizer {
 public:
  /// Read a tokenizer.json.
  ///
  /// Throws std::invalid_argument or nlohmann's exceptions where it is none, or asks for more than is known.
  explicit Tokenizer(std::string_view text) {
    const Json file = Json::parse(text);
    added_ = AddedTokens(file.at("added_tokens"));
    if (!file.at("normalizer").is_null()) normalizer_.read(file.at("normalizer"));
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
    added_.split(text, false, [&](std::string_view part, std::optional<std::int64_t> raw) {
      if (raw) {
        ids.push_back(*raw);
        first = false;
        return;
      }
      const std::string normal = normalizer_.normalize(part);
      added_.split(normal, true, [&](std::string_view piece, std::optional<std::int64_t> known) {
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
    if (const auto added = added_.id_of(token)) return added;
    const auto found = vocab_.find(token);
    return found == vocab_.end() ? std::nullopt : std::optional(found->second);
  }

 private:
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
        space_.by_space = true;
      } else if (type == "Metaspace" && step.at("replacement") == "\u2581" && value_or(step, "split", true)) {
        metaspace_ = true;
        const auto scheme = value_or<std::string>(step, "prepend_scheme", "always");
        if (scheme != "always" && scheme != "first") throw std::invalid_argument("prepend_scheme " + scheme);
        space_.first_only = scheme == "first";
      } else {
        throw std::invalid_argument("the pre_tokenizer " + type);
      }
    }
    if (words_ == metaspace_) throw std::invalid_argument("a pre_tokenizer of another kind");
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

  void encode_words(std::string_view text, bool first, Ids& ids) const {
    if (bpe_)
      clip_words(text, specials_, [&](std::string_view word) { bpe_->encode(word, ids); });
    else
      meta_words(text, first, space_, [&](std::string_view word) { unigram_->encode(word, ids); });
  }

  AddedTokens added_;
  Normalizer normalizer_;
  bool words_ = false, specials_ = false, metaspace_ = false;
  MetaSpace space_;
  std::optional<Bpe> bpe_;
  std::optional<Unigram> unigram_;
  std::unordered_map<std::string, std::int64_t> vocab_;
  Ids before_, after_;
};

}  // namespace safegen::detail
