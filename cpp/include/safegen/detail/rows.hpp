// Rows of numbers, one an image or a region of one: their squares, products and distances.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

namespace safegen::detail {

/// Rows of float32 numbers.
struct Rows {
  std::size_t count = 0, width = 0;
  std::vector<float> values;

  const float* operator[](std::size_t row) const { return values.data() + row * width; }
};

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

}  // namespace safegen::detail
