// The host on the embedded engines. If these fail, a product draws what was not asked for, or without its guard.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest.h>

#include <cstdlib>
#include <fstream>
#include <safegen/safegen.hpp>
#include <thread>

using namespace safegen;
using namespace safegen::detail;

namespace {

fs::path models() {
  const char* folder = std::getenv("SAFEGEN_MODELS");
  REQUIRE(folder != nullptr);
  return folder;
}

/// An engine of our own to break.
struct Copy {
  fs::path folder = fs::temp_directory_path() / ("safegen-test-" + std::to_string(std::rand()));

  explicit Copy(const char* name = "fashion") { fs::copy(models() / name, folder); }
  Copy(const Copy&) = delete;
  Copy& operator=(const Copy&) = delete;
  ~Copy() { fs::remove_all(folder); }
};

Request sneaker(std::uint64_t seed, std::int64_t steps = 6) {
  Request request;
  request.prompt = "a photo of a sneaker";
  request.seed = seed;
  request.steps = steps;
  return request;
}

/// The code and the line of what a call throws.
template <typename Call>
std::pair<int, std::string> thrown(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return {static_cast<int>(error.code()), error.what()};
  }
  return {0, ""};
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("every byte of every file is under the seal") {
  for (const auto& entry : fs::directory_iterator(models() / "fashion")) {
    const Copy copy;
    const fs::path path = copy.folder / entry.path().filename();
    const auto size = static_cast<std::streamoff>(fs::file_size(path));
    {
      std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
      file.seekg(size / 2);
      const int byte = file.get();
      file.seekp(size / 2);
      file.put(static_cast<char>(byte ^ 1));
    }
    CAPTURE(path.string());
    const auto changed = thrown([&] { Pipeline pipeline(copy.folder); });
    CHECK(changed.first == static_cast<int>(Code::engine));
    CHECK(contains(changed.second, "changed since the engine was built"));
    fs::resize_file(path, fs::file_size(path) / 2);
    CHECK(thrown([&] { Pipeline pipeline(copy.folder); }).first != 0);
    fs::remove(path);
    CHECK(thrown([&] { Pipeline pipeline(copy.folder); }).first != 0);
  }
}

TEST_CASE("what does not fit is refused in one line") {
  CHECK(contains(thrown([] { Pipeline pipeline("nowhere"); }).second, "no engine.json here"));
  const auto foreign = thrown([] { Pipeline pipeline(models() / "fashion", models() / "pixels" / "default.negation"); });
  CHECK(foreign.first == static_cast<int>(Code::bundle));
  CHECK(contains(foreign.second, "another autoencoder"));
  CHECK(contains(thrown([] { Pipeline pipeline(models() / "fashion", "none.negation"); }).second, "no such bundle"));
  const Pipeline text(models() / "fashion"), classes(models() / "pixels");
  const auto refused = [](const Pipeline& pipeline, auto change) {
    Request request;
    change(request);
    const auto [code, line] = thrown([&] { pipeline.draw(request); });
    CHECK(line.find('\n') == std::string::npos);
    return std::to_string(code) + line;
  };
  CHECK(contains(refused(text, [](Request&) {}), "1nothing to draw"));
  CHECK(contains(refused(text, [](Request& r) { r.prompt = "x", r.class_label = 1; }), "knows no classes"));
  CHECK(contains(refused(text, [](Request& r) { r.prompt = "x", r.steps = 777; }), "1 to 50"));
  CHECK(contains(refused(text, [](Request& r) { r.prompt = "x", r.guard = "paper:x"; }), "presets are"));
  CHECK(contains(refused(text, [](Request& r) { r.prompt = "x", r.steps = 0; }), "1steps is 0"));
  CHECK(contains(refused(text, [](Request& r) { r.prompt = "x", r.steps = -1; }), "1steps is -1"));
  CHECK(contains(refused(text, [](Request& r) { r.prompt = "\xff"; }), "UTF-8"));
  for (const double odd : {-1.0, std::nan(""), std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()})
    CHECK(contains(refused(text, [&](Request& r) { r.prompt = "x", r.guidance_scale = odd; }), "1guidance_scale is "));
  CHECK(contains(refused(text, [](Request& r) { r.prompt = "x", r.seed = ~std::uint64_t{0}, r.n = 2; }), "2^64"));
  CHECK(contains(refused(classes, [](Request& r) { r.class_label = 99; }), "this model knows 0 to"));
  CHECK(contains(refused(classes, [](Request& r) { r.prompt = "x"; }), "its model knows no text"));
  CHECK(contains(refused(classes, [](Request& r) { r.negative_prompt = "x"; }), "takes none"));
}

TEST_CASE("what Python alone draws is refused by the name of its field, never left out") {
  const Pipeline pipeline(models() / "fashion");
  const auto refused = [&](auto change) {
    Request request = sneaker(1);
    change(request);
    const auto [code, line] = thrown([&] { pipeline.draw(request); });
    CHECK(code == static_cast<int>(Code::usage));
    CHECK(line.find('\n') == std::string::npos);
    CHECK(contains(line, "Use the Python package"));
    return line.substr(0, line.find_first_of(" :"));
  };
  CHECK(refused([](Request& r) { r.solver = "euler"; }) == "solver");
  CHECK(refused([](Request& r) { r.size = {64, 32}; }) == "size");
  CHECK(refused([](Request& r) { r.size = {32, -1}; }) == "size");
  CHECK(refused([](Request& r) { r.text_guard = "safree"; }) == "text_guard");
  CHECK(refused([](Request& r) { r.concepts = {"sneaker"}; }) == "concepts");
  CHECK(refused([](Request& r) { r.init = Image{}; }) == "init");
  CHECK(refused([](Request& r) { r.strength = 0.8; }) == "strength");
  CHECK(refused([](Request& r) { r.mask = Image{}; }) == "mask");
}

TEST_CASE("counts that draw nothing, or more than memory holds, are refused") {
  const Pipeline pipeline(models() / "fashion");
  const auto refused = [&](auto change) {
    Request request = sneaker(1);
    change(request);
    return thrown([&] { pipeline.draw(request, OnPicture()); });
  };
  for (const std::int64_t odd : {std::int64_t{0}, std::int64_t{-1}, std::numeric_limits<std::int64_t>::min()}) {
    CHECK(contains(refused([&](Request& r) { r.n = odd; }).second, "n is "));
    CHECK(contains(refused([&](Request& r) { r.batch_size = odd; }).second, "batch_size is "));
  }
  CHECK(contains(refused([](Request& r) { r.batch_size = 1025; }).second, "1 to 1024"));
  CHECK(contains(refused([](Request& r) { r.seed = ~std::uint64_t{0} - 3, r.n = 5; }).second, "2^64"));
}

TEST_CASE("the engine's own solver and size may be named") {
  const Pipeline pipeline(models() / "fashion");
  Request request = sneaker(1);
  const Picture plain = pipeline.draw(request)[0];
  request.solver = "ddim";
  request.size = {32, 32};
  CHECK(pipeline.draw(request)[0].rgb == plain.rgb);
}

TEST_CASE("an engine that was not built to draw unguarded does not") {
  Json manifest;
  const Copy copy;
  std::ifstream(copy.folder / "engine.json") >> manifest;
  manifest["guards"] = {"ratio"};
  manifest["bundle"] = nullptr;
  manifest["digest"] = std::string(64, '0');
  std::string text = manifest.dump();
  const std::string digest = sha256(std::string_view(text));
  text.replace(text.find(std::string(64, '0')), 64, digest);
  std::ofstream(copy.folder / "engine.json") << text;
  CHECK(contains(thrown([&] { Pipeline pipeline(copy.folder); }).second, "draws only with a negation bundle"));
  const Pipeline pipeline(copy.folder, models() / "fashion" / "default.negation");
  Request request = sneaker(1);
  request.guard = "off";
  const auto refused = thrown([&] { pipeline.draw(request); });
  CHECK(refused.first == static_cast<int>(Code::guard));
  CHECK(contains(refused.second, "not built with --allow-unguarded"));
}

TEST_CASE("one handle draws on many threads, the same pictures as alone") {
  const Pipeline pipeline(models() / "fashion", {}, {Provider::cpu, 0, 1});
  std::vector<std::vector<Picture>> together(4);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < together.size(); ++i)
    threads.emplace_back([&, i] { together[i] = pipeline.draw(sneaker(i)); });
  for (std::thread& thread : threads) thread.join();
  for (std::size_t i = 0; i < together.size(); ++i) CHECK(together[i][0].rgb == pipeline.draw(sneaker(i))[0].rgb);
}

