// Prompt in, picture and verdict out; never without the guard that the engine demands.
#pragma once

#include <cmath>
#include <functional>
#include <limits>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "guard.hpp"
#include "manifest.hpp"
#include "noise.hpp"
#include "schedule.hpp"
#include "session.hpp"
#include "tokenizer.hpp"

namespace safegen {

/// What to draw. What is left out is the engine's or the bundle's own.
struct Request {
  std::optional<std::string> prompt;        ///< UTF-8
  std::optional<std::int64_t> class_label;  ///< for a model of classes
  std::string negative_prompt;
  std::uint64_t seed = 0;
  std::int64_t count = 1;  ///< picture i has seed + i; they are drawn together
  std::optional<std::int64_t> steps;
  std::optional<double> guidance_scale;
  std::optional<std::string> guard;  ///< ratio, official:nudity, and so on
};

/// What the guard saw and did at one step of one picture.
struct Watch {
  std::size_t step;
  double timestep, log_snr;
  float evidence, weight;  ///< the gate opens above 0; the strength is 0 where it stayed shut, below 0 where it leaned
  std::int64_t nearest;    ///< index of the reference that counts most
};

/// What the guard did to one picture.
struct Verdict {
  std::string guard;
  std::size_t steps = 0, opened = 0, leaned = 0;
  std::optional<float> strongest_evidence;
  std::optional<std::int64_t> nearest_reference;
  std::vector<Watch> trace;
};

struct Picture {
  std::int64_t width = 0, height = 0;
  std::vector<std::uint8_t> rgb;  ///< height x width x 3
  Verdict verdict;
};

/// Called after each step with how many are done and how many there are; false stops.
using Progress = std::function<bool(std::size_t done, std::size_t count)>;

/// An open, verified engine and its bundle. Any number of threads may draw with one at a time.
class Pipeline {
 public:
  /// Open and verify both.
  ///
  /// `bundle` is a .negation file; where it is empty, the engine's own. Throws Error where anything is
  /// missing, changed, unknown or does not fit.
  explicit Pipeline(const fs::path& engine, const fs::path& bundle = {}, const DeviceOptions& options = {})
      : folder_(engine), manifest_(read_manifest(engine)) {
    verify_files(folder_, manifest_);
    const fs::path file = !bundle.empty() ? bundle : manifest_.bundle.empty() ? fs::path() : folder_ / manifest_.bundle;
    if (!file.empty()) bundle_.emplace(read_bundle(file));
    if (!bundle_ && !manifest_.allows("off"))
      throw Error(Code::bundle, folder_.string() + ": this engine draws only with a negation bundle and carries none."
                                                   " Make one with 'safegen freeze IMAGES -e ENGINE -o FILE' and name it.");
    if (bundle_ && bundle_->latent_space != manifest_.latent_space.id)
      throw Error(Code::bundle, "the bundle '" + bundle_->name + "' was frozen through another autoencoder than this"
                                " engine's. Freeze it again with 'safegen freeze IMAGES -e ENGINE -o FILE'.");
    read_schedule();
    read_tokenizers();
    device_.emplace(env_, options);
  }

  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;

  const Manifest& manifest() const { return manifest_; }
  const Bundle* bundle() const { return bundle_ ? &*bundle_ : nullptr; }

