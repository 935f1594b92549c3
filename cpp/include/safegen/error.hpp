// What can go wrong, as one exception whose message is one line a user can act on.
#pragma once

#include <stdexcept>
#include <string>

namespace safegen {

/// The kinds of error, as the Python package names its exceptions.
enum class Code {
  usage = 1,   ///< a request that has no meaning
  engine,      ///< an engine folder that is incomplete, changed, of another schema, or cannot run here
  bundle,      ///< a bundle that is missing, changed, or made for another autoencoder
  guard,       ///< a guard that the engine does not allow, or that has no bundle to guard with
  cancelled,   ///< the caller's progress function said stop
};

class Error : public std::runtime_error {
 public:
  Error(Code code, const std::string& message) : std::runtime_error(message), code_(code) {}

  Code code() const noexcept { return code_; }

 private:
  Code code_;
};

}  // namespace safegen
