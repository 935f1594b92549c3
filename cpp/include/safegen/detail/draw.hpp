// A request drawn: checked, bound to a guard and a plan, drawn batch by batch.
#pragma once

#include <algorithm>
#include <functional>
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

/// Draw a batch and hand out each picture as soon as it is decoded.
template <typename Take>
void draw_batch(const Engine& engine, const Job& job, const Batch& batch, const Tensors& inputs,
                const std::function<void()>& on_step, Take take) {
  std::vector<Verdict> verdicts(static_cast<std::size_t>(batch.count));
  for (Verdict& verdict : verdicts) verdict.guard = job.guard.mode, verdict.steps = job.table.rows.size();
  const Ort::Value latents = denoise(engine, job, batch, inputs, verdicts, on_step);
  for (std::size_t p = 0; p < verdicts.size(); ++p) {
    Picture picture = to_picture(decode_latents(engine, latents, p));
    picture.verdict = std::move(verdicts[p]);
    take(p, std::move(picture));
  }
}

}  // namespace detail

inline Pipeline::Pipeline(const std::filesystem::path& engine, const std::filesystem::path& bundle, const DeviceOptions& options)
    : engine_(std::make_unique<const detail::Engine>(engine, bundle, options)) {}

inline Pipeline::~Pipeline() = default;

inline void Pipeline::draw(const Request& request, const OnPicture& on_picture, const Progress& progress) const {
  const detail::Job job = detail::plan_request(*engine_, request);
  const auto n = static_cast<std::uint64_t>(request.n), size = static_cast<std::uint64_t>(request.batch_size);
  const std::size_t steps = job.table.rows.size(), count = static_cast<std::size_t>((n - 1) / size + 1) * steps;
  std::size_t done = 0;
  const auto on_step = [&] {
    ++done;
    if (progress && !progress(done, count)) throw Error(Code::cancelled, "stopped by the caller.");
  };
  const detail::Session& model = engine_->component(engine_->manifest().model);
  detail::Tensors inputs;
  std::int64_t inputs_count = 0;  // the last batch may be smaller
  for (std::uint64_t first = 0; first < n; first += size) {
    const detail::Batch batch{request.seed + first, static_cast<std::int64_t>(std::min(size, n - first))};
    if (batch.count != inputs_count) inputs = detail::batch_inputs(model, job.inputs, batch.count);
    inputs_count = batch.count;
    detail::draw_batch(*engine_, job, batch, inputs, on_step, [&](std::size_t p, Picture picture) {
      if (on_picture && !on_picture(static_cast<std::size_t>(first) + p, std::move(picture)))
        throw Error(Code::cancelled, "stopped by the caller.");
    });
  }
}

inline std::vector<Picture> Pipeline::draw(const Request& request, const Progress& progress) const {
  std::vector<Picture> pictures;
  const OnPicture keep = [&](std::size_t, Picture picture) {
    pictures.push_back(std::move(picture));
    return true;
  };
  draw(request, keep, progress);
  return pictures;
}

}  // namespace safegen
