// JSON with the strictness of the Python readers: a wrong type or an unknown key is an error.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace safegen::detail {

/// How a value of JSON becomes one of C++: as nlohmann has it, but for numbers.
///
/// Whole ones must be written as such and fit: nlohmann casts, which for 1e32 is undefined. Neither kind is true or false.
template <typename T, typename = void>
struct Strict : nlohmann::adl_serializer<T> {};

template <typename T>
struct Strict<T, std::enable_if_t<std::is_integral_v<T> && !std::is_same_v<T, bool>>> : nlohmann::adl_serializer<T> {
  template <typename Value>
  static void from_json(const Value& value, T& whole) {
    if (!value.is_number_integer())
      throw std::invalid_argument("a whole number was expected, not " + (value.is_number() ? value.dump() : value.type_name()));
    const bool fits = value.is_number_unsigned() ? in_range(value.template get_ref<const std::uint64_t&>())
                                                 : in_range(value.template get_ref<const std::int64_t&>());
    if (!fits) throw std::invalid_argument(value.dump() + " is out of range");
    nlohmann::adl_serializer<T>::from_json(value, whole);
  }

 private:
  static bool in_range(std::uint64_t number) { return number <= static_cast<std::uint64_t>(std::numeric_limits<T>::max()); }
  static bool in_range(std::int64_t number) {
    return number < 0 ? number >= static_cast<std::int64_t>(std::numeric_limits<T>::min()) : in_range(static_cast<std::uint64_t>(number));
  }
};

template <typename T>
struct Strict<T, std::enable_if_t<std::is_floating_point_v<T>>> : nlohmann::adl_serializer<T> {
  template <typename Value>
  static void from_json(const Value& value, T& number) {
    if (!value.is_number()) throw std::invalid_argument(std::string("a number was expected, not ") + value.type_name());
    nlohmann::adl_serializer<T>::from_json(value, number);
  }
};

using Json = nlohmann::basic_json<std::map, std::vector, std::string, bool, std::int64_t, std::uint64_t, double, std::allocator, Strict>;

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

}  // namespace safegen::detail
