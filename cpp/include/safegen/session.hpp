// A graph that runs: named tensors in, named tensors out, through ONNX Runtime.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "error.hpp"
#include "file.hpp"

namespace safegen {

/// What runs the graphs.
enum class Provider { cpu, cuda, tensorrt, rtx };

struct DeviceOptions {
  Provider provider = Provider::cpu;
  int device_id = 0;
  int threads = 0;  ///< of the CPU; 0 leaves it to ONNX Runtime
};

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

/// The ONNX graph y = x: the one way to a device that every version of ONNX Runtime has.
inline constexpr std::string_view identity(
    "\x08\x08:+\n\x10\n\x01x\x12\x01y\"\x08Identity\x12\x01gZ\t\n\x01x\x12\x04\n\x02\x08\x01"
    "b\t\n\x01y\x12\x04\n\x02\x08\x01"
    "B\x04\n\x00\x10\x11",
    53);

/// Where tensors live between the graphs.
class Device {
 public:
  Device(const Ort::Env& env, const DeviceOptions& options)
      : options_(options), host_(Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault)) {
    if (options.provider != Provider::cpu) {
      memory_ = Ort::MemoryInfo("Cuda", OrtDeviceAllocator, options.device_id, OrtMemTypeDefault);
      copier_ = Ort::Session(env, identity.data(), identity.size(), session_options());
    }
  }

  /// Options of a session on this device.
  Ort::SessionOptions session_options() const {
    Ort::SessionOptions session;
    session.SetLogSeverityLevel(3);
    if (options_.threads > 0) session.SetIntraOpNumThreads(options_.threads);
    const std::string id = std::to_string(options_.device_id);
    try {
      if (options_.provider == Provider::rtx) session.AppendExecutionProvider("NvTensorRtRtx", {{"device_id", id}});
      if (options_.provider == Provider::tensorrt) append_tensorrt(session, id);
      if (options_.provider == Provider::cuda || options_.provider == Provider::tensorrt) append_cuda(session, id);
    } catch (const Ort::Exception& error) {
      throw Error(Code::engine, std::string("ONNX Runtime has no ") + name() + " provider here, and the CPU would run in"
                                " its place (" + error.what() + ").");
    }
    return session;
  }

  const char* name() const {
    switch (options_.provider) {
      case Provider::cuda: return "CUDA";
      case Provider::tensorrt: return "TensorRT";
      case Provider::rtx: return "TensorRT for RTX";
      default: return "CPU";
    }
  }

  /// A float32 tensor of the host, on the device: for what every step reads.
  Ort::Value resident(Ort::Value tensor) const {
    if (!copier_) return tensor;
    Ort::IoBinding binding(copier_);
    binding.BindInput("x", tensor);
    binding.BindOutput("y", memory_);
    copier_.Run(Ort::RunOptions{}, binding);
    return std::move(binding.GetOutputValues().at(0));
  }

  /// The backend whose engines this device opens, as the manifest spells it.
  std::string_view backend() const {
    return options_.provider == Provider::rtx ? "tensorrt-rtx" : options_.provider == Provider::tensorrt ? "tensorrt" : "";
  }

  const Ort::MemoryInfo& memory() const { return copier_ ? memory_ : host_; }
  const Ort::MemoryInfo& host() const { return host_; }

 private:
  static void append_tensorrt(Ort::SessionOptions& session, const std::string& id) {
    const OrtApi& api = Ort::GetApi();
    OrtTensorRTProviderOptionsV2* made = nullptr;
    Ort::ThrowOnError(api.CreateTensorRTProviderOptions(&made));
    const std::unique_ptr<OrtTensorRTProviderOptionsV2, void (*)(OrtTensorRTProviderOptionsV2*)> options(
        made, api.ReleaseTensorRTProviderOptions);
    const char *keys[] = {"device_id"}, *values[] = {id.c_str()};
    Ort::ThrowOnError(api.UpdateTensorRTProviderOptions(made, keys, values, 1));
    session.AppendExecutionProvider_TensorRT_V2(*made);
  }