  /// Draw the pictures of a request.
  std::vector<Picture> draw(const Request& request, const Progress& progress = {}) const {
    check(request);
    const Json settings = guard_settings(request);
    const Table table = schedule_->plan(request.steps.value_or(manifest_.defaults.steps));
    const OpenGuard guard = open_guard(settings, bundle(), table);
    const double scale = request.guidance_scale.value_or(manifest_.defaults.guidance_scale);
    const bool asks = request.prompt || request.class_label;
    const bool guided = asks && scale > 1.0 && manifest_.conditioning.guidance == "classifier-free";
    const std::size_t windows = count_windows(request);
    const Subject asked{request.prompt.value_or(""), request.class_label, false};
    const Subject nothing{request.negative_prompt, std::nullopt,
                          manifest_.conditioning.zero_negative && request.negative_prompt.empty()};
    std::vector<Subject> subjects(static_cast<std::size_t>(guided ? 2 * request.count : request.count), asked);
    if (guided) std::fill_n(subjects.begin(), request.count, nothing);
    const Job job{request, table, guard, guided ? scale : 1.0, guided, condition(subjects, scale, windows)};
    std::vector<Picture> pictures(static_cast<std::size_t>(request.count));
    const Ort::Value latents = denoise(job, progress, pictures);
    decode(latents, pictures);
    return pictures;
  }

 private:
  struct Job {
    const Request& request;
    const Table& table;
    const OpenGuard& guard;
    double guidance_scale;
    bool guided;  ///< the model runs once on what guidance leads away from and on what was asked, end to end
    Tensors told;
  };

  /// What one picture of a batch shall show.
  struct Subject {
    std::string prompt;
    std::optional<std::int64_t> label;
    bool zeros;  ///< text states of 0 in place of the prompt's
  };

  // ---- opening

  void read_schedule() {
    const fs::path path = folder_ / manifest_.schedule;
    try {
      schedule_.emplace(parse_safetensors(MappedFile(path, Code::engine).text()));
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw Error(Code::engine, path.string() + ": not a schedule (" + error.what() + ").");
    }
  }

  void read_tokenizers() {
    for (const auto& [encoder, window] : manifest_.tokenizers) {
      const fs::path path = folder_ / window.file;
      try {
        const MappedFile file(path, Code::engine);
        const auto pad = tokenizers_.emplace(encoder, Tokenizer(file.text())).first->second.id_of(window.pad_token);
        if (!pad) throw Error(Code::engine, path.string() + ": the padding token '" + window.pad_token + "' is not in the vocabulary.");
        pads_[encoder] = *pad;
      } catch (const Error&) {
        throw;
      } catch (const std::exception& error) {
        throw Error(Code::engine, path.string() + ": not a tokenizer that this host reads (" + error.what() + ").");
      }
    }
  }

  /// A graph's session, opened at its first use: compiled for this device where the engine has that.
  const Session& session(const Graph& graph) const {
    const bool ready = graph.compiled && !graph.compiled->context.empty() && graph.compiled->backend == device_->backend();
    const std::string& file = ready ? graph.compiled->context : graph.file;
    const std::lock_guard<std::mutex> lock(opening_);
    auto found = sessions_.find(file);
    if (found == sessions_.end()) found = sessions_.try_emplace(file, env_, folder_ / file, *device_).first;
    return found->second;
  }

  const Session& component(const std::string& name) const { return session(manifest_.components.at(name)); }

  // ---- what is asked

