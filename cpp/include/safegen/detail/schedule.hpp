// The solver's tables, as schedule.safetensors holds them: this host knows no solver.
#pragma once

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "../pipeline.hpp"
#include "safetensors.hpp"

namespace safegen::detail {

/// One step; the state is x = alpha x0 + sigma n.
struct Row {
  double timestep, input_scale, x0_x, x0_out, a, b, c, d, alpha, sigma;

  double log_snr() const { return 2.0 * (std::log(alpha) - std::log(sigma)); }
  /// alpha where alpha^2 + sigma^2 = 1: 0 for pure noise, 1 for the clean picture.
  double signal() const { return alpha / std::hypot(alpha, sigma); }
  /// 1 while there is more noise than picture, then 0.
  double early() const { return alpha < sigma ? 1.0 : 0.0; }
};
static_assert(sizeof(Row) == 10 * sizeof(double));

/// The plan of one picture.
struct Table {
  std::vector<Row> rows;
  double init_noise_sigma = 1.0;
  double clip = std::numeric_limits<double>::infinity();  ///< x0 is kept within plus and minus this
};

class Schedule {
 public:
  /// Throws std::invalid_argument where the file is not a schedule.
  explicit Schedule(const Safetensors& file)
      : steps_(file.at("steps").as<std::int64_t>("I64")),
        sigmas_(file.at("init_noise_sigma").as<double>("F64")),
        rows_(file.at("rows").as<double>("F64")) {
    const auto clip = file.at("clip").as<double>("F64");
    std::uint64_t total = 0;
    for (const std::int64_t count : steps_) {
      if (count < 1 || count > 100000) throw std::invalid_argument("a plan has no steps");
      total += static_cast<std::uint64_t>(count);
    }
    if (clip.size() != 1 || sigmas_.size() != steps_.size() || rows_.size() != 10 * total)
      throw std::invalid_argument("a schedule of another shape");
    clip_ = clip[0];
  }

  /// The plan of so many steps.
  Table plan(std::int64_t steps) const {
    std::size_t start = 0;
    for (std::size_t i = 0; i < steps_.size(); ++i) {
      const auto count = static_cast<std::size_t>(steps_[i]);
      if (steps_[i] == steps) {
        Table table{std::vector<Row>(count), sigmas_[i], clip_};
        std::memcpy(table.rows.data(), rows_.data() + 10 * start, count * sizeof(Row));
        return table;
      }
      start += count;
    }
    throw Error(Code::usage, "steps is " + std::to_string(steps) + "; this engine's schedule holds " + known() + ".");
  }

 private:
  std::string known() const {
    std::string text;
    for (std::size_t i = 0; i < steps_.size(); ++i) {
      const bool within = i > 0 && i + 1 < steps_.size() && steps_[i] == steps_[i - 1] + 1 && steps_[i + 1] == steps_[i] + 1;
      if (within) continue;
      const bool run = i > 0 && steps_[i] == steps_[i - 1] + 1;
      text += (i == 0 ? "" : run ? " to " : ", ") + std::to_string(steps_[i]);
    }
    return text;
  }

  std::vector<std::int64_t> steps_;
  std::vector<double> sigmas_, rows_;
  double clip_ = 0.0;
};

}  // namespace safegen::detail
