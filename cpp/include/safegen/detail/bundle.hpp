// The negation bundle: both banks and their calibration, from one sealed safetensors file.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "file.hpp"
#include "guard_settings.hpp"
#include "rows.hpp"
#include "safetensors.hpp"

namespace safegen::detail {

/// Evidence of held-out images: rows are levels of log-SNR, columns images.
struct Calibration {
  std::vector<float> log_snr;
  Rows benign, density;
  std::vector<float> foreseen_log_snr;  ///< the levels of foreseen
  Rows foreseen;                        ///< of ordinary pictures, as the model foresees them
};

struct Bundle {
  std::string name, latent_space, digest;
  std::array<std::int64_t, 3> latent_shape{};
  std::array<std::int64_t, 2> image_size{};
  std::int64_t regions = 1;  ///< a side, that ratio judges one by one; the banks hold regions
  bool anywhere = false;     ///< the regions overlap; negation images show the thing alone, as large as one
  std::size_t target_count = 0;
  Json guard;  ///< default guard and its settings, checked, told apart by "mode"
  double tau = 1.0, bandwidth = 1.0, aim_bandwidth = 1.0;
  Rows negation, benign;
  Rows axes;  ///< along these the gate of ratio counts distances less
  Calibration calibration;
};

inline constexpr int bundle_schema = 4;

/// Infinities have no distance, and what is no number opens no gate.
inline std::vector<float> finite(std::vector<float> values) {
  for (const float value : values)
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

inline Rows matrix(const TensorView& tensor, std::size_t levels) {
  if (tensor.shape.size() != 2 || static_cast<std::size_t>(tensor.shape[0]) != levels || tensor.shape[1] < 1)
    throw std::invalid_argument("a calibration curve of another shape");
  return {levels, static_cast<std::size_t>(tensor.shape[1]), finite(tensor.as<float>("F32"))};
}

inline void check_regions(std::int64_t regions, const std::array<std::int64_t, 3>& latent) {
  if ((regions != 1 && regions != 2 && regions != 4) || latent[1] % regions != 0 || latent[2] % regions != 0)
    throw std::invalid_argument("its regions do not divide its latents");
}

/// Regions along a height or width of so many latents: safegen.regions.Regions.along.
inline std::int64_t regions_along(std::int64_t length, std::int64_t regions, bool anywhere) {
  const std::int64_t side = length / regions;
  if (!anywhere || side < 1) return regions;
  std::int64_t step = std::max<std::int64_t>(1, side / 32);
  while (side % step != 0) --step;
  return (length - side) / step + 1;
}

inline void check_shape(const char* name, const TensorView& tensor, std::int64_t count, std::int64_t rows, std::int64_t regions,
                        const std::array<std::int64_t, 3>& latent) {
  if (count < 1 || count > std::numeric_limits<std::int64_t>::max() / 16) throw std::invalid_argument(std::string(name) + " has no such count");
  const std::vector<std::int64_t> stated = {count * rows, latent[0], latent[1] / regions, latent[2] / regions};
  if (tensor.shape != stated) throw std::invalid_argument(std::string(name) + " has another shape than its description says");
}

inline Calibration read_calibration(const Safetensors& file) {
  Calibration known;
  known.log_snr = finite(file.at("log_snr").as<float>("F32"));
  const std::size_t levels = known.log_snr.size();
  known.foreseen_log_snr = finite(file.at("foreseen_log_snr").as<float>("F32"));
  const std::size_t foreseen = known.foreseen_log_snr.size();
  if (levels == 0 || foreseen == 0) throw std::invalid_argument("no calibration");
  known.benign = matrix(file.at("benign_log_ratio"), levels);
  known.density = matrix(file.at("negation_density"), levels);
  known.foreseen = matrix(file.at("foreseen_log_ratio"), foreseen);
  return known;
}

/// Read the content of a bundle whose seal holds.
///
/// Throws std::invalid_argument or nlohmann's exceptions where it is no bundle of this schema.
inline Bundle parse_bundle(std::string_view content) {
  const Safetensors file = parse_safetensors(content);
  const auto text = file.metadata.find("safegen");
  if (text == file.metadata.end()) throw std::invalid_argument("no description");
  const Json info = Json::parse(text->second);
  const Json version = info.is_object() ? info.value("schema_version", Json()) : Json();
  if (version != bundle_schema)
    throw std::invalid_argument("bundle schema " + version.dump() + ", this safegen reads " + std::to_string(bundle_schema));
  only_keys(info, {"schema_version", "name", "latent_space", "latent_shape", "image_size", "regions", "anywhere",
                   "negation_count", "benign_count", "target_count", "benign_source", "source_digest", "created", "guard", "tau",
                   "bandwidth", "aim_bandwidth", "foreseen_from"});
  Bundle bundle;
  bundle.name = info.at("name");
  bundle.latent_space = info.at("latent_space");
  bundle.latent_shape = info.at("latent_shape");
  bundle.image_size = info.at("image_size");
  bundle.regions = value_or<std::int64_t>(info, "regions", 1);
  bundle.anywhere = value_or<bool>(info, "anywhere", false);
  bundle.guard = info.at("guard");
  check_settings(bundle.guard);
  bundle.tau = info.at("tau");
  bundle.bandwidth = info.at("bandwidth");
  bundle.aim_bandwidth = info.at("aim_bandwidth");
  const auto benign_count = info.at("benign_count").get<std::int64_t>(), targets = info.at("target_count").get<std::int64_t>();
  check_regions(bundle.regions, bundle.latent_shape);
  if (bundle.anywhere && bundle.regions == 1) throw std::invalid_argument("it looks anywhere for what fills the picture");
  const std::int64_t parts = bundle.regions * bundle.regions;
  check_shape("negation", file.at("negation"), info.at("negation_count"), bundle.anywhere ? 1 : parts, bundle.regions, bundle.latent_shape);
  check_shape("benign", file.at("benign"), benign_count, parts, bundle.regions, bundle.latent_shape);
  if (targets < 1 || targets > benign_count * parts || !(bundle.tau > 0.0) || !(bundle.bandwidth > 0.0) || !(bundle.aim_bandwidth > 0.0))
    throw std::invalid_argument("its description is out of range");
  bundle.target_count = static_cast<std::size_t>(targets);
  bundle.negation = widened(file.at("negation"));
  bundle.benign = widened(file.at("benign"));
  bundle.axes = widened(file.at("axes"));
  if (file.at("axes").shape.size() != 2 || bundle.axes.count == 0 || bundle.axes.width != bundle.negation.width)
    throw std::invalid_argument("axes has another shape than its banks say");
  bundle.calibration = read_calibration(file);
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
  } catch (const std::exception& error) {
    throw Error(Code::bundle, path.string() + ": not a negation bundle (" + error.what() + ").");
  }
}

}  // namespace safegen::detail