  void check(const Request& request) const {
    const Conditioning& spec = manifest_.conditioning;
    const std::string quoted = "the engine '" + manifest_.name + "'";
    if (request.count < 1 || request.count > 1024) throw Error(Code::usage, "count goes from 1 to 1024.");
    if (request.seed > std::numeric_limits<std::uint64_t>::max() - static_cast<std::uint64_t>(request.count - 1))
      throw Error(Code::usage, "seed goes from 0 to 2^64 - 1.");
    if (request.prompt && spec.text.empty())
      throw Error(Code::usage, quoted + " takes " + (spec.classes ? "a class label" : "no prompt") + "; its model knows no text.");
    if (request.class_label && spec.classes == 0)
      throw Error(Code::usage, quoted + " knows no classes; leave the class label out.");
    if (!spec.text.empty() && !request.prompt) throw Error(Code::usage, "nothing to draw: " + quoted + " needs a prompt.");
    if (spec.classes != 0 && !request.class_label && !spec.null_class)
      throw Error(Code::usage, quoted + " needs a class label, 0 to " + std::to_string(spec.classes - 1) + ".");
    if (request.class_label && (*request.class_label < 0 || *request.class_label >= spec.classes))
      throw Error(Code::usage, "class label is " + std::to_string(*request.class_label) + "; this model knows 0 to " +
                                   std::to_string(spec.classes - 1) + ".");
    if (request.guidance_scale) {
      const double scale = *request.guidance_scale;
      const std::string found = "guidance_scale is " + (std::isfinite(scale) ? Json(scale).dump() : "not finite") + "; ";
      if (!std::isfinite(scale) || scale < 0.0) throw Error(Code::usage, found + "it is 0 or more, 1 is none.");
      if (spec.guidance == "none" && scale != 1.0)
        throw Error(Code::usage, found + "this model takes none. Leave it out, or give 1.");
    }
    if (!request.negative_prompt.empty() && (spec.guidance != "classifier-free" || spec.text.empty()))
      throw Error(Code::usage, "negative_prompt: this model is not guided by text, so it takes none.");
    const double scale = request.guidance_scale.value_or(manifest_.defaults.guidance_scale);
    if (!request.negative_prompt.empty() && scale <= 1.0)
      throw Error(Code::usage, "negative_prompt: guidance_scale is " + Json(scale).dump() +
                                   ", which leaves it out; give one above 1.");
  }

  Json guard_settings(const Request& request) const {
    if (!request.guard && !bundle_)
      throw Error(Code::guard, "no bundle is open; to draw without a guard say so with guard 'off'.");
    const bool own = bundle_ && (!request.guard || bundle_->guard.at("mode") == *request.guard);
    Json settings = own ? bundle_->guard : parse_guard(*request.guard);
    const auto mode = value_or<std::string>(settings, "mode", "");
    if (!manifest_.allows(mode) || manifest_.steps.count(mode) == 0) {
      std::string allowed;
      for (const std::string& name : manifest_.guards) allowed += (allowed.empty() ? "" : ", ") + name;
      throw Error(Code::guard, "this engine does not allow the guard '" + mode + "'; it allows " + allowed + "." +
                                   (mode == "off" ? " It was not built with --allow-unguarded." : ""));
    }
    if (mode != "off" && bundle_ && bundle_->latent_shape != latent_shape()) {
      const auto text = [](std::int64_t width, std::int64_t height) { return std::to_string(width) + "x" + std::to_string(height); };
      const std::string drawn = text(manifest_.defaults.width, manifest_.defaults.height);
      throw Error(Code::bundle, "the bundle '" + bundle_->name + "' is for " + text(bundle_->image_size[0], bundle_->image_size[1]) +
                                    " pictures, not " + drawn + ". Freeze one with 'safegen freeze --size " + drawn + "'.");
    }
    if (mode == "ratio" && manifest_.steps.count(step_name(mode)) == 0)
      throw Error(Code::guard, "this engine has no step graph '" + step_name(mode) + "', which the bundle '" + bundle_->name +
                                   "' needs. Build the engine again.");
    return settings;
  }

  /// Regions a side that a guard judges one by one: ratio's, where its bundle holds some.
  std::int64_t regions_of(const std::string& mode) const { return bundle_ && mode == "ratio" ? bundle_->regions : 1; }

  std::string step_name(const std::string& mode) const {
    const std::int64_t regions = regions_of(mode);
    const std::string side = std::to_string(regions);
    return regions == 1 ? mode : mode + "-" + side + "x" + side + (bundle_->anywhere ? "-anywhere" : "");
  }

  std::array<std::int64_t, 3> latent_shape() const {
    const LatentSpace& space = manifest_.latent_space;
    return {space.channels, manifest_.defaults.height / space.downscale, manifest_.defaults.width / space.downscale};
  }

  // ---- conditioning

