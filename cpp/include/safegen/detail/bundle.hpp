// The negation bundle: both banks and the gate between them, from one sealed safetensors file.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "file.hpp"
#include "gate.hpp"
#include "guard_settings.hpp"
#include "rows.hpp"
#include "safetensors.hpp"

namespace safegen::detail {

struct Bundle {
  std::string name, latent_space, digest;
  std::array<std::int64_t, 3> latent_shape{};
  std::array<std::int64_t, 2> image_size{};
  std::int64_t regions = 1;  ///< a side, that ratio judges one by one; the banks hold regions
  bool anywhere = false;     ///< the regions overlap; negation images show the thing alone, as large as one
  std::int64_t negation_count = 0, benign_count = 0;  ///< images
  std::size_t target_count = 0;
  Json guard;  ///< default guard and its settings, checked, told apart by "mode"
  double bandwidth = 1.0;
  Rows negation, benign;
  Rows axes;  ///< along these the gate of ratio counts distances less
  Gate gate;
  Density density;
};

inline constexpr int bundle_schema = 5;

/// Infinities have no distance, and what is no number opens no gate.
template <typename T>
std::vector<T> finite(std::vector<T> values) {
  for (const T value : values)
    if (!std::isfinite(value)) throw std::invalid_argument("a number in it is not finite");
  return values;
}

inline Rows widened(const TensorView& tensor) {
  const auto halves = tensor.as<std::uint16_t>("F16");
  Rows rows{static_cast<std::size_t>(tensor.shape.empty() ? 0 : tensor.shape[0]), 0, {}};
  rows.width = rows.count ? halves.size() / rows.count : 0;
  rows.values.reserve(halves.size());
  for (const std::uint16_t half : halves) rows.values.push_back(half_to_float(half));
  rows.values = finite(std::move(rows.values));
  return rows;
}

/// Regions along a height or width of so many latents: safegen.guard.regions.Regions.along.
inline std::int64_t regions_along(std::int64_t length, std::int64_t regions, bool anywhere) {
  const std::int64_t side = length / regions;
  if (!anywhere || side < 1) return regions;
  std::int64_t step = std::max<std::int64_t>(1, side / 32);
  while (side % step != 0) --step;
  return (length - side) / step + 1;
}

/// A list of so many whole numbers, no more of them.
template <std::size_t count>
std::array<std::int64_t, count> whole_numbers(const Json& list) {
  if (list.size() != count) throw std::invalid_argument("a list of " + std::to_string(count) + " was expected");
  return list;
}

/// What a bundle says of itself.
inline Bundle parse_description(const Json& info) {
  const Json version = info.is_object() ? info.value("schema_version", Json()) : Json();
  if (version != bundle_schema)
    throw std::invalid_argument("bundle schema " + version.dump() + ", this safegen reads " + std::to_string(bundle_schema));
  only_keys(info, {"schema_version", "name", "latent_space", "latent_shape", "image_size", "regions", "anywhere", "negation_count",
                   "benign_count", "target_count", "benign_source", "source_digest", "created", "guard", "bandwidth", "foreseen_from"});
  for (const char* text : {"benign_source", "source_digest", "created", "foreseen_from"}) info.at(text).get<std::string>();
  Bundle bundle;
  bundle.name = info.at("name");
  bundle.latent_space = info.at("latent_space");
  bundle.latent_shape = whole_numbers<3>(info.at("latent_shape"));
  bundle.image_size = whole_numbers<2>(info.at("image_size"));
  bundle.regions = info.value<std::int64_t>("regions", 1);
  bundle.anywhere = info.value("anywhere", false);
  bundle.negation_count = info.at("negation_count");
  bundle.benign_count = info.at("benign_count");
  bundle.target_count = info.at("target_count").get<std::size_t>();
  bundle.bandwidth = info.at("bandwidth");
  bundle.guard = info.value("guard", Json{{"mode", "ratio"}});
  check_settings(bundle.guard);
  if (!(bundle.bandwidth > 0.0)) throw std::invalid_argument("its bandwidth is not above 0");
  return bundle;
}

inline void check_shape(const char* name, const TensorView& tensor, std::int64_t count, std::int64_t rows, const Bundle& bundle) {
  const auto& [channels, height, width] = bundle.latent_shape;
  const std::vector<std::int64_t> shape = {channels, height / bundle.regions, width / bundle.regions};
  // the quotient, not the product, which may be too large for its type
  if (tensor.shape.size() != 4 || count < 1 || tensor.shape[0] % rows != 0 || tensor.shape[0] / rows != count ||
      !std::equal(shape.begin(), shape.end(), tensor.shape.begin() + 1))
    throw std::invalid_argument(std::string(name) + " has another shape than its description says");
}

inline void read_banks(const Safetensors& file, Bundle& bundle) {
  const std::int64_t sides = bundle.regions, parts = sides * sides;
  if ((sides != 1 && sides != 2 && sides != 4) || bundle.latent_shape[1] % sides != 0 || bundle.latent_shape[2] % sides != 0)
    throw std::invalid_argument("its regions do not divide its latents");
  if (bundle.anywhere && sides == 1) throw std::invalid_argument("it looks anywhere for what fills the picture");
  check_shape("negation", file.at("negation"), bundle.negation_count, bundle.anywhere ? 1 : parts, bundle);
  check_shape("benign", file.at("benign"), bundle.benign_count, parts, bundle);
  bundle.negation = widened(file.at("negation"));
  bundle.benign = widened(file.at("benign"));
  bundle.axes = widened(file.at("axes"));
  if (file.at("axes").shape.size() != 2 || bundle.axes.count == 0 || bundle.axes.width != bundle.negation.width)
    throw std::invalid_argument("axes has another shape than its banks say");
  if (bundle.target_count < 1 || bundle.target_count > bundle.benign.count)
    throw std::invalid_argument("its targets are none, or more than its benign latents");
}

inline std::vector<double> curve(const TensorView& tensor) {
  if (tensor.shape.size() != 1 || tensor.shape[0] < 1) throw std::invalid_argument("a curve of another shape");
  return finite(tensor.as<double>("F64"));
}

/// Whether each is above the one before, or, with std::greater, not below.
template <typename Falls = std::greater_equal<>>
bool rises(const std::vector<double>& values, Falls falls = {}) {
  return std::adjacent_find(values.begin(), values.end(), falls) == values.end();
}

/// What thresholds are read from: levels rise, and every level has its number.
inline void read_curves(const Safetensors& file, Bundle& bundle) {
  const auto require_that = [](bool holds, const char* name) {
    if (!holds) throw std::invalid_argument(std::string(name) + " is no calibration of a gate");
  };
  Gate& gate = bundle.gate;
  gate = {curve(file.at("gate_signal")), curve(file.at("gate_location")), curve(file.at("gate_scores"))};
  require_that(rises(gate.signal) && gate.signal.front() >= 0.0 && gate.signal.back() <= 1.0, "gate_signal");
  require_that(gate.location.size() == gate.signal.size(), "gate_location");
  require_that(rises(gate.scores, std::greater<>()), "gate_scores");
  bundle.density.log_snr = curve(file.at("paper_log_snr"));
  require_that(rises(bundle.density.log_snr), "paper_log_snr");
  const TensorView& table = file.at("paper_quantiles");
  const std::vector<double> numbers = finite(table.as<double>("F64"));
  require_that(table.shape.size() == 2 && table.shape[1] >= 2 && table.count() == numbers.size() &&
                   static_cast<std::size_t>(table.shape[0]) == bundle.density.log_snr.size(),
               "paper_quantiles");
  for (auto at = numbers.begin(); at != numbers.end(); at += table.shape[1]) {
    bundle.density.quantiles.emplace_back(at, at + table.shape[1]);
    require_that(rises(bundle.density.quantiles.back(), std::greater<>()), "paper_quantiles");
  }
}

/// Read the content of a bundle whose seal holds.
///
/// Throws std::invalid_argument or nlohmann's exceptions where it is no bundle of this schema, and Error where its guard
/// is one of the Python package alone.
inline Bundle parse_bundle(std::string_view content) {
  const Safetensors file = parse_safetensors(content);
  const auto text = file.metadata.find("safegen");
  if (text == file.metadata.end()) throw std::invalid_argument("no description");
  Bundle bundle = parse_description(Json::parse(text->second));
  read_banks(file, bundle);
  read_curves(file, bundle);
  return bundle;
}

/// Read and verify a bundle.
inline Bundle read_bundle(const fs::path& path) {
  if (!fs::is_regular_file(path))
    throw Error(Code::bundle, path.string() + ": no such bundle. Make one with 'safegen freeze'.");
  const MappedFile file(path, Code::bundle);
  const Seal seal = read_seal(file.text());
  if (seal.stated.empty())
    throw Error(Code::bundle, path.string() + ": not a negation bundle. Make one with 'safegen freeze'.");
  if (!seal.holds())
    throw Error(Code::bundle, path.string() + ": the bundle has changed since it was frozen (digest " + seal.found.substr(0, 12) +
                                  ", sealed as " + seal.stated.substr(0, 12) + "). Copy it again, or freeze it anew.");
  try {
    Bundle bundle = parse_bundle(file.text());
    bundle.digest = seal.found;
    return bundle;
  } catch (const Error& error) {
    throw Error(error.code(), path.string() + ": " + error.what());
  } catch (const std::exception& error) {
    throw Error(Code::bundle, path.string() + ": not a negation bundle (" + error.what() + ").");
  }
}

}  // namespace safegen::detail
