// Gaussian noise that depends on the seed and the draw, and on nothing else: the same numbers as in Python.
//
// Philox 4x32-10 (Salmon et al., SC 2011) keyed by the seed, then Box-Muller in double, rounded to float.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

namespace safegen::detail {

inline std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t first = std::uint64_t{0xD2511F53u} * counter[0], second = std::uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<std::uint32_t>(second >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(second),
               static_cast<std::uint32_t>(first >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(first)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return counter;
}

/// `count` standard normal numbers: draw `draw` of a seed. Stream 0 is the sampler's, 1 the guards'.
inline std::vector<float> normal(std::uint64_t seed, std::uint32_t draw, std::size_t count, std::uint32_t stream = 0) {
  constexpr double unit = 1.0 / 4294967296.0, two_pi = 6.283185307179586476925286766559;
  const std::array<std::uint32_t, 2> key = {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
  std::vector<float> values(count);
  for (std::size_t at = 0; at < count; at += 4) {
    const auto words = philox({static_cast<std::uint32_t>(at / 4), draw, stream, 0}, key);
    for (std::size_t pair = 0; pair < 2; ++pair) {
      const double radius = std::sqrt(-2.0 * std::log((words[2 * pair] + 1.0) * unit));
      const double angle = two_pi * (words[2 * pair + 1] * unit);
      if (at + 2 * pair < count) values[at + 2 * pair] = static_cast<float>(radius * std::cos(angle));
      if (at + 2 * pair + 1 < count) values[at + 2 * pair + 1] = static_cast<float>(radius * std::sin(angle));
    }
  }
  return values;
}

}  // namespace safegen::detail
