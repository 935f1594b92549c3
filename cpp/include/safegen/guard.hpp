// A guard bound to a bundle and a plan: what the step graph takes in its row, worked out beforehand.
//
// The guards themselves are in the step graphs, recorded from the Python package's own lines.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "noise.hpp"
#include "schedule.hpp"

namespace safegen {

/// The step graph's numbers of one step, and whether the guard acts there.
struct GuardStep {
  std::vector<double> numbers;
  bool looks = true;
};

/// A guard bound to a bundle and a plan.
struct OpenGuard {
  std::string mode;
  std::vector<GuardStep> steps;
  bool unit_pixels = false;  ///< the references enter with unit pixels
  bool draws_noise = false;
};

namespace detail {

/// The quantile of some numbers, linear between two of them, as NumPy has it.
inline double quantile(std::vector<float> values, double share) {
  std::sort(values.begin(), values.end());
  const double place = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(std::floor(place));
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (place - static_cast<double>(below)) * (values[above] - static_cast<double>(values[below]));
}

/// A curve over rising levels, linear between them and level beyond.
template <class T>
double interpolate(double at, const std::vector<T>& known, const std::vector<double>& curve) {
  if (!(at > known.front())) return curve.front();
  if (at >= known.back()) return curve.back();
  const auto above = static_cast<std::size_t>(std::upper_bound(known.begin(), known.end(), static_cast<T>(at)) - known.begin());
  const std::size_t high = std::clamp<std::size_t>(above, 1, known.size() - 1), low = high - 1;
  const double share = (at - known[low]) / (static_cast<double>(known[high]) - known[low]);
  return curve[low] + share * (curve[high] - curve[low]);
}

/// alpha of x_t = alpha x0 + sigma n with alpha^2 + sigma^2 = 1.
inline double alpha(double log_snr) { return std::sqrt(1.0 / (1.0 + std::exp(-log_snr))); }

inline std::vector<float> row_of(const Rows& rows, std::size_t i) { return {rows[i], rows[i] + rows.width}; }

inline constexpr double safely_benign = 0.05;
/// In scales of the tail above the gate: safegen.calibration.SURE.
inline constexpr double sure_above = 2.0;

/// Of plans of few steps: safegen.calibration.hurried.
inline constexpr std::size_t few_steps = 8;
inline constexpr double sharpness = 2.0, doubt_rate = 0.12, doubt_until = -2.0;
/// Above any evidence: safegen_engines.step_graph.NO_DOUBT.
inline constexpr double no_doubt = 1e9;

/// What the model foresees of ordinary pictures, level by level: safegen.calibration.thresholds.
struct Foreseen {
  std::vector<double> high, excess;  ///< the 0.9-quantile, and the tail's scale above it
  std::vector<float> scores;         ///< how far each picture comes at any level, rising

