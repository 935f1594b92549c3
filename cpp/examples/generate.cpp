// Draw guarded pictures with a sealed engine and write them as PNG.
//
//   safegen-generate ENGINE -p "a photo of a coat" -o coat.png [-b BUNDLE] [-c LABEL] [--negative TEXT] [--seed N]
//            [-n N] [--batch-size N] [--steps N] [--solver NAME] [--size WIDTHxHEIGHT] [--guidance G] [--guard NAME]
//            [--provider cpu|cuda|tensorrt|rtx] [--threads N] [--json]
//
// Each picture is written as soon as it is finished; Ctrl-C loses none of these.
#include <safegen/safegen.hpp>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb_image_write.h>

namespace {

using Json = nlohmann::json;
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

/// {width, height} of 512 or WIDTHxHEIGHT.
std::array<std::int64_t, 2> size_of(const std::string& text) {
  const std::size_t times = text.find('x');
  const std::int64_t width = std::stoll(text);
  return {width, times == std::string::npos ? width : std::stoll(text.substr(times + 1))};
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
      else if (name == "-n") found.request.n = std::stoll(value);
      else if (name == "--batch-size") found.request.batch_size = std::stoll(value);
      else if (name == "--size") found.request.size = size_of(value);
      else if (name == "--solver") found.request.solver = value;
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

std::string path_of(const std::string& out, std::size_t i, std::int64_t n) {
  if (n == 1) return out;
  const std::size_t dot = out.rfind('.');
  return out.substr(0, dot) + "-" + std::to_string(i) + (dot == std::string::npos ? ".png" : out.substr(dot));
}

/// Write a picture whole or not at all.
void write(const std::string& file, const safegen::Picture& picture) {
  const std::string part = file + ".part";
  std::error_code failed;
  if (stbi_write_png(part.c_str(), static_cast<int>(picture.width), static_cast<int>(picture.height), 3, picture.rgb.data(),
                     static_cast<int>(3 * picture.width)))
    std::filesystem::rename(part, file, failed);
  else
    failed = std::make_error_code(std::errc::io_error);
  if (failed) throw safegen::Error(safegen::Code::usage, file + ": cannot be written.");
}

Json record_of(const std::string& file, const safegen::Verdict& verdict) {
  Json record = {{"file", file},
                 {"guard", verdict.guard},
                 {"steps", verdict.steps},
                 {"opened", verdict.opened},
                 {"corrected", verdict.corrected}};
  if (verdict.strongest_evidence) {
    record["strongest_evidence"] = *verdict.strongest_evidence;
    record["nearest_reference"] = *verdict.nearest_reference;
  }
  return record;
}

volatile std::sig_atomic_t stopped = 0;

/// The first Ctrl-C stops at the next step, with all pictures that were finished written; the second stops at once.
void stop(int signal) {
  stopped = 1;
  std::signal(signal, SIG_DFL);
}

int run(int argc, char** argv) {
  const Arguments arguments = parse(argc, argv);
  const safegen::Request& request = arguments.request;
  const auto start = Clock::now();
  const safegen::Pipeline pipeline(arguments.engine, arguments.bundle, arguments.device);
  const double opened = seconds_since(start);
  std::signal(SIGINT, stop);
  Json records = Json::array();
  std::vector<double> marks;
  const auto drawing = Clock::now();
  const auto on_picture = [&](std::size_t i, const safegen::Picture& picture) {
    const std::string file = path_of(arguments.out, i, request.n);
    write(file, picture);
    const safegen::Verdict& verdict = picture.verdict;
    records.push_back(record_of(file, verdict));
    if (!arguments.json)
      std::cout << file << "\n  guard " << verdict.guard << ": gate open at " << verdict.opened << " of " << verdict.steps
                << " steps, corrected at " << verdict.corrected << std::endl;
    return true;
  };
  const auto on_step = [&](std::size_t, std::size_t) {
    marks.push_back(seconds_since(drawing));
    return stopped == 0;
  };
  int status = 0;
  try {
    pipeline.draw(request, on_picture, on_step);
  } catch (const safegen::Error& error) {
    if (error.code() != safegen::Code::cancelled) throw;
    std::cerr << "stopped; " << records.size() << " of " << request.n << " pictures are written.\n";
    status = 130;
  }
  const double drawn = seconds_since(drawing);
  if (arguments.json)
    std::cout << Json{{"pictures", records}, {"open_seconds", opened}, {"draw_seconds", drawn}, {"step_marks", marks}}.dump() << "\n";
  return status;
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
