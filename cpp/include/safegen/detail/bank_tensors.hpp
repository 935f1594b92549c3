// The banks of a bundle as the inputs of a step graph.
#pragma once

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "device.hpp"
#include "guard_step.hpp"
#include "session.hpp"

namespace safegen::detail {

/// Those of the banks that a step graph takes, on the device; zeros where there is no bundle.
inline Tensors bank_tensors(const Bundle* bundle, const std::array<std::int64_t, 3>& latent_shape, const OpenGuard& guard,
                            const Session& step, const Device& device) {
  Tensors bank;
  const auto add = [&](const std::string& name, const Shape& shape, const std::vector<float>& values) {
    if (step.inputs().count(name) != 0) bank.emplace(name, device.resident(host_tensor(shape, values)));
  };
  const auto add_rows = [&](const std::string& name, const Rows& rows) {
    const auto count = static_cast<std::int64_t>(rows.count);
    add(name, {count, static_cast<std::int64_t>(rows.width)}, rows.values);
    add(name + "_sq", {count}, squares(rows));
  };
  if (!bundle) {  // only "off" comes here; its graph has the inputs all the same
    const auto size = static_cast<std::size_t>(latent_shape[0] * latent_shape[1] * latent_shape[2]);
    const Rows nothing{1, size, std::vector<float>(size, 0.0f)};
    add_rows("refs", nothing);
    add_rows("benign", nothing);
    add("target_mask", {1}, {0.0f});
    return bank;
  }
  add_rows("refs", guard.unit_pixels ? unit_pixels(bundle->negation, static_cast<std::size_t>(bundle->latent_shape[0])) : bundle->negation);
  add_rows("benign", bundle->benign);
  if (step.inputs().count("axes") != 0) {
    const Rows& axes = bundle->axes;
    add("axes", {static_cast<std::int64_t>(axes.count), static_cast<std::int64_t>(axes.width)}, axes.values);
    add_rows("refs_along", along(bundle->negation, axes));
    add_rows("benign_along", along(bundle->benign, axes));
  }
  std::vector<float> mask(bundle->benign.count, -std::numeric_limits<float>::infinity());
  std::fill_n(mask.begin(), bundle->target_count, 0.0f);
  add("target_mask", {static_cast<std::int64_t>(mask.size())}, mask);
  return bank;
}

}  // namespace safegen::detail
