// What all batches of a request share.
#pragma once

#include <cstdint>
#include <vector>

#include "conditioning.hpp"
#include "guard_step.hpp"
#include "schedule.hpp"

namespace safegen::detail {

struct Job {
  Table table;
  OpenGuard guard;
  double guidance_scale;            ///< 1 where the model runs once
  std::vector<ModelInputs> inputs;  ///< of the prompt; with guidance first of what that leads away from

  /// The model runs once on two batches, end to end.
  bool guided() const { return inputs.size() == 2; }
};

/// Pictures that are drawn together, of the seeds from `seed` on.
struct Batch {
  std::uint64_t seed;
  std::int64_t count;
};

}  // namespace safegen::detail
