// An open engine: its folder and bundle, verified, and the sessions of its graphs.
#pragma once

#include <array>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "bank_tensors.hpp"
#include "bundle.hpp"
#include "guard_step.hpp"
#include "manifest.hpp"
#include "prompt_windows.hpp"
#include "schedule.hpp"
#include "session.hpp"

namespace safegen::detail {

class Engine {
 public:
  Engine(const fs::path& engine, const fs::path& bundle, const DeviceOptions& options) : folder_(engine), manifest_(read_manifest(engine)) {
    verify_files(folder_, manifest_);
    open_bundle(!bundle.empty() ? bundle : manifest_.bundle.empty() ? fs::path() : folder_ / manifest_.bundle);
    open_schedule();
    for (const auto& [encoder, window] : manifest_.tokenizers) open_tokenizer(encoder, window);
    device_.emplace(env_, options);
  }

  const fs::path& folder() const { return folder_; }
  const Manifest& manifest() const { return manifest_; }
  const Bundle* bundle() const { return bundle_ ? &*bundle_ : nullptr; }
  const Schedule& schedule() const { return *schedule_; }
  /// By text encoder.
  const std::map<std::string, PromptWindows>& tokenizers() const { return tokenizers_; }

  /// (channels, height, width) of a picture's latents.
  std::array<std::int64_t, 3> latent_shape() const {
    const LatentSpace& space = manifest_.latent_space;
    return {space.channels, manifest_.defaults.height / space.downscale, manifest_.defaults.width / space.downscale};
  }

  /// Regions a side that a guard judges one by one: ratio's, where its bundle holds some.
  std::int64_t regions(const std::string& mode) const { return bundle_ && mode == "ratio" ? bundle_->regions : 1; }

  /// The name of a guard's step graph in the manifest.
  std::string step_name(const std::string& mode) const {
    const std::string side = std::to_string(regions(mode));
    return regions(mode) == 1 ? mode : mode + "-" + side + "x" + side + (bundle_->anywhere ? "-anywhere" : "");
  }

  /// The session of a component.
  const Session& component(const std::string& name) const { return session(manifest_.components.at(name)); }

  /// The session of a guard's step graph.
  const Session& step(const std::string& mode) const { return session(manifest_.steps.at(step_name(mode))); }

  /// The banks on the device as a guard's step graph takes them, made at the guard's first use.
  const Tensors& bank(const OpenGuard& guard) const {
    const Session& graph = step(guard.mode);
    const std::lock_guard<std::mutex> lock(opening_);
    Tensors& bank = banks_[guard.mode];
    if (bank.empty()) bank = bank_tensors(bundle(), latent_shape(), guard, graph, *device_);
    return bank;
  }

 private:
  void open_bundle(const fs::path& file) {
    if (!file.empty()) bundle_.emplace(read_bundle(file));
    if (!bundle_ && !manifest_.allows("off"))
      throw Error(Code::bundle, folder_.string() + ": this engine draws only with a negation bundle and carries none."
                                                   " Make one with 'safegen freeze IMAGES -e ENGINE -o FILE' and name it.");
    if (bundle_ && bundle_->latent_space != manifest_.latent_space.id)
      throw Error(Code::bundle, "the bundle '" + bundle_->name + "' was frozen through another autoencoder than this"
                                " engine's. Freeze it again with 'safegen freeze IMAGES -e ENGINE -o FILE'.");
  }

  void open_schedule() {
    const fs::path path = folder_ / manifest_.schedule;
    try {
      schedule_.emplace(parse_safetensors(MappedFile(path, Code::engine).text()));
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw Error(Code::engine, path.string() + ": not a schedule (" + error.what() + ").");
    }
  }

  void open_tokenizer(const std::string& encoder, const TextWindow& window) {
    try {
      tokenizers_.try_emplace(encoder, folder_, window);
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw Error(Code::engine, (folder_ / window.file).string() + ": not a tokenizer that this host reads (" + error.what() + ").");
    }
  }

  /// A graph's session, opened at its first use: compiled for this device where the engine has that.
  const Session& session(const Graph& graph) const {
    const bool ready = graph.compiled && !graph.compiled->context.empty() && graph.compiled->backend == device_->backend();
    const std::string& file = ready ? graph.compiled->context : graph.file;
    const std::lock_guard<std::mutex> lock(opening_);
    auto known = sessions_.find(file);
    if (known == sessions_.end()) known = sessions_.try_emplace(file, env_, folder_ / file, *device_).first;
    return known->second;
  }

  fs::path folder_;
  Manifest manifest_;
  std::optional<Bundle> bundle_;
  std::optional<Schedule> schedule_;
  std::map<std::string, PromptWindows> tokenizers_;
  Ort::Env env_{ORT_LOGGING_LEVEL_ERROR, "safegen"};
  std::optional<Device> device_;
  mutable std::mutex opening_;
  mutable std::map<std::string, Session> sessions_;  // a map: references to its sessions stay good
  mutable std::map<std::string, Tensors> banks_;     // likewise
};

/// The numbers that a component gave. Throws Error where one is NaN or infinite: Python alone has a stand-in.
inline std::vector<float> checked(const Engine& engine, const std::string& component, std::vector<float> values) {
  for (const float value : values) {
    if (!std::isfinite(value))
      throw Error(Code::engine, engine.folder().string() + ": " + component + " gives NaN or infinity. Rebuild with --precision fp32.");
  }
  return values;
}

}  // namespace safegen::detail
