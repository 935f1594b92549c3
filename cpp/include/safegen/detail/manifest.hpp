// engine.json: what an engine folder holds and how it draws, verified before anything of it is used.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "file.hpp"
#include "json.hpp"

namespace safegen::detail {

/// A graph compiled for one kind of GPU.
struct Compiled {
  std::string file, context, backend;  ///< context is empty where ONNX Runtime's provider does not read it
  std::vector<std::string> capabilities;
};

/// A graph: a component of the engine, or one step of the loop.
struct Graph {
  std::string file;
  std::optional<Compiled> compiled;
};

struct LatentSpace {
  std::string id;
  std::int64_t channels = 0, downscale = 1;
  double scaling_factor = 1.0, shift_factor = 0.0;
};

struct TextWindow {
  std::string file, pad_token;
  std::size_t max_length = 0;
  bool chunked = false;
};

/// What the model is told besides noisy latents and timestep.
struct Conditioning {
  std::map<std::string, std::vector<std::vector<std::string>>> text;
  std::int64_t classes = 0;
  std::optional<std::int64_t> null_class;
  std::string guidance;
  bool zero_negative = false;
};

struct Defaults {
  std::string solver;
  std::int64_t steps = 0, width = 0, height = 0;
  double guidance_scale = 1.0;
};

struct Manifest {
  std::string digest, name, target, model, schedule, bundle;
  std::map<std::string, Graph> components;
  std::map<std::string, Graph> steps;  ///< by guard
  std::map<std::string, TextWindow> tokenizers;
  Conditioning conditioning;
  LatentSpace latent_space;
  Defaults defaults;
  std::vector<std::string> guards;
  struct File {
    std::string sha256;
    std::uint64_t bytes = 0;
  };
  std::map<std::string, File> files;

