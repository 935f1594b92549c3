// The safetensors format: tensors by name as views into a mapped file. Nothing is copied.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "json.hpp"

namespace safegen::detail {

/// A tensor in somebody else's memory.
struct TensorView {
  std::string dtype;  ///< as safetensors writes it: F16, F32, F64, I64
  std::vector<std::int64_t> shape;
  std::string_view bytes;

  std::size_t count() const {
    std::size_t size = 1;
    for (const std::int64_t side : shape) size *= static_cast<std::size_t>(side);
    return size;
  }

  /// Its numbers, which must be of this type; a file aligns them as it likes.
  template <typename T>
  std::vector<T> as(std::string_view wanted) const {
    if (dtype != wanted) throw std::invalid_argument("a tensor is " + dtype + ", not " + std::string(wanted));
    std::vector<T> values(count());
    if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
    return values;
  }
};

/// A float16 as float32, exactly.
inline float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000u) << 16, exponent = (half >> 10) & 31u, fraction = half & 1023u;
  if (exponent == 0) {
    const float small = static_cast<float>(fraction) * 5.9604644775390625e-8f;  // 2^-24
    return sign ? -small : small;
  }
  const std::uint32_t bits = exponent == 31 ? sign | 0x7f800000u | fraction << 13
                                            : sign | (exponent + 112) << 23 | fraction << 13;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

/// What a safetensors file holds.
struct Safetensors {
  std::map<std::string, TensorView> tensors;
  std::map<std::string, std::string> metadata;

  const TensorView& at(const std::string& name) const {
    const auto found = tensors.find(name);
    if (found == tensors.end()) throw std::invalid_argument("no tensor '" + name + "'");
    return found->second;
  }
};

/// Every byte of the body is of one tensor: none is read twice, and none is hidden from readers.
inline void check_places(std::vector<std::pair<std::uint64_t, std::uint64_t>> places, std::uint64_t size) {
  std::sort(places.begin(), places.end());
  std::uint64_t end = 0;
  for (const auto& [first, last] : places) {
    if (first != end) throw std::invalid_argument("tensors overlap or leave a gap");
    end = last;
  }
  if (end != size) throw std::invalid_argument("bytes that no tensor has");
}

/// Read the header of a safetensors file.
///
/// Throws std::invalid_argument (or nlohmann's exceptions) where the content is anything else.
inline Safetensors parse_safetensors(std::string_view content) {
  constexpr std::uint64_t most = 1 << 20;
  std::uint64_t length = 0;
  if (content.size() < 8) throw std::invalid_argument("cut short");
  for (std::size_t i = 8; i-- > 0;) length = length << 8 | static_cast<unsigned char>(content[i]);
  if (length == 0 || length > most || length > content.size() - 8) throw std::invalid_argument("cut short");
  const Json header = Json::parse(content.substr(8, length));
  if (!header.is_object()) throw std::invalid_argument("an object was expected");
  const std::string_view body = content.substr(8 + length);
  static const std::map<std::string, std::size_t> sizes = {{"U8", 1},  {"I8", 1},  {"BOOL", 1}, {"F16", 2}, {"BF16", 2}, {"U16", 2}, {"I16", 2},
                                                           {"F32", 4}, {"U32", 4}, {"I32", 4},  {"F64", 8}, {"U64", 8},  {"I64", 8}};
  Safetensors found;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> places;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      found.metadata = entry.get<std::map<std::string, std::string>>();
      continue;
    }
    const auto dtype = entry.at("dtype").get<std::string>();
    const auto size = sizes.find(dtype);
    if (size == sizes.end()) throw std::invalid_argument("a tensor is " + dtype);
    const auto shape = entry.at("shape").get<std::vector<std::uint64_t>>();
    const auto offsets = entry.at("data_offsets").get<std::vector<std::uint64_t>>();
    if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > body.size())
      throw std::invalid_argument("tensor '" + name + "' lies outside of the file");
    std::uint64_t bytes = size->second;
    for (const std::uint64_t side : shape) {
      if (side != 0 && bytes > body.size() / side) throw std::invalid_argument("tensor '" + name + "' is too large");
      bytes *= side;
    }
    if (bytes != offsets[1] - offsets[0])
      throw std::invalid_argument("tensor '" + name + "' has another size than its shape");
    found.tensors[name] = {dtype, {shape.begin(), shape.end()}, body.substr(offsets[0], bytes)};
    places.emplace_back(offsets[0], offsets[1]);
  }
  check_places(std::move(places), body.size());
  return found;
}

}  // namespace safegen::detail