/// The greatest difference of two pictures, in shades.
int distance(const Picture& a, const Picture& b) {
  REQUIRE(a.rgb.size() == b.rgb.size());
  int most = 0;
  for (std::size_t p = 0; p < a.rgb.size(); ++p) most = std::max(most, std::abs(a.rgb[p] - b.rgb[p]));
  return most;
}

TEST_CASE("pictures of one request are those of their seeds, in batches or one by one") {
  Request text = sneaker(5, 4), label;
  label.class_label = 3;
  label.steps = 4;
  label.seed = 5;
  for (auto& [name, request] : {std::pair("fashion", text), std::pair("pixels", label)}) {
    const Pipeline pipeline(models() / name, {}, {Provider::cpu, 0, 1});
    Request asked = request;
    asked.n = 5;
    asked.batch_size = 2;
    const std::vector<Picture> batches = pipeline.draw(asked);
    asked.batch_size = 1;
    const std::vector<Picture> singles = pipeline.draw(asked);
    REQUIRE((batches.size() == 5 && singles.size() == 5));
    asked.n = 1;
    for (std::size_t i = 0; i < batches.size(); ++i) {
      asked.seed = 5 + i;
      const Picture alone = pipeline.draw(asked)[0];
      CHECK(alone.rgb == singles[i].rgb);
      CHECK(distance(alone, batches[i]) <= 1);  // sums of a batch run in another order
      CHECK(alone.verdict.opened == batches[i].verdict.opened);
    }
  }
}

