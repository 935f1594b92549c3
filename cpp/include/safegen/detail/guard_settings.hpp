// Which guard, with which numbers: values that a bundle or a caller names, as safegen.guard.settings has them.
#pragma once

#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "../pipeline.hpp"
#include "json.hpp"

namespace safegen::detail {

/// What a setting may be.
enum class Setting { number, share, positive, truth, whole_or_null };

struct Guard {
  std::string mode;
  std::map<std::string, Setting> settings;
};

/// Those that a step graph can be signed with, and none.
inline const std::vector<Guard>& guards() {
  using S = Setting;
  static const std::vector<Guard> known = {
      {"ratio", {{"false_positive_rate", S::share}, {"repulsion", S::number}}},
      {"paper", {{"quantile", S::share}, {"eta", S::positive}, {"w_max", S::positive}, {"t_min", S::number}}},
      {"official",
       {{"bandwidth", S::positive},
        {"scale", S::number},
        {"gate", S::truth},
        {"margin", S::number},
        {"t_min", S::number},
        {"first_steps", S::whole_or_null},
        {"sd3", S::truth}}},
      {"off", {}}};
  return known;
}

inline const Guard* find_guard(const std::string& mode) {
  for (const Guard& guard : guards())
    if (guard.mode == mode) return &guard;
  return nullptr;
}

inline std::string names_of_guards() {
  std::string names;
  for (const Guard& guard : guards()) names += (names.empty() ? "" : ", ") + guard.mode;
  return names;
}

/// Throws Error where a guard is one of those that ratio is compared with: safegen.guard.settings.RIVALS.
inline void refuse_rival(const std::string& mode) {
  for (const char* rival : {"theorem", "spell", "sgf", "bank-mean", "renoise-only"})
    if (mode == rival)
      throw Error(Code::guard, "the guard '" + mode + "' is for research and runs in the Python package alone; this host draws with " +
                                   names_of_guards() + ".");
}

/// What a setting is to be, or nothing where the value is just that.
inline const char* wanted(Setting setting, const Json& value) {
  switch (setting) {
    case Setting::truth: return value.is_boolean() ? "" : "true or false";
    case Setting::share: return value.is_number() && value >= 0.0 && value <= 1.0 ? "" : "a share, 0 to 1";
    case Setting::positive: return value.is_number() && value > 0.0 ? "" : "above 0";
    case Setting::whole_or_null: return value.is_null() || value.is_number_integer() ? "" : "a whole number or null";
    default: return value.is_number() ? "" : "a number";
  }
}

/// Refuse settings that this version does not know: left out, they would guard less than was measured.
///
/// Throws std::invalid_argument, and Error for a guard of the Python package alone.
inline void check_settings(const Json& settings) {
  const auto mode = settings.is_object() ? value_or<std::string>(settings, "mode", "") : "";
  refuse_rival(mode);
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
      {"sd3-nudity", {{"bandwidth", 1.0}, {"scale", 0.03}, {"gate", false}, {"sd3", true}}},
      {"memorized-person", {{"bandwidth", 13.15}, {"scale", 0.69}, {"gate", false}, {"first_steps", 12}}},
      {"memorized-artwork", {{"bandwidth", 13.15}, {"scale", 0.9}, {"gate", false}, {"first_steps", 12}}}};
  const std::size_t colon = text.find(':');
  const std::string mode = text.substr(0, colon);
  refuse_rival(mode);
  if (find_guard(mode) == nullptr) throw Error(Code::usage, "guard is '" + mode + "'; known are " + names_of_guards() + ".");
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
