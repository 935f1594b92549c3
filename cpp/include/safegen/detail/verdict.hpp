// What the guard saw and did, from the outputs of a step graph.
#pragma once

#include <vector>

#include "job.hpp"
#include "tensor.hpp"

namespace safegen::detail {

/// Add a step to the verdicts of a batch.
inline void add_step(const Job& job, std::size_t i, const Tensors& outputs, std::vector<Verdict>& verdicts) {
  const Row& row = job.table.rows[i];
  for (std::size_t p = 0; p < verdicts.size(); ++p) {
    const Watch seen{i, row.timestep, row.log_snr(), outputs.at("value").GetTensorData<float>()[p],
                     outputs.at("weight").GetTensorData<float>()[p], outputs.at("nearest").GetTensorData<std::int64_t>()[p]};
    Verdict& verdict = verdicts[p];
    // ratio's gate, once open, stays open: its step graph carries that along as `latched`
    const bool latched = verdict.guard == "ratio" && verdict.opened > 0;
    verdict.opened += seen.evidence > 0.0f || latched;
    verdict.corrected += seen.weight > 0.0f;
    if (!verdict.strongest_evidence || seen.evidence > *verdict.strongest_evidence)
      verdict.strongest_evidence = seen.evidence, verdict.nearest_reference = seen.nearest;
    verdict.trace.push_back(seen);
  }
}

}  // namespace safegen::detail