  std::size_t count_windows(const Request& request) const {
    std::size_t most = 1;
    for (const auto& [encoder, window] : manifest_.tokenizers) {
      if (!window.chunked) continue;
      for (const std::string& prompt : {request.prompt.value_or(""), request.negative_prompt})
        most = std::max(most, tokenizers_.at(encoder).encode(prompt, window.max_length, pads_.at(encoder)).size());
    }
    return most;
  }

  /// A text encoder's outputs for one prompt: token states of all windows end to end, pooled states of the first.
  void encode(const std::string& encoder, const std::string& prompt, std::size_t windows, std::map<std::string, Rows>& states) const {
    const TextWindow& window = manifest_.tokenizers.at(encoder);
    const Tokenizer& tokenizer = tokenizers_.at(encoder);
    std::vector<Ids> ids = tokenizer.encode(prompt, window.max_length, pads_.at(encoder));
    ids.resize(window.chunked ? windows : 1, tokenizer.encode("", window.max_length, pads_.at(encoder))[0]);
    std::vector<double> flat;
    for (const Ids& one : ids) flat.insert(flat.end(), one.begin(), one.end());
    const Session& graph = component(encoder);
    const Shape shape = {static_cast<std::int64_t>(ids.size()), static_cast<std::int64_t>(window.max_length)};
    const Ort::Value input = graph.tensor_for("input_ids", shape, flat);
    for (const auto& [name, tensor] : graph.run({{"input_ids", &input}}, graph.outputs())) {
      const Shape found = shape_of(tensor);
      std::vector<float> values = finite(encoder, numbers(tensor));
      const auto width = static_cast<std::size_t>(found.back());
      const std::size_t rows = found.size() == 3 ? values.size() / width : 1;
      values.resize(rows * width);
      states[encoder + "." + name] = {rows, width, std::move(values)};
    }
  }

  /// One row of a model's input, for one picture.
  struct Told {
    Shape shape;  ///< without the batch
    std::vector<double> values;
  };

  /// Everything that the model is told about pictures of some subjects, by the names of its inputs.
  Tensors condition(const std::vector<Subject>& subjects, double scale, std::size_t windows) const {
    const Session& model = component(manifest_.model);
    std::map<std::string, std::vector<double>> rows;
    std::map<std::string, Shape> shapes;
    const std::map<std::string, Told>* last = nullptr;
    std::map<std::string, Told> told;
    for (std::size_t i = 0; i < subjects.size(); ++i) {
      const Subject& subject = subjects[i];
      const bool again = last && subject.prompt == subjects[i - 1].prompt && subject.label == subjects[i - 1].label &&
                         subject.zeros == subjects[i - 1].zeros;
      if (!again) told = tell(subject, scale, windows);
      last = &told;
      for (const auto& [input, one] : told) {
        rows[input].insert(rows[input].end(), one.values.begin(), one.values.end());
        shapes[input] = one.shape;
      }
    }
    Tensors found;
    for (const auto& [input, values] : rows) {
      if (model.inputs().count(input) == 0) continue;
      Shape shape = {static_cast<std::int64_t>(subjects.size())};
      shape.insert(shape.end(), shapes[input].begin(), shapes[input].end());
      found.emplace(input, model.tensor_for(input, shape, values));
    }
    return found;
  }

