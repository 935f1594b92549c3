// Which guard, with which numbers: values that a bundle or a caller names, as safegen.guard_settings has them.
#pragma once

#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "../pipeline.hpp"
#include "json.hpp"

namespace safegen::detail {

/// What a setting may be.
enum class Setting { number, share, positive, truth, number_or_null, whole_or_null };

struct Guard {
  std::string mode;
  std::map<std::string, Setting> settings;
};

inline const std::vector<Guard>& guards() {
  using S = Setting;
  static const std::vector<Guard> known = {
      {"ratio", {{"false_positive_rate", S::share}, {"repulsion", S::number}}},
      {"theorem", {{"eta", S::positive}, {"w_max", S::positive}}},
      {"paper", {{"quantile", S::share}, {"eta", S::positive}, {"w_max", S::positive}, {"t_min", S::number}}},
      {"official",
       {{"bandwidth", S::positive},
        {"scale", S::number},
        {"gate", S::truth},
        {"margin", S::number},
        {"t_min", S::number},
        {"first_steps", S::whole_or_null},
        {"unit_x0", S::truth}}},
      {"spell", {{"radius", S::number_or_null}, {"overcompensation", S::number}}},
      {"sgf", {{"step", S::number}, {"gamma", S::number_or_null}}},
      {"bank-mean", {{"scale", S::number}}},
      {"renoise-only", {{"t_min", S::number}}},
      {"off", {}}};
  return known;
}

inline const Guard* find_guard(const std::string& mode) {
  for (const Guard& guard : guards())
    if (guard.mode == mode) return &guard;
  return nullptr;
}

/// What a setting is to be, or nothing where the value is just that.
inline const char* wanted(Setting setting, const Json& value) {
  switch (setting) {
    case Setting::truth: return value.is_boolean() ? "" : "true or false";
    case Setting::share: return value.is_number() && value >= 0.0 && value <= 1.0 ? "" : "a share, 0 to 1";
    case Setting::positive: return value.is_number() && value > 0.0 ? "" : "above 0";
    case Setting::whole_or_null: return value.is_null() || value.is_number_integer() ? "" : "a whole number or null";
    case Setting::number_or_null: return value.is_null() || value.is_number() ? "" : "a number or null";
    default: return value.is_number() ? "" : "a number";
  }
}

/// Refuse settings that this version does not know: left out, they would guard less than was measured.
///
/// Throws std::invalid_argument.
inline void check_settings(const Json& settings) {
  const auto mode = settings.is_object() ? value_or<std::string>(settings, "mode", "") : "";
  const Guard* const guard = find_guard(mode);
  if (guard == nullptr) throw std::invalid_argument("this safegen does not know the guard '" + mode + "'");
  for (const auto& [name, value] : settings.items()) {
    if (name == "mode") continue;
    const auto setting = guard->settings.find(name);
    if (setting == guard->settings.end())
      throw std::invalid_argument("this safegen does not know the setting '" + name + "' of the guard " + mode);
    const std::string it_is = wanted(setting->second, value);
    if (!it_is.empty()) throw std::invalid_argument("the guard " + mode + " has " + name + " " + value.dump() + "; it is " + it_is);
  }
}

/// ratio, official, official:nudity and so on to settings.
inline Json parse_guard(const std::string& text) {
  static const std::map<std::string, Json> presets = {
      {"nudity", Json::object()},
      {"inappropriate", {{"bandwidth", 1.0}, {"scale", 0.03}, {"gate", false}, {"t_min", 800.0}}},
      {"sd3-nudity", {{"bandwidth", 1.0}, {"scale", 0.03}, {"gate", false}, {"unit_x0", true}}},
      {"memorized-person", {{"bandwidth", 13.15}, {"scale", 0.69}, {"gate", false}, {"first_steps", 12}}},
      {"memorized-artwork", {{"bandwidth", 13.15}, {"scale", 0.9}, {"gate", false}, {"first_steps", 12}}}};
  const std::size_t colon = text.find(':');
  const std::string mode = text.substr(0, colon);
  if (find_guard(mode) == nullptr) {
    std::string known;
    for (const Guard& guard : guards()) known += (known.empty() ? "" : ", ") + guard.mode;
    throw Error(Code::usage, "guard is '" + mode + "'; known are " + known + ".");
  }
  Json settings = Json::object();
  if (colon != std::string::npos) {
    const auto preset = presets.find(text.substr(colon + 1));
    if (mode != "official" || preset == presets.end())
      throw Error(Code::usage, "guard is '" + text + "'; presets are official:nudity, official:inappropriate,"
                               " official:sd3-nudity, official:memorized-person, official:memorized-artwork.");
    settings = preset->second;
  }
  settings["mode"] = mode;
  return settings;
}

}  // namespace safegen::detail