  /// The gate at each level, for a rate of false alarms.
  std::vector<double> gate(double rate) const {
    const double wanted = std::ceil(static_cast<double>(scores.size() + 1) * (1.0 - rate)) - 1.0;
    const auto rank = static_cast<std::size_t>(std::clamp(wanted, 0.0, static_cast<double>(scores.size() - 1)));
    std::vector<double> at = high;
    for (std::size_t level = 0; level < at.size(); ++level) at[level] += scores[rank] * excess[level];
    return at;
  }
};

inline Foreseen foreseen(const Calibration& known) {
  const std::size_t levels = known.foreseen_log_snr.size(), pictures = known.foreseen.width;
  std::vector<double> gate(levels), excess(levels);
  std::vector<float> scores(pictures, -std::numeric_limits<float>::infinity());
  for (std::size_t level = 0; level < levels; ++level) {
    const std::vector<float> row = row_of(known.foreseen, level);
    gate[level] = quantile(row, 0.9);
    double sum = 0.0;
    std::size_t above = 0;
    for (const float value : row) {
      if (value > gate[level]) sum += value - gate[level], ++above;
    }
    excess[level] = sum / static_cast<double>(std::max<std::size_t>(above, 1)) + 1e-6;
    for (std::size_t i = 0; i < pictures; ++i)
      scores[i] = std::max(scores[i], static_cast<float>((row[i] - gate[level]) / excess[level]));
  }
  std::sort(scores.begin(), scores.end());
  return {gate, excess, scores};
}

/// Gate, doubt and release of the guard ratio at each step: safegen.calibration.thresholds and hurried.
inline std::vector<GuardStep> ratio(const Bundle& bundle, const Table& table, double rate, double repulsion) {
  const Calibration& known = bundle.calibration;
  const Foreseen usually = foreseen(known);
  const std::vector<double> gate = usually.gate(rate), doubt = usually.gate(doubt_rate);
  const bool few = table.rows.size() < few_steps && bundle.regions == 1;
  std::vector<double> signal, usual;
  for (const float level : known.foreseen_log_snr) signal.push_back(alpha(level));
  for (std::size_t level = 0; level < known.log_snr.size(); ++level)
    usual.push_back(std::min(quantile(row_of(known.benign, level), safely_benign), 0.0));
  std::vector<GuardStep> steps;
  for (const Row& row : table.rows) {
    const double at = row.log_snr();
    const double doubts = few && at < doubt_until ? interpolate(alpha(at), signal, doubt) : no_doubt;
    steps.push_back({{interpolate(alpha(at), signal, gate), sure_above * interpolate(alpha(at), signal, usually.excess),
                      interpolate(at, known.log_snr, usual), repulsion, bundle.bandwidth, bundle.aim_bandwidth,
                      few ? sharpness : 1.0, doubts},
                     true});
  }
  return steps;
}

inline std::vector<GuardStep> paper(const Bundle& bundle, const Table& table, const Json& settings) {
  const double eta = value_or(settings, "eta", 1.0), w_max = value_or(settings, "w_max", 3.0);
  const double share = value_or(settings, "quantile", 0.05), t_min = value_or(settings, "t_min", 780.0);
  std::vector<double> low, middle;
  for (std::size_t level = 0; level < bundle.calibration.log_snr.size(); ++level) {
    low.push_back(quantile(row_of(bundle.calibration.density, level), share));
    middle.push_back(quantile(row_of(bundle.calibration.density, level), 0.5));
  }
  std::vector<GuardStep> steps;
  for (const Row& row : table.rows) {
    const auto at = [&](const std::vector<double>& curve) { return interpolate(row.log_snr(), bundle.calibration.log_snr, curve); };
    steps.push_back({{at(low), at(middle), eta, std::log(w_max / eta)}, row.timestep >= t_min});
  }
  return steps;
}

/// Divide each pixel's channel vector by its norm. A zero pixel stays zero.
inline void to_unit_pixels(float* row, std::size_t channels, std::size_t pixels) {
  for (std::size_t pixel = 0; pixel < pixels; ++pixel) {
    double sum = 0.0;
    for (std::size_t c = 0; c < channels; ++c) sum += static_cast<double>(row[c * pixels + pixel]) * row[c * pixels + pixel];
    const double norm = sum > 0.0 ? std::sqrt(sum) : 1.0;
    for (std::size_t c = 0; c < channels; ++c) row[c * pixels + pixel] = static_cast<float>(row[c * pixels + pixel] / norm);
  }
}

inline Rows unit_pixels(Rows rows, std::size_t channels) {
  for (std::size_t i = 0; i < rows.count; ++i) to_unit_pixels(rows.values.data() + i * rows.width, channels, rows.width / channels);
  return rows;
}

inline double product(const float* a, const float* b, std::size_t width) {
  double sums[4] = {};  // apart, so that they need not wait for one another
  for (std::size_t i = 0; i < width; ++i) sums[i % 4] += static_cast<double>(a[i]) * b[i];
  return sums[0] + sums[1] + sums[2] + sums[3];
}

inline std::vector<float> squares(const Rows& rows) {
  std::vector<float> found;
  for (std::size_t i = 0; i < rows.count; ++i) found.push_back(static_cast<float>(product(rows[i], rows[i], rows.width)));
  return found;
}

/// The product of each row with each axis.
inline Rows along(const Rows& rows, const Rows& axes) {
  Rows found{rows.count, axes.count, {}};
  for (std::size_t i = 0; i < rows.count; ++i)
    for (std::size_t k = 0; k < axes.count; ++k) found.values.push_back(static_cast<float>(product(rows[i], axes[k], rows.width)));
  return found;
}

inline double squared_distance(const float* a, const float* b, std::size_t width) {
  double sum = 0.0;
  for (std::size_t i = 0; i < width; ++i) sum += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
  return sum;
}

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

/// Distances^power between references and their neighbours first..last, over up to 512 of them.
inline std::vector<float> neighbours(const Rows& refs, std::size_t first, std::size_t last, double power) {
  const std::size_t stride = std::max<std::size_t>(1, refs.count / 512);
  last = std::min(last, refs.count - 1);
  first = std::min(first, last);
  std::vector<float> found;
  for (std::size_t i = 0; i < refs.count; i += stride) {
    std::vector<double> squared;
    for (std::size_t n = 0; n < refs.count; ++n) squared.push_back(squared_distance(refs[i], refs[n], refs.width));
    std::sort(squared.begin(), squared.end());
    for (std::size_t k = first; k <= last; ++k) found.push_back(static_cast<float>(std::pow(squared[k], power / 2)));
  }
  return found;
}

inline std::vector<GuardStep> constant(const Table& table, std::vector<double> numbers) {
  return std::vector<GuardStep>(table.rows.size(), GuardStep{std::move(numbers), true});
}

}  // namespace detail

/// Bind a guard to a bundle and a plan, working out every threshold beforehand.
///
/// The settings are a bundle's, whose reader has checked them, or parse_guard's.
inline OpenGuard open_guard(const Json& settings, const Bundle* bundle, const Table& table) {
  const auto mode = settings.at("mode").get<std::string>();
  const auto set = [&](const char* name, double fallback) { return value_or(settings, name, fallback); };
  const auto given = [&](const char* name) { return settings.contains(name) && !settings[name].is_null(); };
  if (mode == "off") return {mode, std::vector<GuardStep>(table.rows.size(), GuardStep{{}, false})};
  if (bundle == nullptr) throw Error(Code::guard, "the guard " + mode + " needs a negation bundle.");
  if (bundle->regions > 1 && mode != "ratio")
    throw Error(Code::usage, "the bundle holds regions of pictures, " + std::to_string(bundle->regions) + " a side, which the guard " + mode +
                                 " does not know; use ratio, or freeze without --regions.");
  if (mode == "ratio") return {mode, detail::ratio(*bundle, table, set("false_positive_rate", 0.005), set("repulsion", 1.0))};
  if (mode == "theorem") return {mode, detail::constant(table, {std::log(set("eta", 1.0)), std::log(set("w_max", 3.0))})};
  if (mode == "paper") return {mode, detail::paper(*bundle, table, settings)};
  if (mode == "official" || mode == "renoise-only")
    return {mode, detail::official(*bundle, table, settings, mode == "renoise-only"), true, true};
  if (mode == "spell") {
    const double radius =
        given("radius") ? settings["radius"].get<double>() : detail::quantile(detail::neighbours(bundle->negation, 1, 1, 1.0), 0.5);
    return {mode, detail::constant(table, {std::max(radius, 1e-6), set("overcompensation", 1.6)})};
  }
  if (mode == "sgf") {
    double gamma = set("gamma", 0.0);
    if (!given("gamma")) {
      const std::vector<float> squared = detail::neighbours(bundle->negation, 4, 6, 2.0);
      const double mean = std::accumulate(squared.begin(), squared.end(), 0.0) / static_cast<double>(squared.size());
      gamma = -std::log(0.05) / std::max(mean, 1e-6);
    }
    return {mode, detail::constant(table, {gamma, set("step", 30.0)})};
  }
  return {mode, detail::constant(table, {set("scale", 0.3)})};  // bank-mean
}

}  // namespace safegen
