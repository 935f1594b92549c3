// T5's model of words: Unigram.
#pragma once

#include <algorithm>
#include <limits>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ids.hpp"
#include "json.hpp"

namespace safegen::detail {

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

}  // namespace safegen::detail
