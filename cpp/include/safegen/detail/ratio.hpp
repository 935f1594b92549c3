// The numbers of the guard ratio, step by step, from the calibration in its bundle.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "bundle.hpp"
#include "curves.hpp"
#include "guard_step.hpp"
#include "schedule.hpp"

namespace safegen::detail {

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

}  // namespace safegen::detail