  bool allows(const std::string& guard) const { return std::find(guards.begin(), guards.end(), guard) != guards.end(); }
  bool has(const std::string& component) const { return components.count(component) != 0; }
};

inline constexpr int manifest_schema = 6;

inline std::optional<Compiled> read_compiled(const Json& graph) {
  const auto found = graph.find("compiled");
  if (found == graph.end() || found->is_null()) return std::nullopt;
  only_keys(*found, {"file", "context", "backend", "version", "capabilities", "profile", "weights", "portable"});
  return Compiled{found->at("file"), value_or<std::string>(*found, "context", ""), found->at("backend"),
                  found->at("capabilities").get<std::vector<std::string>>()};
}

inline Conditioning read_conditioning(const Json& json) {
  only_keys(json, {"text", "classes", "null_class", "guidance", "zero_negative"});
  Conditioning found;
  found.text = value_or(json, "text", found.text);
  found.classes = value_or<std::int64_t>(json, "classes", 0);
  if (json.contains("null_class") && !json["null_class"].is_null()) found.null_class = json["null_class"];
  found.guidance = value_or<std::string>(json, "guidance", "classifier-free");
  found.zero_negative = value_or(json, "zero_negative", false);
  return found;
}

inline LatentSpace read_latent_space(const Json& json) {
  only_keys(json, {"id", "channels", "downscale", "scaling_factor", "shift_factor", "patch"});
  LatentSpace found{json.at("id"), json.at("channels"), json.at("downscale"), value_or(json, "scaling_factor", 1.0),
                    value_or(json, "shift_factor", 0.0)};
  if (found.channels < 1 || found.channels > 4096 || found.downscale < 1 || found.downscale > 256 ||
      found.scaling_factor == 0.0)
    throw std::invalid_argument("latent_space is out of range");
  return found;
}

inline Defaults read_defaults(const Json& json) {
  only_keys(json, {"solver", "steps", "guidance_scale", "width", "height"});
  Defaults found{json.at("solver"), json.at("steps"), json.at("width"), json.at("height"), json.at("guidance_scale")};
  if (found.width < 1 || found.height < 1 || found.width > 65536 || found.height > 65536 || found.steps < 1)
    throw std::invalid_argument("defaults are out of range");
  return found;
}

inline bool is_plain(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find_first_of("/\\:") == std::string::npos &&
         name.find('\0') == std::string::npos;
}

/// Every file that the manifest uses has a digest, and every name stays in the folder.
inline void check_names(const Manifest& manifest) {
  std::vector<std::string> used = {manifest.schedule};
  for (const auto* graphs : {&manifest.components, &manifest.steps}) {
    for (const auto& [name, graph] : *graphs) {
      used.push_back(graph.file);
      if (graph.compiled) used.push_back(graph.compiled->file);
      if (graph.compiled && !graph.compiled->context.empty()) used.push_back(graph.compiled->context);
    }
  }
  for (const auto& [name, window] : manifest.tokenizers) used.push_back(window.file);
  if (!manifest.bundle.empty()) used.push_back(manifest.bundle);
  for (const std::string& name : used)
    if (manifest.files.count(name) == 0) throw std::invalid_argument(name + " is used but has no digest");
  for (const auto& [name, file] : manifest.files)
    if (!is_plain(name)) throw std::invalid_argument("'" + name + "' is not a plain file name");
  if (!manifest.has(manifest.model)) throw std::invalid_argument("no component '" + manifest.model + "'");
}

/// Read the text of an engine.json whose seal holds.
///
/// Throws std::invalid_argument or nlohmann's exceptions where it is no manifest of this schema.
inline Manifest parse_manifest(std::string_view text) {
  const Json json = Json::parse(text);
  const Json version = json.is_object() ? json.value("schema_version", Json()) : Json();
  if (version != manifest_schema)
    throw std::invalid_argument("engine schema " + version.dump() + ", this safegen reads " +
                                std::to_string(manifest_schema));
  only_keys(json, {"schema_version", "digest", "name", "target", "precision", "fingerprint", "parts", "built_with",
                   "created", "components", "model", "conditioning", "latent_space", "tokenizers", "scheduler",
                   "defaults", "guards", "text_guards", "steps", "schedule", "bundle", "files"});
  Manifest found;
  found.digest = json.at("digest");
  found.name = json.at("name");
  found.target = json.at("target");
  found.model = json.at("model");
  found.schedule = json.at("schedule");
  found.bundle = value_or<std::string>(json, "bundle", "");
  found.guards = json.at("guards").get<std::vector<std::string>>();
  found.conditioning = read_conditioning(json.at("conditioning"));
  found.latent_space = read_latent_space(json.at("latent_space"));
  found.defaults = read_defaults(json.at("defaults"));
  for (const auto& [name, graph] : json.at("components").items()) {
    only_keys(graph, {"file", "inputs", "outputs", "parity", "precision", "optimized_for", "compiled"});
    found.components[name] = {graph.at("file"), read_compiled(graph)};
  }
  for (const auto& [guard, graph] : json.at("steps").items()) {
    only_keys(graph, {"file", "compiled"});
    found.steps[guard] = {graph.at("file"), read_compiled(graph)};
  }
  for (const auto& [encoder, window] : json.at("tokenizers").items()) {
    only_keys(window, {"file", "max_length", "pad_token", "chunked"});
    const auto length = window.at("max_length").get<std::uint64_t>();
    if (length < 1 || length > 65536) throw std::invalid_argument("max_length is out of range");
    found.tokenizers[encoder] = {window.at("file"), window.at("pad_token"), static_cast<std::size_t>(length),
                                 value_or(window, "chunked", false)};
  }
  for (const auto& [name, file] : json.at("files").items()) {
    only_keys(file, {"sha256", "bytes"});
    found.files[name] = {file.at("sha256"), file.at("bytes").get<std::uint64_t>()};
  }
  check_names(found);
  return found;
}

/// Read engine.json and verify its own digest, not yet the other files.
inline Manifest read_manifest(const fs::path& folder) {
  const fs::path path = folder / "engine.json";
  if (!fs::is_regular_file(path))
    throw Error(Code::engine, folder.string() + ": no engine.json here, so no engine, or one whose build did not finish."
                                                " Run 'safegen build-engine CHECKPOINT -o DIR'.");
  const MappedFile file(path, Code::engine);
  const Seal seal = read_seal(file.text());
  const auto shown = [](const std::string& digest) { return digest.empty() ? "missing" : digest.substr(0, 12); };
  if (!seal.holds())
    throw Error(Code::engine, path.string() + ": changed since the engine was built (digest " + shown(seal.found) +
                                  ", sealed as " + shown(seal.stated) + "). Copy the engine again, or build it anew.");
  try {
    return parse_manifest(file.text());
  } catch (const std::exception& error) {
    throw Error(Code::engine, path.string() + ": not an engine manifest (" + error.what() + ").");
  }
}

/// Compare every file of an engine with its size and SHA-256.
inline void verify_files(const fs::path& folder, const Manifest& manifest) {
  for (const auto& [name, expected] : manifest.files) {
    const fs::path path = folder / name;
    if (!fs::is_regular_file(path))
      throw Error(Code::engine, path.string() + ": missing from the engine. Copy the folder again.");
    const auto size = fs::file_size(path);
    if (size != expected.bytes)
      throw Error(Code::engine, path.string() + ": " + std::to_string(size) + " bytes, the engine was sealed with " +
                                    std::to_string(expected.bytes) + ". Copy the folder again.");
    const MappedFile file(path, Code::engine);
    if (sha256(file.text()) != expected.sha256)
      throw Error(Code::engine, path.string() + ": changed since the engine was built. Copy the folder again, or build it anew.");
  }
}

}  // namespace safegen::detail
