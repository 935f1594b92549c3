// What a guard gives the step graph at each step.
#pragma once

#include <string>
#include <vector>

namespace safegen::detail {

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

}  // namespace safegen::detail
