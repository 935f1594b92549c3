// What the host says of bundles, one line each: "read", or the number of its Code and the line of its error.
//
//   verify BUNDLE...
#include <iostream>
#include <safegen/detail/bundle.hpp>

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    try {
      safegen::detail::read_bundle(argv[i]);
      std::cout << "read\n";
    } catch (const safegen::Error& error) {
      std::cout << static_cast<int>(error.code()) << " " << error.what() << "\n";
    }
  }
}
