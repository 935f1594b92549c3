// Prompt in, picture and verdict out; never without the guard that the engine demands. The whole use:
//
//   #include <safegen/safegen.hpp>
//
//   const safegen::Pipeline pipeline("engine");  // verifies every file first; throws safegen::Error
//   safegen::Request request;
//   request.prompt = "a photo of a coat";
//   request.n = 8;
//   pipeline.draw(request, [](std::size_t i, safegen::Picture picture) {
//     save(i, picture.width, picture.height, picture.rgb, picture.verdict.opened);
//     return true;  // false stops
//   });
//
// The public names, all of them. safegen.hpp has the definitions as well: include that one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace safegen {

/// The kinds of error, as the Python package names its exceptions.
enum class Code {
  usage = 1,   ///< a request that has no meaning
  engine,      ///< an engine folder that is incomplete, changed, of another schema, or cannot run here
  bundle,      ///< a bundle that is missing, changed, or made for another autoencoder
  guard,       ///< a guard that the engine does not allow, or that has no bundle to guard with
  cancelled,   ///< the caller said stop
};

/// What can go wrong, as one exception whose message is one line a user can act on.
class Error : public std::runtime_error {
 public:
  Error(Code code, const std::string& message) : std::runtime_error(message), code_(code) {}

  Code code() const noexcept { return code_; }

 private:
  Code code_;
};

/// What runs the graphs.
enum class Provider { cpu, cuda, tensorrt, rtx };

struct DeviceOptions {
  Provider provider = Provider::cpu;
  int device_id = 0;
  int threads = 0;  ///< of the CPU; 0 leaves it to ONNX Runtime
};

/// Pixels of the caller.
struct Image {
  std::int64_t width = 0, height = 0;
  std::vector<std::uint8_t> rgb;  ///< height x width x 3
};

/// What to draw, by the names that the Python package has. What is left out is the engine's or the bundle's own.
///
/// What this host cannot draw is a field all the same, and Error where it is given: never a picture of something else.
struct Request {
  std::optional<std::string> prompt;        ///< UTF-8
  std::optional<std::int64_t> class_label;  ///< for a model of classes
  std::string negative_prompt;              ///< takes the place of the empty prompt in guidance
  std::uint64_t seed = 0;
  std::int64_t n = 1;                 ///< pictures; picture i has seed + i
  std::optional<std::int64_t> steps;  ///< model evaluations
  std::optional<std::string> solver;  ///< the engine's own alone
  std::optional<double> guidance_scale;
  std::optional<std::array<std::int64_t, 2>> size;  ///< {width, height} in pixels; the engine's own alone
  std::optional<std::string> guard;                 ///< ratio, official:nudity, and so on
  std::optional<std::string> text_guard;            ///< Python's alone
  std::vector<std::string> concepts;                ///< of a text guard: Python's alone
  std::optional<Image> init;                        ///< an image to start from: Python's alone
  std::optional<double> strength;                   ///< of init: Python's alone
  std::optional<Image> mask;                        ///< of init: Python's alone
  std::int64_t batch_size = 4;  ///< pictures drawn at a time, 1 to 1024; memory grows with these, not with n
};

/// What the guard saw and did at one step of one picture.
struct Watch {
  std::size_t step;
  double timestep, log_snr;
  float evidence, weight;  ///< the gate opens above 0; the strength is 0 where it stayed shut
  std::int64_t nearest;    ///< index of the reference that counts most
};

/// What the guard did to one picture.
struct Verdict {
  std::string guard;
  std::size_t steps = 0;
  std::size_t opened = 0;     ///< at so many of them the gate was open: evidence above 0 or, with ratio, at a step before
  std::size_t corrected = 0;  ///< at so many the guard changed the picture: weight above 0
  std::optional<float> strongest_evidence;
  std::optional<std::int64_t> nearest_reference;  ///< at the step of the strongest evidence
  std::vector<Watch> trace;                       ///< the steps at which the guard looked
};

struct Picture {
  std::int64_t width = 0, height = 0;
  std::vector<std::uint8_t> rgb;  ///< height x width x 3
  Verdict verdict;
};

/// Called with picture i of a request as soon as it is finished, in order; false stops.
using OnPicture = std::function<bool(std::size_t i, Picture picture)>;

/// Called after each step with how many are done and how many all batches of the request take; false stops.
using Progress = std::function<bool(std::size_t done, std::size_t count)>;

namespace detail {
class Engine;
}

/// An open, verified engine and its bundle. Any number of threads may draw with one at a time.
class Pipeline {
 public:
  /// Open and verify both.
  ///
  /// `bundle` is a .negation file; where it is empty, the engine's own. Throws Error where anything is
  /// missing, changed, unknown or does not fit.
  explicit Pipeline(const std::filesystem::path& engine, const std::filesystem::path& bundle = {}, const DeviceOptions& options = {});
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;
  ~Pipeline();

  /// Draw the pictures of a request, batch by batch, and hand out each one as soon as it is finished.
  ///
  /// Throws Error: Code::cancelled where a function of yours said stop. What it had by then stays good.
  void draw(const Request& request, const OnPicture& on_picture, const Progress& progress = {}) const;

  /// The same, all of them at the end.
  std::vector<Picture> draw(const Request& request, const Progress& progress = {}) const;

 private:
  const std::unique_ptr<const detail::Engine> engine_;
};

}  // namespace safegen
