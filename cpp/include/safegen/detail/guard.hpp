// A guard bound to a bundle and a plan: what the step graph takes in its row, worked out beforehand.
//
// The guards themselves are in the step graphs, recorded from the Python package's own lines (safegen.guard).
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "gate.hpp"
#include "guard_step.hpp"
#include "official.hpp"
#include "schedule.hpp"

namespace safegen::detail {

inline std::vector<GuardStep> ratio(const Bundle& bundle, const Table& table, const Json& settings) {
  const double rate = value_or(settings, "false_positive_rate", 0.005), repulsion = value_or(settings, "repulsion", 1.0);
  std::vector<GuardStep> steps;
  for (const Row& row : table.rows) steps.push_back({{threshold(bundle.gate, rate, row.signal()), bundle.bandwidth, repulsion}, true});
  return steps;
}

inline std::vector<GuardStep> paper(const Bundle& bundle, const Table& table, const Json& settings) {
  const double eta = value_or(settings, "eta", 1.0), w_max = value_or(settings, "w_max", 3.0);
  const double quantile = value_or(settings, "quantile", 0.05), t_min = value_or(settings, "t_min", 780.0);
  std::vector<GuardStep> steps;
  for (const Row& row : table.rows) {
    const double low = log_beta(bundle.density, quantile, row.log_snr()), usual = log_beta(bundle.density, 0.5, row.log_snr());
    steps.push_back({{low, usual, eta, std::log(w_max / eta)}, row.timestep >= t_min});
  }
  return steps;
}

/// Bind a guard to a bundle and a plan, working out every threshold beforehand.
///
/// The settings are a bundle's, whose reader has checked them, or parse_guard's.
inline OpenGuard open_guard(const Json& settings, const Bundle* bundle, const Table& table) {
  const auto mode = settings.at("mode").get<std::string>();
  if (mode == "off") return {mode, std::vector<GuardStep>(table.rows.size(), GuardStep{{}, false})};
  if (bundle == nullptr) throw Error(Code::guard, "the guard " + mode + " needs a negation bundle.");
  if (mode == "ratio") return {mode, ratio(*bundle, table, settings)};
  if (bundle->regions > 1)
    throw Error(Code::usage, "the bundle holds regions of pictures, " + std::to_string(bundle->regions) + " a side, which the guard " + mode +
                                 " does not know; use ratio, or freeze without --regions.");
  if (mode == "paper") return {mode, paper(*bundle, table, settings)};
  return {mode, official(*bundle, table, settings), true, true};
}

}  // namespace safegen::detail
