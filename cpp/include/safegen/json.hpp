// JSON with the strictness of the Python readers: a wrong type or an unknown key is an error.
#pragma once

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>

namespace safegen {

using Json = nlohmann::json;

/// Throws std::invalid_argument where an object has another key than these.
inline void only_keys(const Json& object, std::initializer_list<std::string_view> known) {
  if (!object.is_object()) throw std::invalid_argument("an object was expected");
  for (const auto& [key, value] : object.items()) {
    bool found = false;
    for (const std::string_view name : known) found = found || key == name;
    if (!found) throw std::invalid_argument("unknown key '" + key + "'");
  }
}

/// A value that may be missing or null.
template <typename T>
T value_or(const Json& object, const char* key, T fallback) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? fallback : found->template get<T>();
}

}  // namespace safegen
