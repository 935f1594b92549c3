// Files read by memory map, their SHA-256, and the digest that a sealed file carries of itself.
#pragma once

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "../pipeline.hpp"

#ifdef _WIN32
#define NOMINMAX
#include <windows.h>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace safegen::detail {

namespace fs = std::filesystem;

/// The content of a file, mapped read-only for as long as this lives.
class MappedFile {
 public:
  MappedFile(const fs::path& path, Code code) {
    std::error_code failed;
    size_ = static_cast<std::size_t>(fs::file_size(path, failed));
    if (failed) throw Error(code, path.string() + ": cannot be read (" + failed.message() + ").");
    if (size_ > 0 && !map(path)) throw Error(code, path.string() + ": cannot be mapped into memory.");
  }
  MappedFile(MappedFile&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() { unmap(); }

  std::string_view text() const { return {static_cast<const char*>(data_), size_}; }

 private:
#ifdef _WIN32
  bool map(const fs::path& path) {
    HANDLE file = CreateFileW(path.c_str(), GENERIC_READ, FILE_SHARE_READ, nullptr, OPEN_EXISTING, 0, nullptr);
    if (file == INVALID_HANDLE_VALUE) return false;
    HANDLE mapping = CreateFileMappingW(file, nullptr, PAGE_READONLY, 0, 0, nullptr);
    if (mapping) data_ = MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0);
    if (mapping) CloseHandle(mapping);
    CloseHandle(file);
    return data_ != nullptr;
  }
  void unmap() {
    if (data_) UnmapViewOfFile(data_);
  }
#else
  bool map(const fs::path& path) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) return false;
    void* found = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
    ::close(file);
    data_ = found == MAP_FAILED ? nullptr : found;
    return data_ != nullptr;
  }
  void unmap() {
    if (data_) ::munmap(data_, size_);
  }
#endif

  void* data_ = nullptr;
  std::size_t size_ = 0;
};

/// SHA-256 of some texts laid end to end, as hex.
template <typename... Texts>
std::string sha256(Texts... texts) {
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  std::array<unsigned char, 32> digest{};
  if (!context || EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) != 1 ||
      !((EVP_DigestUpdate(context.get(), texts.data(), texts.size()) == 1) && ...) ||
      EVP_DigestFinal_ex(context.get(), digest.data(), nullptr) != 1)
    throw Error(Code::engine, "SHA-256 is not available from OpenSSL.");
  static constexpr char digits[] = "0123456789abcdef";
  std::string hex;
  for (const unsigned char byte : digest) {
    hex += digits[byte >> 4];
    hex += digits[byte & 15];
  }
  return hex;
}

/// The digest that a sealed file states and the one that it has; both empty where it states none, or two.
struct Seal {
  std::string stated, found;

  bool holds() const { return !stated.empty() && stated == found; }
};

/// Look at the one field "digest":"<64 hex digits>" in the first MiB of a sealed file.
inline Seal read_seal(std::string_view content) {
  const std::string_view head = content.substr(0, 1 << 20), key = "\"digest\":";
  std::size_t place = std::string_view::npos;
  for (std::size_t at = head.find(key); at != std::string_view::npos; at = head.find(key, at + 1)) {
    std::size_t start = at + key.size();
    if (start < head.size() && head[start] == ' ') ++start;
    if (start + 66 > head.size() || head[start] != '"' || head[start + 65] != '"') continue;
    const std::string_view digits = head.substr(start + 1, 64);
    if (digits.find_first_not_of("0123456789abcdef") != std::string_view::npos) continue;
    if (place != std::string_view::npos) return {};
    place = start + 1;
  }
  if (place == std::string_view::npos) return {};
  const std::string zeros(64, '0');
  return {std::string(head.substr(place, 64)),
          sha256(content.substr(0, place), std::string_view(zeros), content.substr(place + 64))};
}

}  // namespace safegen::detail
