// The numbers of the guard official, as the paper's released program works them out: safegen.guard.official.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "bundle.hpp"
#include "guard_step.hpp"
#include "noise.hpp"
#include "schedule.hpp"

namespace safegen::detail {

/// The released program's calibration: den of the noised references at the last timestep.
inline double lowest_den(const Bundle& bundle, const Row& last, double bandwidth, bool sd3) {
  const auto channels = static_cast<std::size_t>(bundle.latent_shape[0]);
  const Rows units = unit_pixels(bundle.negation, channels);
  const std::vector<float> z = normal(0, 0, units.values.size(), 3);
  const double scale = 1.0 / std::hypot(last.alpha, last.sigma);
  double lowest = std::numeric_limits<double>::infinity();
  std::vector<float> x(units.width);
  for (std::size_t i = 0; i < units.count; ++i) {
    for (std::size_t j = 0; j < units.width; ++j)
      x[j] = static_cast<float>(last.alpha * scale * units[i][j] + last.sigma * scale * z[i * units.width + j]);
    if (sd3) to_unit_pixels(x.data(), channels, units.width / channels);
    double den = 1e-8;
    for (std::size_t n = 0; n < units.count; ++n)
      den += std::exp(-0.5 / (bandwidth * bandwidth) * std::sqrt(squared_distance(x.data(), units[n], units.width)));
    lowest = std::min(lowest, den);
  }
  return lowest;
}

/// Refuse a plan that cannot follow a guard which makes x anew.
inline void check_renoise(const Table& table, bool sd3) {
  const auto any = [&](auto odd) { return std::any_of(table.rows.begin(), table.rows.end(), odd); };
  if (any([](const Row& row) { return row.c != 0.0; }))
    throw Error(Code::usage, "the guard official re-noises x, which dpm++2m cannot follow; use ddim.");
  if (sd3 && any([](const Row& row) { return std::abs(row.alpha + row.sigma - 1.0) > 1e-6 || row.d != 0.0; }))
    throw Error(Code::usage, "the guard official for SD3 takes a step of rectified flow, which this model and solver do not;"
                             " take another preset, official:nudity.");
  if (!sd3 && any([](const Row& row) { return row.alpha == 0.0; }))
    throw Error(Code::usage, "the guard official divides by alpha, 0 at zero terminal SNR; use leading.");
}

inline std::vector<GuardStep> official(const Bundle& bundle, const Table& table, const Json& settings) {
  const double bandwidth = value_or(settings, "bandwidth", 3.15), scale = value_or(settings, "scale", 0.33);
  const bool sd3 = value_or(settings, "sd3", false), gate = value_or(settings, "gate", true);
  const auto first_steps = value_or<std::int64_t>(settings, "first_steps", -1);
  const bool counts = settings.contains("first_steps") && !settings["first_steps"].is_null();
  const double t_min = value_or(settings, "t_min", 780.0), margin = value_or(settings, "margin", 1.6);
  check_renoise(table, sd3);
  const double opens = gate ? lowest_den(bundle, table.rows.back(), bandwidth, sd3) - margin : 0.0;
  std::vector<GuardStep> steps;
  for (std::size_t i = 0; i < table.rows.size(); ++i) {
    const Row& row = table.rows[i];
    const double following = row.a * row.sigma;  // sd3: the next noise level
    const double kept = sd3 ? std::sqrt(following) : 0.0, fresh = sd3 ? std::sqrt(1.0 - following) : 1.0;
    const bool looks = counts ? static_cast<std::int64_t>(i) < first_steps : row.timestep >= t_min;
    steps.push_back({{bandwidth, scale, opens, kept, fresh, sd3 ? 1.0 : 0.0}, looks});
  }
  return steps;
}

}  // namespace safegen::detail