TEST_CASE("pictures are handed out in order, each batch before the next is begun") {
  const Pipeline pipeline(models() / "fashion");
  Request request = sneaker(1);
  request.n = 5;
  request.batch_size = 2;
  std::vector<std::pair<std::size_t, std::size_t>> handed_out;  // which, after how many steps
  std::size_t steps = 0;
  pipeline.draw(
      request,
      [&](std::size_t i, Picture picture) {
        CHECK(picture.rgb.size() == 3 * 32 * 32);
        CHECK(picture.verdict.trace.size() == 6);
        handed_out.emplace_back(i, steps);
        return true;
      },
      [&](std::size_t done, std::size_t count) {
        CHECK(done == ++steps);
        CHECK(count == 18);
        return true;
      });
  CHECK(handed_out == std::vector<std::pair<std::size_t, std::size_t>>{{0, 6}, {1, 6}, {2, 12}, {3, 12}, {4, 18}});
}

TEST_CASE("who takes the pictures can stop, and keeps those that were handed out") {
  const Pipeline pipeline(models() / "fashion");
  Request request = sneaker(1);
  request.n = std::numeric_limits<std::int64_t>::max();  // never all of them: memory does not grow with n
  request.batch_size = 2;
  std::size_t taken = 0;
  const auto stopped = thrown([&] { pipeline.draw(request, [&](std::size_t, const Picture&) { return ++taken < 3; }); });
  CHECK(stopped.first == static_cast<int>(Code::cancelled));
  CHECK(taken == 3);
}

TEST_CASE("progress counts the steps and can stop them") {
  const Pipeline pipeline(models() / "fashion");
  std::size_t reached = 0;
  const auto stopped = thrown([&] {
    pipeline.draw(sneaker(1), [&](std::size_t done, std::size_t count) {
      reached = done;
      CHECK(count == 6);
      return done < 3;
    });
  });
  CHECK(stopped.first == static_cast<int>(Code::cancelled));
  CHECK(reached == 3);
}

TEST_CASE("a provider that is not here is never replaced by the CPU") {
  const auto refused = thrown([] { Pipeline pipeline(models() / "fashion", {}, {Provider::rtx}); });
  CHECK(refused.first == static_cast<int>(Code::engine));
  CHECK(contains(refused.second, "TensorRT for RTX provider"));
}

TEST_CASE("the graph that carries tensors to a device is y = x") {
  const Ort::Env env;
  Ort::Session session(env, identity.data(), identity.size(), Ort::SessionOptions());
  const Ort::Value x = host_tensor<float>({2, 1, 3}, {1, 2, 3, 4, 5, 6});
  const char *inputs[] = {"x"}, *outputs[] = {"y"};
  const auto found = session.Run(Ort::RunOptions(), inputs, &x, 1, outputs, 1);
  CHECK(numbers(found[0]) == numbers(x));
  CHECK(shape_of(found[0]) == Shape{2, 1, 3});
}
