// A graph that runs: named tensors in, named tensors out, through ONNX Runtime.
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "device.hpp"
#include "file.hpp"
#include "tensor.hpp"

namespace safegen::detail {

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

}  // namespace safegen::detail