  std::map<std::string, Told> tell(const Subject& subject, double scale, std::size_t windows) const {
    const Conditioning& spec = manifest_.conditioning;
    const auto& inputs = component(manifest_.model).inputs();
    std::map<std::string, Rows> states;
    for (const auto& [encoder, window] : manifest_.tokenizers) encode(encoder, subject.prompt, windows, states);
    std::map<std::string, Told> told;
    for (const auto& [input, names] : spec.text) {
      const Rows joined = join(names, states);
      const auto known = inputs.find(input);
      Shape shape = {static_cast<std::int64_t>(joined.count), static_cast<std::int64_t>(joined.width)};
      if (known != inputs.end() && known->second.shape.size() == 2) shape.erase(shape.begin());
      std::vector<double> values(joined.values.begin(), joined.values.end());
      if (subject.zeros) std::fill(values.begin(), values.end(), 0.0);
      told[input] = {shape, std::move(values)};
    }
    const auto width = static_cast<double>(manifest_.defaults.width), height = static_cast<double>(manifest_.defaults.height);
    if (spec.classes != 0) told["class_labels"] = {{}, {static_cast<double>(subject.label.value_or(spec.null_class.value_or(0)))}};
    told["time_ids"] = {{6}, {height, width, 0.0, 0.0, height, width}};
    told["guidance"] = {{}, {scale}};
    const auto embedded = inputs.find("timestep_cond");
    if (embedded != inputs.end()) {
      const std::int64_t size = embedded->second.shape.back();
      told["timestep_cond"] = {{size}, guidance_embedding(scale, static_cast<std::size_t>(size))};
    }
    return told;
  }

  /// States of encoders side by side along the features, rows end to end along the tokens, padded to the widest.
  static Rows join(const std::vector<std::vector<std::string>>& rows, const std::map<std::string, Rows>& states) {
    Rows joined;
    for (const auto& names : rows) {
      std::size_t width = 0;
      for (const std::string& name : names) width += state(states, name).width;
      joined.width = std::max(joined.width, width);
    }
    for (const auto& names : rows) {
      const std::size_t count = state(states, names.at(0)).count;
      for (std::size_t token = 0; token < count; ++token) {
        const std::size_t start = joined.values.size();
        for (const std::string& name : names) {
          const Rows& part = state(states, name);
          if (part.count != count) throw Error(Code::engine, "text encoders give different numbers of tokens.");
          joined.values.insert(joined.values.end(), part[token], part[token] + part.width);
        }
        joined.values.resize(start + joined.width, 0.0f);
      }
      joined.count += count;
    }
    return joined;
  }

  static const Rows& state(const std::map<std::string, Rows>& states, const std::string& name) {
    const auto found = states.find(name);
    if (found == states.end()) throw Error(Code::engine, "the model is told " + name + ", which no text encoder gives.");
    return found->second;
  }

  static std::vector<double> guidance_embedding(double scale, std::size_t width) {
    const std::size_t half = width / 2;
    std::vector<double> row(width, 0.0);
    for (std::size_t i = 0; i < half; ++i) {
      const double angle = 1000.0 * (scale - 1.0) * std::exp(-std::log(10000.0) * static_cast<double>(i) / static_cast<double>(half - 1));
      row[i] = std::sin(angle);
      row[half + i] = std::cos(angle);
    }
    return row;
  }

  // ---- the loop

  std::vector<float> draw_noise(const Request& request, std::uint32_t draw, std::uint32_t stream) const {
    const auto [channels, height, width] = latent_shape();
    const auto size = static_cast<std::size_t>(channels * height * width);
    std::vector<float> noise;
    for (std::int64_t i = 0; i < request.count; ++i) {
      const std::vector<float> one = normal(request.seed + static_cast<std::uint64_t>(i), draw, size, stream);
      noise.insert(noise.end(), one.begin(), one.end());
    }
    return noise;
  }

  /// The model's output for what it sees at a timestep.
  Ort::Value predict(const Session& model, const Ort::Value& sample, double timestep, const Tensors& told) const {
    const bool each = !model.inputs().at("timestep").shape.empty();
    const std::int64_t count = shape_of(sample)[0];
    const Ort::Value time = model.tensor_for("timestep", each ? Shape{count} : Shape{},
                                             std::vector<double>(each ? static_cast<std::size_t>(count) : 1, timestep));
    std::map<std::string, const Ort::Value*> feed = {{"sample", &sample}, {"timestep", &time}};
    for (const auto& [name, tensor] : told) feed[name] = &tensor;
    return std::move(model.run(feed).begin()->second);
  }

