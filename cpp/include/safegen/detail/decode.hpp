// Latents to pixels.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "engine.hpp"

namespace safegen::detail {

/// A picture as the decoder gives it, numbers from -1 to 1 of shape (1, C, H, W).
struct Decoded {
  Shape shape;
  std::vector<float> values;
};

/// Picture `p` of a batch of latents. One at a time: an autoencoder's activations are the largest of all.
inline Decoded decode_latents(const Engine& engine, const Ort::Value& latents, std::size_t p) {
  const Manifest& manifest = engine.manifest();
  Shape shape = shape_of(latents);
  shape[0] = 1;
  const auto size = static_cast<std::size_t>(shape[1] * shape[2] * shape[3]);
  const float* const start = latents.GetTensorData<float>() + p * size;
  std::vector<float> sample = checked(engine, manifest.model, {start, start + size});
  if (!manifest.has("vae_decoder")) return {shape, std::move(sample)};
  const auto scaling = static_cast<float>(manifest.latent_space.scaling_factor);
  const auto shift = static_cast<float>(manifest.latent_space.shift_factor);
  for (float& value : sample) value = value / scaling + shift;
  const Session& decoder = engine.component("vae_decoder");
  const Ort::Value one = host_tensor(shape, sample);
  const Tensors outputs = decoder.run({{"latent_sample", &one}}, decoder.outputs());
  const Ort::Value& pixels = outputs.begin()->second;
  return {shape_of(pixels), checked(engine, "vae_decoder", numbers(pixels))};
}

/// Eight bits a channel; one channel is grey.
inline Picture to_picture(const Decoded& decoded) {
  const auto channels = static_cast<std::size_t>(decoded.shape[1]), pixels = static_cast<std::size_t>(decoded.shape[2] * decoded.shape[3]);
  if (channels != 1 && channels != 3) throw Error(Code::engine, "a picture has neither one channel nor three.");
  Picture picture;
  picture.height = decoded.shape[2], picture.width = decoded.shape[3];
  picture.rgb.resize(3 * pixels);
  for (std::size_t i = 0; i < 3 * pixels; ++i) {
    const float value = decoded.values[(channels == 3 ? i % 3 : 0) * pixels + i / 3];
    picture.rgb[i] = static_cast<std::uint8_t>(std::nearbyint(std::clamp(value / 2.0f + 0.5f, 0.0f, 1.0f) * 255.0f));
  }
  return picture;
}

}  // namespace safegen::detail
