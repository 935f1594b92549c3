// A guard bound to a bundle and a plan: what the step graph takes in its row, worked out beforehand.
//
// The guards themselves are in the step graphs, recorded from the Python package's own lines.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "curves.hpp"
#include "guard_step.hpp"
#include "official.hpp"
#include "ratio.hpp"
#include "schedule.hpp"

namespace safegen::detail {

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
  if (mode == "ratio") return {mode, ratio(*bundle, table, set("false_positive_rate", 0.005), set("repulsion", 1.0))};
  if (mode == "theorem") return {mode, constant(table, {std::log(set("eta", 1.0)), std::log(set("w_max", 3.0))})};
  if (mode == "paper") return {mode, paper(*bundle, table, settings)};
  if (mode == "official" || mode == "renoise-only")
    return {mode, official(*bundle, table, settings, mode == "renoise-only"), true, true};
  if (mode == "spell") {
    const double radius =
        given("radius") ? settings["radius"].get<double>() : quantile(neighbours(bundle->negation, 1, 1, 1.0), 0.5);
    return {mode, constant(table, {std::max(radius, 1e-6), set("overcompensation", 1.6)})};
  }
  if (mode == "sgf") {
    double gamma = set("gamma", 0.0);
    if (!given("gamma")) {
      const std::vector<float> squared = neighbours(bundle->negation, 4, 6, 2.0);
      const double mean = std::accumulate(squared.begin(), squared.end(), 0.0) / static_cast<double>(squared.size());
      gamma = -std::log(0.05) / std::max(mean, 1e-6);
    }
    return {mode, constant(table, {gamma, set("step", 30.0)})};
  }
  return {mode, constant(table, {set("scale", 0.3)})};  // bank-mean
}

}  // namespace safegen::detail
