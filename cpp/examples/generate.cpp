// Draw guarded pictures with a sealed engine and write them as PNG.
//
//   safegen-generate ENGINE -p "a photo of a coat" -o coat.png [-b BUNDLE] [-c LABEL] [--negative TEXT] [--seed N]
//            [-n N] [--steps N] [--guidance G] [--guard NAME] [--provider cpu|cuda|tensorrt|rtx] [--threads N]
//            [--json]
#include <safegen/safegen.hpp>

#include <chrono>
#include <cstdio>
#include <iostream>

#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb_image_write.h>

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

struct Arguments {
  std::string engine, bundle, out = "picture.png";
  safegen::Request request;
  safegen::DeviceOptions device;
  bool json = false;
};

safegen::Provider provider_of(const std::string& name) {
  static const std::map<std::string, safegen::Provider> known = {{"cpu", safegen::Provider::cpu},
                                                                 {"cuda", safegen::Provider::cuda},
                                                                 {"tensorrt", safegen::Provider::tensorrt},
                                                                 {"rtx", safegen::Provider::rtx}};
  const auto found = known.find(name);
  if (found == known.end()) throw safegen::Error(safegen::Code::usage, "provider is " + name + "; known are cpu, cuda, tensorrt, rtx.");
  return found->second;
}

Arguments parse(int argc, char** argv) {
  Arguments found;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--json") {
      found.json = true;
      continue;
    }
    if (name[0] != '-') {
      found.engine = name;
      continue;
    }
    if (++i == argc) throw safegen::Error(safegen::Code::usage, name + " needs a value.");
    const std::string value = argv[i];
    try {
      if (name == "-p") found.request.prompt = value;
      else if (name == "-o") found.out = value;
      else if (name == "-b") found.bundle = value;
      else if (name == "-c") found.request.class_label = std::stoll(value);
      else if (name == "--negative") found.request.negative_prompt = value;
      else if (name == "--seed") found.request.seed = std::stoull(value);
      else if (name == "-n") found.request.count = std::stoll(value);
      else if (name == "--steps") found.request.steps = std::stoll(value);
      else if (name == "--guidance") found.request.guidance_scale = std::stod(value);
      else if (name == "--guard") found.request.guard = value;
      else if (name == "--provider") found.device.provider = provider_of(value);
      else if (name == "--threads") found.device.threads = std::stoi(value);
      else throw safegen::Error(safegen::Code::usage, "unknown option " + name + ".");
    } catch (const std::logic_error&) {
      throw safegen::Error(safegen::Code::usage, name + " is " + value + "; a number was expected.");
    }
  }
  if (found.engine.empty()) throw safegen::Error(safegen::Code::usage, "usage: safegen-generate ENGINE -p PROMPT -o FILE.png");
  return found;
}

std::string path_of(const std::string& out, std::size_t i, std::size_t count) {
  if (count == 1) return out;
  const std::size_t dot = out.rfind('.');
  return out.substr(0, dot) + "-" + std::to_string(i) + (dot == std::string::npos ? ".png" : out.substr(dot));
}

int run(int argc, char** argv) {
  const Arguments arguments = parse(argc, argv);
  const auto start = Clock::now();
  const safegen::Pipeline pipeline(arguments.engine, arguments.bundle, arguments.device);
  const double opened = seconds_since(start);
  std::vector<double> marks;
  const auto drawing = Clock::now();
  const std::vector<safegen::Picture> pictures = pipeline.draw(arguments.request, [&](std::size_t, std::size_t) {
    marks.push_back(seconds_since(drawing));
    return true;
  });
  const double drawn = seconds_since(drawing);
  safegen::detail::Json records = safegen::detail::Json::array();
  for (std::size_t i = 0; i < pictures.size(); ++i) {
    const auto& [width, height, rgb, verdict] = pictures[i];
    const std::string file = path_of(arguments.out, i, pictures.size());
    if (!stbi_write_png(file.c_str(), static_cast<int>(width), static_cast<int>(height), 3, rgb.data(), static_cast<int>(3 * width)))
      throw safegen::Error(safegen::Code::usage, file + ": cannot be written.");
    safegen::detail::Json record = {{"file", file}, {"guard", verdict.guard}, {"steps", verdict.steps}, {"opened", verdict.opened}, {"leaned", verdict.leaned}};
    if (verdict.strongest_evidence) {
      record["strongest_evidence"] = *verdict.strongest_evidence;
      record["nearest_reference"] = *verdict.nearest_reference;
    }
    records.push_back(record);
    if (!arguments.json)
      std::cout << file << "\n  guard " << verdict.guard << ": gate opened at " << verdict.opened << " of " << verdict.steps << " steps\n";
  }
  if (arguments.json)
    std::cout << safegen::detail::Json{{"pictures", records}, {"open_seconds", opened}, {"draw_seconds", drawn}, {"step_marks", marks}}.dump() << "\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const safegen::Error& error) {
    std::cerr << "error: " << error.what() << "\n";
    return error.code() == safegen::Code::usage ? 2 : 1;
  }
}
