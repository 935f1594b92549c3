// Where a gate stands at each level of noise, from what freeze stored: safegen.guard.gate.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace safegen::detail {

/// The calibrated gate of ratio; F levels, P ordinary pictures.
struct Gate {
  std::vector<double> signal;    ///< (F,) rising: alpha of x_t = alpha x0 + sigma n with alpha^2 + sigma^2 = 1
  std::vector<double> location;  ///< (F,) the 0.9-quantile of the evidence of ordinary pictures
  std::vector<double> scores;    ///< (P,) rising: how far above the location each of them came
};

/// What paper needs: log beta of the negation images themselves.
struct Density {
  std::vector<double> log_snr;                 ///< (L,) rising
  std::vector<std::vector<double>> quantiles;  ///< (L, Q) at Q shares from 0 to 1, evenly apart
};

/// A curve over rising places, linear between them and constant beyond: numpy.interp.
inline double interpolate(double at, const std::vector<double>& places, const std::vector<double>& curve) {
  if (!(at > places.front())) return curve.front();
  if (at >= places.back()) return curve.back();
  const auto high = static_cast<std::size_t>(std::upper_bound(places.begin(), places.end(), at) - places.begin()), low = high - 1;
  return (curve[high] - curve[low]) / (places[high] - places[low]) * (at - places[low]) + curve[low];
}

/// Which of so many rising scores, from 1 on, is the threshold of a rate: ceil((P + 1)(1 - rate)).
inline std::size_t conformal_rank(std::size_t count, double rate) {
  // rounded first: (P + 1)(1 - rate) may be a hair above a whole number
  const double rank = std::ceil(std::round(static_cast<double>(count + 1) * (1.0 - rate) * 1e9) / 1e9);
  return static_cast<std::size_t>(std::clamp(rank, 1.0, static_cast<double>(count)));
}

/// The gate opens where the evidence at x0 is above: the threshold at one level, for a rate of false alarms.
inline double threshold(const Gate& gate, double rate, double signal) {
  return interpolate(signal, gate.signal, gate.location) + gate.scores[conformal_rank(gate.scores.size(), rate) - 1];
}

/// A quantile of log beta at one level, for a share from 0 to 1.
inline double log_beta(const Density& density, double share, double log_snr) {
  std::vector<double> shares, curve;
  const std::size_t last = density.quantiles.front().size() - 1;
  for (std::size_t i = 0; i <= last; ++i) shares.push_back(static_cast<double>(i) / static_cast<double>(last));
  for (const std::vector<double>& level : density.quantiles) curve.push_back(interpolate(share, shares, level));
  return interpolate(log_snr, density.log_snr, curve);
}

}  // namespace safegen::detail