  static void append_cuda(Ort::SessionOptions& session, const std::string& id) {
    const OrtApi& api = Ort::GetApi();
    OrtCUDAProviderOptionsV2* made = nullptr;
    Ort::ThrowOnError(api.CreateCUDAProviderOptions(&made));
    const std::unique_ptr<OrtCUDAProviderOptionsV2, void (*)(OrtCUDAProviderOptionsV2*)> options(
        made, api.ReleaseCUDAProviderOptions);
    // the exhaustive search of convolutions takes minutes at each start
    const char *keys[] = {"device_id", "cudnn_conv_algo_search"}, *values[] = {id.c_str(), "HEURISTIC"};
    Ort::ThrowOnError(api.UpdateCUDAProviderOptions(made, keys, values, 2));
    session.AppendExecutionProvider_CUDA_V2(*made);
  }

  DeviceOptions options_;
  Ort::MemoryInfo host_, memory_{nullptr};
  mutable Ort::Session copier_{nullptr};
};

class Session {
 public:
  Session(const Ort::Env& env, const fs::path& path, const Device& device) : path_(path.string()), device_(&device) {
    try {
      session_ = Ort::Session(env, path.c_str(), device.session_options());
    } catch (const Ort::Exception& error) {
      throw Error(Code::engine, path_ + ": ONNX Runtime cannot load it (" + error.what() + ").");
    }
    Ort::AllocatorWithDefaultOptions allocator;
    for (std::size_t i = 0; i < session_.GetInputCount(); ++i) {
      const Ort::TypeInfo type = session_.GetInputTypeInfo(i);  // owns what the next line looks into
      const auto info = type.GetTensorTypeAndShapeInfo();
      inputs_[session_.GetInputNameAllocated(i, allocator).get()] = {info.GetElementType(), info.GetShape()};
    }
    for (std::size_t i = 0; i < session_.GetOutputCount(); ++i)
      outputs_.emplace_back(session_.GetOutputNameAllocated(i, allocator).get());
  }

  struct Input {
    ONNXTensorElementDataType type;
    Shape shape;  ///< -1 where it varies
  };
  const std::map<std::string, Input>& inputs() const { return inputs_; }
  const std::vector<std::string>& outputs() const { return outputs_; }

  /// Numbers as a tensor of the type that an input has.
  Ort::Value tensor_for(const std::string& input, const Shape& shape, const std::vector<double>& values) const {
    switch (inputs_.at(input).type) {
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return host_tensor(shape, cast<float>(values));
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE: return host_tensor(shape, values);
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64: return host_tensor(shape, cast<std::int64_t>(values));
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32: return host_tensor(shape, cast<std::int32_t>(values));
      default: throw Error(Code::engine, path_ + ": the input " + input + " has a type that this host does not feed.");
    }
  }

  /// Run once. Inputs that the graph does not have are left out; `to_host` names outputs that are read here.
  ///
  /// Any number of threads may run one session.
  Tensors run(const std::map<std::string, const Ort::Value*>& feed, const std::vector<std::string>& to_host = {}) const {
    try {
      Ort::IoBinding binding(session_);
      for (const auto& [name, input] : inputs_) {
        const auto given = feed.find(name);
        if (given == feed.end()) throw Error(Code::engine, path_ + ": nothing is known for its input " + name + ".");
        binding.BindInput(name.c_str(), *given->second);
      }
      for (const std::string& name : outputs_) {
        const bool read = std::find(to_host.begin(), to_host.end(), name) != to_host.end();
        binding.BindOutput(name.c_str(), read ? device_->host() : device_->memory());
      }
      session_.Run(Ort::RunOptions{}, binding);
      std::vector<Ort::Value> values = binding.GetOutputValues();
      Tensors found;
      for (std::size_t i = 0; i < outputs_.size(); ++i) found.emplace(outputs_[i], std::move(values[i]));
      return found;
    } catch (const Ort::Exception& error) {
      throw Error(Code::engine, path_ + ": failed (" + error.what() + ").");
    }
  }

 private:
  template <typename T>
  static std::vector<T> cast(const std::vector<double>& values) {
    std::vector<T> found;
    for (const double value : values) found.push_back(static_cast<T>(value));
    return found;
  }

  std::string path_;
  const Device* device_;
  mutable Ort::Session session_{nullptr};
  std::map<std::string, Input> inputs_;
  std::vector<std::string> outputs_;
};

}  // namespace safegen
