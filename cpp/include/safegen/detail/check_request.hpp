// Whether a request has a meaning for an engine. Python refuses the same, in the same words.
#pragma once

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

/// Throws Error where the request has no meaning.
inline void check_request(const Manifest& manifest, const Request& request) {
  require(request.count >= 1 && request.count <= 1024, "count goes from 1 to 1024.");
  require(request.seed <= std::numeric_limits<std::uint64_t>::max() - static_cast<std::uint64_t>(request.count - 1),
          "seed goes from 0 to 2^64 - 1.");
  check_subject(manifest, request);
  check_guidance(manifest, request);
}

}  // namespace safegen::detail
