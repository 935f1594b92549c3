// The vector `row` of a step graph: docs/formats.md names its entries.
#pragma once

#include <vector>

#include "job.hpp"

namespace safegen::detail {

inline std::vector<float> step_row(const Job& job, std::size_t i) {
  const Row& row = job.table.rows[i];
  const GuardStep& step = job.guard.steps[i];
  const double kernel = row.sigma != 0.0 ? row.alpha / (row.sigma * row.sigma) : 0.0;
  const double next = i + 1 < job.table.rows.size() ? job.table.rows[i + 1].input_scale : 1.0;
  std::vector<double> values = {job.guidance_scale, row.x0_x, row.x0_out, job.table.clip, row.a, row.b, row.c, row.d, next,
                                step.looks ? 1.0 : 0.0, row.alpha, row.sigma, kernel, 0.5 * row.alpha * kernel,
                                2.0 * row.sigma * row.sigma, row.early()};
  values.insert(values.end(), step.numbers.begin(), step.numbers.end());
  return {values.begin(), values.end()};
}

}  // namespace safegen::detail
