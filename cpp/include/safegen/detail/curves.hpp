// Curves over levels of noise: quantiles of what was measured there, and values between the levels.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "rows.hpp"

namespace safegen::detail {

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

}  // namespace safegen::detail