  /// The first or the second half of a batch, in the same memory.
  static Ort::Value half(Ort::Value& whole, int which) {
    Shape shape = shape_of(whole);
    shape[0] /= 2;
    const std::size_t size = whole.GetTensorTypeAndShapeInfo().GetElementCount() / 2;
    float* start = whole.GetTensorMutableData<float>() + (which ? size : 0);
    return Ort::Value::CreateTensor<float>(whole.GetTensorMemoryInfo(), start, size, shape.data(), shape.size());
  }

  /// The vector `row` of a step graph: docs/formats.md names its entries.
  static std::vector<float> row_of(const Job& job, std::size_t i, double tau) {
    const Row& row = job.table.rows[i];
    const GuardStep& step = job.guard.steps[i];
    const double kernel = row.sigma != 0.0 ? row.alpha / (tau * row.sigma * row.sigma) : 0.0;
    const double next = i + 1 < job.table.rows.size() ? job.table.rows[i + 1].input_scale : 1.0;
    std::vector<double> values = {job.guidance_scale, row.x0_x, row.x0_out, job.table.clip, row.a, row.b, row.c, row.d, next,
                                  step.looks ? 1.0 : 0.0, row.alpha, row.sigma, kernel, 0.5 * row.alpha * kernel,
                                  2.0 * row.sigma * row.sigma, row.unsettled()};
    values.insert(values.end(), step.numbers.begin(), step.numbers.end());
    return {values.begin(), values.end()};
  }

  /// From the first noise to the last latents, which are on the host.
  Ort::Value denoise(const Job& job, const Progress& progress, std::vector<Picture>& pictures) const {
    const Session& model = component(manifest_.model);
    const Session& step = session(manifest_.steps.at(step_name(job.guard.mode)));
    const auto [channels, height, width] = latent_shape();
    const std::int64_t count = job.request.count;
    const Shape shape = {count, channels, height, width};
    const std::size_t steps = job.table.rows.size();
    std::vector<float> noise = draw_noise(job.request, 0, 0), seen;
    for (float& value : noise) value = static_cast<float>(value * job.table.init_noise_sigma);
    for (int half = 0; half < (job.guided ? 2 : 1); ++half)
      for (const float value : noise) seen.push_back(static_cast<float>(value * job.table.rows[0].input_scale));
    const std::vector<float> zeros(noise.size(), 0.0f);
    Tensors state;
    state.emplace("x", host_tensor(shape, noise));
    state.emplace("sample", host_tensor({job.guided ? 2 * count : count, channels, height, width}, seen));
    state.emplace("x0_prev", host_tensor(shape, zeros));
    const std::int64_t sides = regions_of(job.guard.mode);
    const auto regions = [&](std::int64_t length) { return sides == 1 ? 1 : detail::regions_along(length, sides, bundle_->anywhere); };
    state.emplace("latched", closed(count * regions(height) * regions(width)));
    const Ort::Value none = host_tensor(shape, zeros);
    const Tensors& bank = bank_of(job.guard, step);
    for (Picture& picture : pictures) picture.verdict.guard = job.guard.mode, picture.verdict.steps = steps;
    for (std::size_t i = 0; i < steps; ++i) {
      const double timestep = job.table.rows[i].timestep;
      Ort::Value out = predict(model, state.at("sample"), timestep, job.told);
      std::optional<Ort::Value> out_uncond, out_cond;
      if (job.guided) out_uncond = half(out, 0), out_cond = half(out, 1);
      const std::vector<float> numbers = row_of(job, i, bundle_ ? bundle_->tau : 1.0);
      const Ort::Value row = host_tensor({static_cast<std::int64_t>(numbers.size())}, numbers);
      std::optional<Ort::Value> z_guard, z_step;
      const auto draw = static_cast<std::uint32_t>(i + 1);
      if (job.guard.draws_noise && job.guard.steps[i].looks) z_guard = host_tensor(shape, draw_noise(job.request, draw, 1));
      if (job.table.rows[i].d != 0.0) z_step = host_tensor(shape, draw_noise(job.request, draw, 0));
      std::map<std::string, const Ort::Value*> feed = {
          {"x", &state.at("x")}, {"x0_prev", &state.at("x0_prev")}, {"latched", &state.at("latched")}, {"row", &row},
          {"out_cond", out_cond ? &*out_cond : &out}, {"out_uncond", out_uncond ? &*out_uncond : &out},
          {"z_guard", z_guard ? &*z_guard : &none}, {"z_step", z_step ? &*z_step : &none}};
      for (const auto& [name, tensor] : bank) feed[name] = &tensor;
      std::vector<std::string> read = {"value", "weight", "nearest"};
      if (i + 1 == steps) read.emplace_back("x_next");
      Tensors next = step.run(feed, read);
      if (job.guard.steps[i].looks) watch(job, i, next, pictures);
      for (const auto& [to, from] : {std::pair("x", "x_next"), {"x0_prev", "x0"}, {"sample", job.guided ? "sample_twice" : "sample"}, {"latched", "latched_next"}}) {
        const auto found = next.find(from);
        if (found != next.end()) state.at(to) = std::move(found->second);
      }
      if (progress && !progress(i + 1, steps)) throw Error(Code::cancelled, "stopped by the caller.");
    }
    return std::move(state.at("x"));
  }

