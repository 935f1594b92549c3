// The loop: from a batch's first noise to its last latents. Each step is one run of the model and one of a step graph.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine.hpp"
#include "job.hpp"
#include "noise.hpp"
#include "step_row.hpp"
#include "verdict.hpp"

namespace safegen::detail {

/// Latents of pure noise, one draw of each seed, (B, C, H, W) end to end.
inline std::vector<float> draw_noise(const Engine& engine, const Batch& batch, std::uint32_t draw, std::uint32_t stream) {
  const auto [channels, height, width] = engine.latent_shape();
  const auto size = static_cast<std::size_t>(channels * height * width);
  std::vector<float> noise;
  for (std::int64_t i = 0; i < batch.count; ++i) {
    const std::vector<float> one = normal(batch.seed + static_cast<std::uint64_t>(i), draw, size, stream);
    noise.insert(noise.end(), one.begin(), one.end());
  }
  return noise;
}

/// The model's output for what it sees at a timestep.
inline Ort::Value predict(const Session& model, const Ort::Value& sample, double timestep, const Tensors& inputs) {
  const bool each = !model.inputs().at("timestep").shape.empty();
  const std::int64_t count = shape_of(sample)[0];
  const Ort::Value time = model.tensor_for("timestep", each ? Shape{count} : Shape{},
                                           std::vector<double>(each ? static_cast<std::size_t>(count) : 1, timestep));
  std::map<std::string, const Ort::Value*> feed = {{"sample", &sample}, {"timestep", &time}};
  for (const auto& [name, tensor] : inputs) feed[name] = &tensor;
  return std::move(model.run(feed).begin()->second);
}

/// The first or the second half of a batch, in the same memory.
inline Ort::Value half(Ort::Value& whole, int which) {
  Shape shape = shape_of(whole);
  shape[0] /= 2;
  const std::size_t size = whole.GetTensorTypeAndShapeInfo().GetElementCount() / 2;
  float* start = whole.GetTensorMutableData<float>() + (which ? size : 0);
  return Ort::Value::CreateTensor<float>(whole.GetTensorMemoryInfo(), start, size, shape.data(), shape.size());
}

/// Gates that have not opened yet.
inline Ort::Value shut_gates(std::int64_t count) {
  Ort::AllocatorWithDefaultOptions allocator;
  Ort::Value tensor = Ort::Value::CreateTensor<bool>(allocator, &count, 1);
  std::fill_n(tensor.GetTensorMutableData<bool>(), count, false);
  return tensor;
}

/// (B, C, H, W) of a batch.
inline Shape batch_shape(const Engine& engine, std::int64_t count) {
  const auto [channels, height, width] = engine.latent_shape();
  return {count, channels, height, width};
}

/// What one step hands to the next, before the first.
inline Tensors first_state(const Engine& engine, const Job& job, const Batch& batch) {
  const auto [channels, height, width] = engine.latent_shape();
  const Shape shape = batch_shape(engine, batch.count);
  std::vector<float> noise = draw_noise(engine, batch, 0, 0), seen;
  for (float& value : noise) value = static_cast<float>(value * job.table.init_noise_sigma);
  for (std::size_t subject = 0; subject < job.inputs.size(); ++subject)
    for (const float value : noise) seen.push_back(static_cast<float>(value * job.table.rows[0].input_scale));
  const std::int64_t sides = engine.regions(job.guard.mode);
  const auto along = [&](std::int64_t length) { return sides == 1 ? 1 : regions_along(length, sides, engine.bundle()->anywhere); };
  Tensors state;
  state.emplace("x", host_tensor(shape, noise));
  state.emplace("sample", host_tensor(batch_shape(engine, job.guided() ? 2 * batch.count : batch.count), seen));
  state.emplace("x0_prev", host_tensor(shape, std::vector<float>(noise.size(), 0.0f)));
  state.emplace("latched", shut_gates(batch.count * along(height) * along(width)));
  return state;
}

/// Keep what the next step takes of a step graph's outputs.
inline void advance(Tensors& state, Tensors& outputs, bool guided) {
  const std::array<std::pair<const char*, const char*>, 4> kept = {
      {{"x", "x_next"}, {"x0_prev", "x0"}, {"sample", guided ? "sample_twice" : "sample"}, {"latched", "latched_next"}}};
  for (const auto& [to, from] : kept) {
    const auto output = outputs.find(from);
    if (output != outputs.end()) state.at(to) = std::move(output->second);
  }
}

/// Draw a batch: its last latents, which are on the host, and what the guard did to each picture.
///
/// `on_step` is called after each step; it throws to stop.
inline Ort::Value denoise(const Engine& engine, const Job& job, const Batch& batch, const Tensors& inputs,
                          std::vector<Verdict>& verdicts, const std::function<void()>& on_step) {
  const Session &model = engine.component(engine.manifest().model), &step = engine.step(job.guard.mode);
  const Tensors& bank = engine.bank(job.guard);
  const Shape shape = batch_shape(engine, batch.count);
  const auto noise = [&](std::size_t i, std::uint32_t stream) {
    return host_tensor(shape, draw_noise(engine, batch, static_cast<std::uint32_t>(i + 1), stream));
  };
  Tensors state = first_state(engine, job, batch);
  const Ort::Value none = host_tensor(shape, std::vector<float>(state.at("x").GetTensorTypeAndShapeInfo().GetElementCount(), 0.0f));
  const std::size_t steps = job.table.rows.size();
  for (std::size_t i = 0; i < steps; ++i) {
    Ort::Value out = predict(model, state.at("sample"), job.table.rows[i].timestep, inputs);
    std::optional<Ort::Value> out_uncond, out_cond, z_guard, z_step;
    if (job.guided()) out_uncond = half(out, 0), out_cond = half(out, 1);
    const std::vector<float> entries = step_row(job, i);
    const Ort::Value row = host_tensor({static_cast<std::int64_t>(entries.size())}, entries);
    if (job.guard.draws_noise && job.guard.steps[i].looks) z_guard = noise(i, 1);
    if (job.table.rows[i].d != 0.0) z_step = noise(i, 0);
    std::map<std::string, const Ort::Value*> feed = {
        {"x", &state.at("x")}, {"x0_prev", &state.at("x0_prev")}, {"latched", &state.at("latched")}, {"row", &row},
        {"out_cond", out_cond ? &*out_cond : &out}, {"out_uncond", out_uncond ? &*out_uncond : &out},
        {"z_guard", z_guard ? &*z_guard : &none}, {"z_step", z_step ? &*z_step : &none}};
    for (const auto& [name, tensor] : bank) feed[name] = &tensor;
    std::vector<std::string> read = {"value", "weight", "nearest"};
    if (i + 1 == steps) read.emplace_back("x_next");
    Tensors outputs = step.run(feed, read);
    if (job.guard.steps[i].looks) add_step(job, i, outputs, verdicts);
    advance(state, outputs, job.guided());
    on_step();
  }
  return std::move(state.at("x"));
}

}  // namespace safegen::detail
