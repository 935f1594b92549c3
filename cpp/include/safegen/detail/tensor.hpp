// Tensors by name, and what is read from them on the host.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "../pipeline.hpp"

namespace safegen::detail {

/// Tensors by name.
using Tensors = std::map<std::string, Ort::Value>;
using Shape = std::vector<std::int64_t>;

/// A tensor of its own on the host.
template <typename T>
Ort::Value host_tensor(const Shape& shape, const std::vector<T>& values) {
  Ort::AllocatorWithDefaultOptions allocator;
  Ort::Value tensor = Ort::Value::CreateTensor<T>(allocator, shape.data(), shape.size());
  if (tensor.GetTensorTypeAndShapeInfo().GetElementCount() != values.size())
    throw Error(Code::engine, "a tensor has another size than its shape.");
  std::memcpy(tensor.GetTensorMutableData<T>(), values.data(), values.size() * sizeof(T));
  return tensor;
}

/// The numbers of a float32 tensor on the host.
inline std::vector<float> numbers(const Ort::Value& tensor) {
  const float* data = tensor.GetTensorData<float>();
  return {data, data + tensor.GetTensorTypeAndShapeInfo().GetElementCount()};
}

inline Shape shape_of(const Ort::Value& tensor) { return tensor.GetTensorTypeAndShapeInfo().GetShape(); }

}  // namespace safegen::detail