  static Ort::Value closed(std::int64_t count) {
    Ort::AllocatorWithDefaultOptions allocator;
    Ort::Value tensor = Ort::Value::CreateTensor<bool>(allocator, &count, 1);
    std::fill_n(tensor.GetTensorMutableData<bool>(), count, false);
    return tensor;
  }

  static void watch(const Job& job, std::size_t i, const Tensors& found, std::vector<Picture>& pictures) {
    const Row& row = job.table.rows[i];
    for (std::size_t p = 0; p < pictures.size(); ++p) {
      const Watch seen{i, row.timestep, row.log_snr(), found.at("value").GetTensorData<float>()[p],
                       found.at("weight").GetTensorData<float>()[p], found.at("nearest").GetTensorData<std::int64_t>()[p]};
      Verdict& verdict = pictures[p].verdict;
      verdict.opened += seen.weight > 0.0f;
      verdict.leaned += seen.weight < 0.0f;
      if (!verdict.strongest_evidence || seen.evidence > *verdict.strongest_evidence)
        verdict.strongest_evidence = seen.evidence, verdict.nearest_reference = seen.nearest;
      verdict.trace.push_back(seen);
    }
  }

  /// The banks on the device as the guard's step graph takes them, made at the guard's first use.
  const Tensors& bank_of(const OpenGuard& guard, const Session& step) const {
    const std::lock_guard<std::mutex> lock(opening_);
    Tensors& bank = banks_[guard.mode];
    if (!bank.empty()) return bank;
    const auto add = [&](const std::string& name, const Shape& shape, const std::vector<float>& values) {
      if (step.inputs().count(name) != 0) bank.emplace(name, device_->resident(host_tensor(shape, values)));
    };
    const auto rows_of = [&](const std::string& name, const Rows& rows) {
      const auto count = static_cast<std::int64_t>(rows.count);
      add(name, {count, static_cast<std::int64_t>(rows.width)}, rows.values);
      add(name + "_sq", {count}, detail::squares(rows));
    };
    if (!bundle_) {  // only "off" comes here; its graph has the inputs all the same
      const auto [channels, height, width] = latent_shape();
      const auto size = static_cast<std::size_t>(channels * height * width);
      const Rows nothing{1, size, std::vector<float>(size, 0.0f)};
      rows_of("refs", nothing);
      rows_of("benign", nothing);
      add("aims", {1}, {0.0f});
      return bank;
    }
    rows_of("refs", guard.unit_pixels ? detail::unit_pixels(bundle_->negation, static_cast<std::size_t>(bundle_->latent_shape[0]))
                                      : bundle_->negation);
    rows_of("benign", bundle_->benign);
    if (step.inputs().count("axes") != 0) {
      const Rows& axes = bundle_->axes;
      add("axes", {static_cast<std::int64_t>(axes.count), static_cast<std::int64_t>(axes.width)}, axes.values);
      rows_of("refs_along", detail::along(bundle_->negation, axes));
      rows_of("benign_along", detail::along(bundle_->benign, axes));
    }
    std::vector<float> aims(bundle_->benign.count, -std::numeric_limits<float>::infinity());
    std::fill_n(aims.begin(), bundle_->target_count, 0.0f);
    add("aims", {static_cast<std::int64_t>(aims.size())}, aims);
    return bank;
  }

