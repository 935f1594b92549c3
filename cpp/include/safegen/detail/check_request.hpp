// Whether a request has a meaning for an engine, in Python's words, and whether this host can draw it.
#pragma once

#include <array>
#include <cmath>
#include <limits>
#include <string>

#include "json.hpp"
#include "manifest.hpp"

namespace safegen::detail {

inline void require(bool holds, const std::string& line) {
  if (!holds) throw Error(Code::usage, line);
}

inline void check_subject(const Manifest& manifest, const Request& request) {
  const Conditioning& spec = manifest.conditioning;
  const std::string engine = "the engine '" + manifest.name + "'", labels = "0 to " + std::to_string(spec.classes - 1) + ".";
  require(!request.prompt || !spec.text.empty(),
          engine + " takes " + (spec.classes ? "a class label" : "no prompt") + "; its model knows no text.");
  require(!request.class_label || spec.classes != 0, engine + " knows no classes; leave the class label out.");
  require(request.prompt || spec.text.empty(), "nothing to draw: " + engine + " needs a prompt.");
  require(request.class_label || spec.classes == 0 || spec.null_class, engine + " needs a class label, " + labels);
  if (request.class_label)
    require(*request.class_label >= 0 && *request.class_label < spec.classes,
            "class label is " + std::to_string(*request.class_label) + "; this model knows " + labels);
}

inline void check_guidance(const Manifest& manifest, const Request& request) {
  const Conditioning& spec = manifest.conditioning;
  const double scale = request.guidance_scale.value_or(manifest.defaults.guidance_scale);
  if (request.guidance_scale) {
    const std::string value = "guidance_scale is " + (std::isfinite(scale) ? Json(scale).dump() : "not finite") + "; ";
    require(std::isfinite(scale) && scale >= 0.0, value + "it is 0 or more, 1 is none.");
    require(spec.guidance != "none" || scale == 1.0, value + "this model takes none. Leave it out, or give 1.");
  }
  if (request.negative_prompt.empty()) return;
  require(spec.guidance == "classifier-free" && !spec.text.empty(), "negative_prompt: this model is not guided by text, so it takes none.");
  require(scale > 1.0, "negative_prompt: guidance_scale is " + Json(scale).dump() + ", which leaves it out; give one above 1.");
}

/// n, seed and batch_size.
inline void check_counts(const Request& request) {
  require(request.n >= 1, "n is " + std::to_string(request.n) + "; it is 1 or more.");
  require(request.batch_size >= 1 && request.batch_size <= 1024,
          "batch_size is " + std::to_string(request.batch_size) + "; it goes from 1 to 1024.");
  require(request.seed <= std::numeric_limits<std::uint64_t>::max() - static_cast<std::uint64_t>(request.n - 1),
          "seed goes from 0 to 2^64 - 1.");
}

/// What Python draws and this host does not: the step graphs and the schedule are of one solver and one size.
inline void check_supported(const Manifest& manifest, const Request& request) {
  const Defaults& fixed = manifest.defaults;
  const auto text = [](std::int64_t width, std::int64_t height) { return std::to_string(width) + "x" + std::to_string(height); };
  require(!request.solver || *request.solver == fixed.solver,
          "solver is '" + request.solver.value_or("") + "'; the C++ host draws with this engine's, " + fixed.solver +
              ", alone. Use the Python package for another.");
  const auto [width, height] = request.size.value_or(std::array<std::int64_t, 2>{fixed.width, fixed.height});
  require(width == fixed.width && height == fixed.height,
          "size is " + text(width, height) + "; the C++ host draws at this engine's, " + text(fixed.width, fixed.height) +
              ", alone. Use the Python package for another.");
  const std::string instead = ": the C++ host does not take it. Use the Python package, or leave it out.";
  require(!request.text_guard, "text_guard" + instead);
  require(request.concepts.empty(), "concepts" + instead);
  require(!request.init, "init" + instead);
  require(!request.strength, "strength" + instead);
  require(!request.mask, "mask" + instead);
}

/// Throws Error where the request has no meaning, or this host cannot draw it.
inline void check_request(const Manifest& manifest, const Request& request) {
  check_counts(request);
  check_subject(manifest, request);
  check_guidance(manifest, request);
  check_supported(manifest, request);
}

}  // namespace safegen::detail
