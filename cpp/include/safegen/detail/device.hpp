// Where tensors live between the graphs, and which of ONNX Runtime's providers runs these.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <memory>
#include <string>
#include <string_view>

#include "../pipeline.hpp"

namespace safegen::detail {

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

}  // namespace safegen::detail
