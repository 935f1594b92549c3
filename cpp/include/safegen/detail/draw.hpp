// A request drawn: checked, bound to a guard and a plan, denoised, decoded.
#pragma once

#include <utility>
#include <vector>

#include "../pipeline.hpp"
#include "check_request.hpp"
#include "choose_guard.hpp"
#include "decode.hpp"
#include "denoise.hpp"
#include "engine.hpp"
#include "guard.hpp"
#include "job.hpp"

namespace safegen {

namespace detail {

/// What all batches of a request share. Throws Error where the engine cannot draw it.
inline Job plan_request(const Engine& engine, const Request& request) {
  const Manifest& manifest = engine.manifest();
  check_request(manifest, request);
  const Json settings = choose_guard(engine, request.guard);
  Table table = engine.schedule().plan(request.steps.value_or(manifest.defaults.steps));
  OpenGuard guard = open_guard(settings, engine.bundle(), table);
  const double scale = request.guidance_scale.value_or(manifest.defaults.guidance_scale);
  const bool guided = (request.prompt || request.class_label) && scale > 1.0 && manifest.conditioning.guidance == "classifier-free";
  const std::string prompt = request.prompt.value_or("");
  const std::size_t windows = count_windows(engine, {prompt, request.negative_prompt});
  std::vector<ModelInputs> inputs;
  if (guided) {
    const bool zeros = manifest.conditioning.zero_negative && request.negative_prompt.empty();
    inputs.push_back(model_inputs(engine, {request.negative_prompt, std::nullopt, zeros}, scale, windows));
  }
  inputs.push_back(model_inputs(engine, {prompt, request.class_label}, scale, windows));
  return {std::move(table), std::move(guard), guided ? scale : 1.0, std::move(inputs)};
}

}  // namespace detail

inline Pipeline::Pipeline(const std::filesystem::path& engine, const std::filesystem::path& bundle, const DeviceOptions& options)
    : engine_(std::make_unique<const detail::Engine>(engine, bundle, options)) {}

inline Pipeline::~Pipeline() = default;

inline std::vector<Picture> Pipeline::draw(const Request& request, const Progress& progress) const {
  const detail::Job job = detail::plan_request(*engine_, request);
  const std::size_t steps = job.table.rows.size();
  std::size_t done = 0;
  const auto on_step = [&] {
    if (progress && !progress(++done, steps)) throw Error(Code::cancelled, "stopped by the caller.");
  };
  const detail::Batch batch{request.seed, request.count};
  std::vector<Verdict> verdicts(static_cast<std::size_t>(batch.count));
  for (Verdict& verdict : verdicts) verdict.guard = job.guard.mode, verdict.steps = steps;
  const detail::Tensors inputs = detail::batch_inputs(engine_->component(engine_->manifest().model), job.inputs, batch.count);
  const Ort::Value latents = detail::denoise(*engine_, job, batch, inputs, verdicts, on_step);
  std::vector<Picture> pictures;
  for (std::size_t p = 0; p < verdicts.size(); ++p) {
    pictures.push_back(detail::to_picture(detail::decode_latents(*engine_, latents, p)));
    pictures.back().verdict = std::move(verdicts[p]);
  }
  return pictures;
}

}  // namespace safegen
