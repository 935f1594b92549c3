// The numbers of the guards official and renoise-only, as the paper's released program works them out.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "guard_step.hpp"
#include "noise.hpp"
#include "schedule.hpp"

namespace safegen::detail {

/// The released program's calibration: den of the noised references at the last timestep.
inline double lowest_den(const Bundle& bundle, const Row& last, double bandwidth, bool unit_x0) {
  const auto channels = static_cast<std::size_t>(bundle.latent_shape[0]);
  const Rows units = unit_pixels(bundle.negation, channels);
  const std::vector<float> z = normal(0, 0, units.values.size(), 3);
  const double scale = 1.0 / std::hypot(last.alpha, last.sigma);
  double lowest = std::numeric_limits<double>::infinity();
  std::vector<float> x(units.width);
  for (std::size_t i = 0; i < units.count; ++i) {
    for (std::size_t j = 0; j < units.width; ++j)
      x[j] = static_cast<float>(last.alpha * scale * units[i][j] + last.sigma * scale * z[i * units.width + j]);
    if (unit_x0) to_unit_pixels(x.data(), channels, units.width / channels);
    double den = 1e-8;
    for (std::size_t n = 0; n < units.count; ++n)
      den += std::exp(-0.5 / (bandwidth * bandwidth) * std::sqrt(squared_distance(x.data(), units[n], units.width)));
    lowest = std::min(lowest, den);
  }
  return lowest;
}

inline std::vector<GuardStep> official(const Bundle& bundle, const Table& table, const Json& settings, bool renoise_only) {
  for (const Row& row : table.rows) {
    const std::string mode = settings.at("mode");
    if (row.c != 0.0) throw Error(Code::usage, "the guard " + mode + " re-noises x, which dpm++2m cannot follow; use ddim.");
    if (row.alpha == 0.0) throw Error(Code::usage, "the guard " + mode + " divides by alpha, 0 at zero terminal SNR; use leading.");
  }
  const double bandwidth = value_or(settings, "bandwidth", 3.15), t_min = value_or(settings, "t_min", 780.0);
  const double scale = renoise_only ? 0.0 : value_or(settings, "scale", 0.33);
  const bool unit_x0 = value_or(settings, "unit_x0", false), gate = !renoise_only && value_or(settings, "gate", true);
  const auto first_steps = value_or<std::int64_t>(settings, "first_steps", -1);
  double threshold = -1.0, margin = 0.0;
  if (gate) threshold = margin = lowest_den(bundle, table.rows.back(), bandwidth, unit_x0) - value_or(settings, "margin", 1.6);
  std::vector<GuardStep> steps;
  for (std::size_t i = 0; i < table.rows.size(); ++i) {
    const bool looks = first_steps >= 0 ? i < static_cast<std::size_t>(first_steps) : table.rows[i].timestep >= t_min;
    steps.push_back({{bandwidth, scale, threshold, margin, unit_x0 ? 1.0 : 0.0}, looks});
  }
  return steps;
}

}  // namespace safegen::detail