  // ---- decoding

  std::vector<float> finite(const std::string& what, std::vector<float> values) const {
    for (const float value : values) {
      if (!std::isfinite(value))
        throw Error(Code::engine, folder_.string() + ": " + what + " gives NaN or infinity. Rebuild with --precision fp32.");
    }
    return values;
  }

  void decode(const Ort::Value& latents, std::vector<Picture>& pictures) const {
    const LatentSpace& space = manifest_.latent_space;
    std::vector<float> sample = finite(manifest_.model, numbers(latents));
    Shape shape = shape_of(latents);
    if (manifest_.has("vae_decoder")) {
      const auto scaling = static_cast<float>(space.scaling_factor), shift = static_cast<float>(space.shift_factor);
      for (float& value : sample) value = value / scaling + shift;
      const Session& decoder = component("vae_decoder");
      const std::size_t size = sample.size() / pictures.size();
      std::vector<float> decoded;
      // one at a time: an autoencoder's activations are the largest of all
      for (std::size_t p = 0; p < pictures.size(); ++p) {
        const auto start = sample.begin() + static_cast<std::ptrdiff_t>(p * size);
        const Ort::Value one = host_tensor<float>({1, shape[1], shape[2], shape[3]}, {start, start + static_cast<std::ptrdiff_t>(size)});
        const Tensors found = decoder.run({{"latent_sample", &one}}, decoder.outputs());
        const std::vector<float> values = finite("vae_decoder", numbers(found.begin()->second));
        decoded.insert(decoded.end(), values.begin(), values.end());
        const Shape decoded_shape = shape_of(found.begin()->second);
        if (p + 1 == pictures.size()) shape = decoded_shape;
      }
      sample = std::move(decoded);
    }
    const auto channels = static_cast<std::size_t>(shape[1]), pixels = static_cast<std::size_t>(shape[2] * shape[3]);
    if (channels != 1 && channels != 3) throw Error(Code::engine, "a picture has neither one channel nor three.");
    for (std::size_t p = 0; p < pictures.size(); ++p) {
      Picture& picture = pictures[p];
      picture.height = shape[2], picture.width = shape[3];
      picture.rgb.resize(3 * pixels);
      for (std::size_t i = 0; i < 3 * pixels; ++i) {
        const float value = sample[(p * channels + (channels == 3 ? i % 3 : 0)) * pixels + i / 3];
        picture.rgb[i] = static_cast<std::uint8_t>(std::nearbyint(std::clamp(value / 2.0f + 0.5f, 0.0f, 1.0f) * 255.0f));
      }
    }
  }

  fs::path folder_;
  Manifest manifest_;
  std::optional<Bundle> bundle_;
  std::optional<Schedule> schedule_;
  std::map<std::string, Tokenizer> tokenizers_;
  std::map<std::string, std::int64_t> pads_;
  Ort::Env env_{ORT_LOGGING_LEVEL_ERROR, "safegen"};
  std::optional<Device> device_;
  mutable std::mutex opening_;
  mutable std::map<std::string, Session> sessions_;  // a map: references to its sessions stay good
  mutable std::map<std::string, Tensors> banks_;
};

}  // namespace safegen
