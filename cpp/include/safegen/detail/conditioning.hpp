// What the model takes besides noisy latents and timestep: text states, class labels and numbers, by its inputs.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine.hpp"

namespace safegen::detail {

/// What a picture shall show.
struct Subject {
  std::string prompt;
  std::optional<std::int64_t> label;
  bool zeros = false;  ///< text states of 0 in place of the prompt's
};

/// An input of the model, for one picture.
struct ModelInput {
  Shape shape;  ///< without the batch
  std::vector<double> values;
};
using ModelInputs = std::map<std::string, ModelInput>;

/// Windows of text that the longest of some prompts fills: they share an input, which has one length.
inline std::size_t count_windows(const Engine& engine, const std::vector<std::string>& prompts) {
  std::size_t most = 1;
  for (const auto& [encoder, tokenizer] : engine.tokenizers()) {
    if (!tokenizer.chunked()) continue;
    for (const std::string& prompt : prompts) most = std::max(most, tokenizer.encode(prompt).size());
  }
  return most;
}

/// A text encoder's outputs for one prompt: token states of all windows end to end, pooled states of the first.
inline void encode_prompt(const Engine& engine, const std::string& encoder, const std::string& prompt, std::size_t windows,
                          std::map<std::string, Rows>& states) {
  const PromptWindows& tokenizer = engine.tokenizers().at(encoder);
  std::vector<Ids> ids = tokenizer.encode(prompt);
  ids.resize(tokenizer.chunked() ? windows : 1, tokenizer.encode("")[0]);
  std::vector<double> flat;
  for (const Ids& one : ids) flat.insert(flat.end(), one.begin(), one.end());
  const Session& graph = engine.component(encoder);
  const Shape shape = {static_cast<std::int64_t>(ids.size()), static_cast<std::int64_t>(tokenizer.length())};
  const Ort::Value input = graph.tensor_for("input_ids", shape, flat);
  for (const auto& [name, tensor] : graph.run({{"input_ids", &input}}, graph.outputs())) {
    const Shape output = shape_of(tensor);
    std::vector<float> values = checked(engine, encoder, numbers(tensor));
    const auto width = static_cast<std::size_t>(output.back());
    const std::size_t rows = output.size() == 3 ? values.size() / width : 1;
    values.resize(rows * width);
    states[encoder + "." + name] = {rows, width, std::move(values)};
  }
}

inline const Rows& state_of(const std::map<std::string, Rows>& states, const std::string& name) {
  const auto state = states.find(name);
  if (state == states.end()) throw Error(Code::engine, "the model is told " + name + ", which no text encoder gives.");
  return state->second;
}

/// States of encoders side by side along the features, rows end to end along the tokens, padded to the widest.
inline Rows join_states(const std::vector<std::vector<std::string>>& rows, const std::map<std::string, Rows>& states) {
  Rows joined;
  for (const auto& names : rows) {
    std::size_t width = 0;
    for (const std::string& name : names) width += state_of(states, name).width;
    joined.width = std::max(joined.width, width);
  }
  for (const auto& names : rows) {
    const std::size_t count = state_of(states, names.at(0)).count;
    for (std::size_t token = 0; token < count; ++token) {
      const std::size_t start = joined.values.size();
      for (const std::string& name : names) {
        const Rows& part = state_of(states, name);
        if (part.count != count) throw Error(Code::engine, "text encoders give different numbers of tokens.");
        joined.values.insert(joined.values.end(), part[token], part[token] + part.width);
      }
      joined.values.resize(start + joined.width, 0.0f);
    }
    joined.count += count;
  }
  return joined;
}

/// The guidance scale as waves, for a model that was distilled with it.
inline std::vector<double> guidance_embedding(double scale, std::size_t width) {
  const std::size_t half = width / 2;
  std::vector<double> row(width, 0.0);
  for (std::size_t i = 0; i < half; ++i) {
    const double angle = 1000.0 * (scale - 1.0) * std::exp(-std::log(10000.0) * static_cast<double>(i) / static_cast<double>(half - 1));
    row[i] = std::sin(angle);
    row[half + i] = std::cos(angle);
  }
  return row;
}

/// All that the model may take for a picture of a subject.
inline ModelInputs model_inputs(const Engine& engine, const Subject& subject, double scale, std::size_t windows) {
  const Manifest& manifest = engine.manifest();
  const Conditioning& spec = manifest.conditioning;
  const auto& known = engine.component(manifest.model).inputs();
  std::map<std::string, Rows> states;
  for (const auto& [encoder, tokenizer] : engine.tokenizers()) encode_prompt(engine, encoder, subject.prompt, windows, states);
  ModelInputs inputs;
  for (const auto& [input, names] : spec.text) {
    const Rows joined = join_states(names, states);
    const auto graph_input = known.find(input);
    Shape shape = {static_cast<std::int64_t>(joined.count), static_cast<std::int64_t>(joined.width)};
    if (graph_input != known.end() && graph_input->second.shape.size() == 2) shape.erase(shape.begin());
    std::vector<double> values(joined.values.begin(), joined.values.end());
    if (subject.zeros) std::fill(values.begin(), values.end(), 0.0);
    inputs[input] = {shape, std::move(values)};
  }
  const auto width = static_cast<double>(manifest.defaults.width), height = static_cast<double>(manifest.defaults.height);
  if (spec.classes != 0) inputs["class_labels"] = {{}, {static_cast<double>(subject.label.value_or(spec.null_class.value_or(0)))}};
  inputs["time_ids"] = {{6}, {height, width, 0.0, 0.0, height, width}};
  inputs["guidance"] = {{}, {scale}};
  const auto embedded = known.find("timestep_cond");
  if (embedded != known.end()) {
    const std::int64_t size = embedded->second.shape.back();
    inputs["timestep_cond"] = {{size}, guidance_embedding(scale, static_cast<std::size_t>(size))};
  }
  return inputs;
}

/// Tensors for `count` pictures of each subject, end to end: those of the inputs that the model has.
inline Tensors batch_inputs(const Session& model, const std::vector<ModelInputs>& subjects, std::int64_t count) {
  Tensors tensors;
  for (const auto& [name, first] : subjects.at(0)) {
    if (model.inputs().count(name) == 0) continue;
    Shape shape = {static_cast<std::int64_t>(subjects.size()) * count};
    shape.insert(shape.end(), first.shape.begin(), first.shape.end());
    std::vector<double> values;
    for (const ModelInputs& subject : subjects)
      for (std::int64_t i = 0; i < count; ++i) values.insert(values.end(), subject.at(name).values.begin(), subject.at(name).values.end());
    tensors.emplace(name, model.tensor_for(name, shape, values));
  }
  return tensors;
}

}  // namespace safegen::detail
