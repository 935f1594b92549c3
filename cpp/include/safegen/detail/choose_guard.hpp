// Which guard a request is drawn with, and whether the engine and its bundle allow that.
#pragma once

#include <optional>
#include <string>

#include "engine.hpp"
#include "guard_settings.hpp"

namespace safegen::detail {

/// Throws Error where the engine was not built to draw with this guard.
inline void check_allowed(const Manifest& manifest, const std::string& mode) {
  if (manifest.allows(mode) && manifest.steps.count(mode) != 0) return;
  std::string allowed;
  for (const std::string& name : manifest.guards) allowed += (allowed.empty() ? "" : ", ") + name;
  throw Error(Code::guard, "this engine does not allow the guard '" + mode + "'; it allows " + allowed + "." +
                               (mode == "off" ? " It was not built with --allow-unguarded." : ""));
}

/// Throws Error where a bundle is for pictures of another size than this engine's.
inline void check_bundle_size(const Engine& engine, const Bundle& bundle) {
  if (bundle.latent_shape == engine.latent_shape()) return;
  const auto text = [](std::int64_t width, std::int64_t height) { return std::to_string(width) + "x" + std::to_string(height); };
  const std::string drawn = text(engine.manifest().defaults.width, engine.manifest().defaults.height);
  throw Error(Code::bundle, "the bundle '" + bundle.name + "' is for " + text(bundle.image_size[0], bundle.image_size[1]) +
                                " pictures, not " + drawn + ". Freeze one with 'safegen freeze --size " + drawn + "'.");
}

/// Settings of the guard of this name; the bundle's where it is left out, or names the bundle's own.
inline Json choose_guard(const Engine& engine, const std::optional<std::string>& name) {
  const Bundle* const bundle = engine.bundle();
  if (!name && !bundle) throw Error(Code::guard, "no bundle is open; to draw without a guard say so with guard 'off'.");
  const bool sealed = bundle && (!name || bundle->guard.at("mode") == *name);
  const Json settings = sealed ? bundle->guard : parse_guard(*name);
  const auto mode = value_or<std::string>(settings, "mode", "");
  check_allowed(engine.manifest(), mode);
  if (mode != "off" && bundle) check_bundle_size(engine, *bundle);
  if (mode == "ratio" && engine.manifest().steps.count(engine.step_name(mode)) == 0)
    throw Error(Code::guard, "this engine has no step graph '" + engine.step_name(mode) + "', which the bundle '" + bundle->name +
                                 "' needs. Build the engine again.");
  return settings;
}

}  // namespace safegen::detail
