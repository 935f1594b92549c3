// Numbers that every host shares: tests/golden. If these fail, the same file guards here as it does not in Python.
#include <doctest.h>

#include <cstdlib>
#include <fstream>
#include <safegen/safegen.hpp>

using namespace safegen;
using namespace safegen::detail;

namespace {

fs::path folder() {
  const char* path = std::getenv("SAFEGEN_GOLDEN");
  REQUIRE(path != nullptr);
  return path;
}

Json golden() { return Json::parse(std::ifstream(folder() / "golden.json")); }

Row row(double alpha, double sigma, double a = 0.0) { return {500, 1, 0, 1, a, 1 - a, 0, 0, alpha, sigma}; }

/// A plan of the golden levels.
Table levels(const Json& from) {
  Table table;
  for (const Json& level : from) table.rows.push_back(row(level[0], level[1], level.size() > 2 ? level[2].get<double>() : 0.0));
  return table;
}

doctest::Approx exactly(double number) { return doctest::Approx(number).epsilon(1e-12); }

}  // namespace

TEST_CASE("the golden gate of ratio") {
  const Json known = golden();
  const Bundle bundle = read_bundle(folder() / "golden.negation");
  const Table table = levels(known["levels"]);
  for (const auto& item : known["ratio"].items()) {
    const std::string rate = item.key();
    const Json& thresholds = item.value();
    CAPTURE(rate);
    const OpenGuard guard = open_guard({{"mode", "ratio"}, {"false_positive_rate", std::stod(rate)}, {"repulsion", 1.5}}, &bundle, table);
    REQUIRE(guard.steps.size() == thresholds.size());
    for (std::size_t i = 0; i < thresholds.size(); ++i) {
      CHECK(guard.steps[i].numbers[0] == exactly(thresholds[i]));
      CHECK(guard.steps[i].looks);
      CHECK(std::vector<double>(guard.steps[i].numbers.begin() + 1, guard.steps[i].numbers.end()) == std::vector<double>{2.5, 1.5});
    }
  }
  const OpenGuard sealed = open_guard(bundle.guard, &bundle, table);
  CHECK(sealed.steps[3].numbers[0] == exactly(known["ratio"]["0.05"][3]));
}

TEST_CASE("the golden curves of paper") {
  const Json known = golden();
  const Bundle bundle = read_bundle(folder() / "golden.negation");
  const Table table = levels(known["levels"]);
  for (const auto& item : known["paper"].items()) {
    const std::string quantile = item.key();
    const Json& low = item.value();
    CAPTURE(quantile);
    const OpenGuard guard = open_guard({{"mode", "paper"}, {"quantile", std::stod(quantile)}, {"eta", 2}, {"t_min", 500}}, &bundle, table);
    for (std::size_t i = 0; i < table.rows.size(); ++i) {
      const std::vector<double>& numbers = guard.steps[i].numbers;
      REQUIRE(numbers.size() == 4);
      CHECK(numbers[0] == exactly(low[i]));
      CHECK(numbers[1] == exactly(known["paper"]["0.5"][i]));
      CHECK(numbers[2] == 2.0);
      CHECK(numbers[3] == exactly(std::log(1.5)));
      CHECK(guard.steps[i].looks);
    }
  }
  CHECK_FALSE(open_guard({{"mode", "paper"}}, &bundle, table).steps[0].looks);  // before t_min's 780 alone
}

TEST_CASE("the golden numbers of official") {
  const Json known = golden()["official"];
  const Bundle bundle = read_bundle(folder() / "golden.negation");
  const Table flow = levels(known["flow"]);
  const OpenGuard sd3 = open_guard({{"mode", "official"}, {"sd3", true}, {"margin", 0}, {"first_steps", 2}}, &bundle, flow);
  CHECK((sd3.unit_pixels && sd3.draws_noise));
  for (std::size_t i = 0; i < flow.rows.size(); ++i) {
    const std::vector<double>& numbers = sd3.steps[i].numbers;
    REQUIRE(numbers.size() == 6);
    CHECK((numbers[0] == 3.15 && numbers[1] == 0.33 && numbers[5] == 1.0));
    CHECK(numbers[2] == doctest::Approx(known["lowest_den_sd3"].get<double>()).epsilon(1e-5));  // float32 noise and references
    CHECK(numbers[3] == exactly(known["kept"][i]));
    CHECK(numbers[4] == exactly(known["fresh"][i]));
    CHECK(sd3.steps[i].looks == (i < 2));
  }
  CHECK(lowest_den(bundle, flow.rows.back(), 3.15, false) == doctest::Approx(known["lowest_den"].get<double>()).epsilon(1e-5));
  Table pixels = flow;
  pixels.rows.erase(pixels.rows.begin());
  const OpenGuard plain = open_guard(parse_guard("official:memorized-person"), &bundle, pixels);
  CHECK(plain.steps[0].numbers == std::vector<double>{13.15, 0.69, 0.0, 0.0, 1.0, 0.0});
  CHECK_FALSE(open_guard({{"mode", "official"}, {"first_steps", -1}}, &bundle, pixels).steps[0].looks);
  CHECK(open_guard({{"mode", "official"}, {"first_steps", nullptr}, {"t_min", 500}}, &bundle, pixels).steps[0].looks);
}

TEST_CASE("official refuses plans that cannot follow it") {
  const Bundle bundle = read_bundle(folder() / "golden.negation");
  const auto refused = [&](const char* guard, auto change) {
    Table table = levels(golden()["official"]["flow"]);
    change(table.rows);
    try {
      open_guard(parse_guard(guard), &bundle, table);
    } catch (const Error& error) {
      CHECK(error.code() == Code::usage);
      return std::string(error.what());
    }
    return std::string();
  };
  const auto same = [](std::vector<Row>&) {};
  CHECK(refused("official:sd3-nudity", same).empty());
  CHECK(refused("official", same).find("divides by alpha") != std::string::npos);
  CHECK(refused("official", [](std::vector<Row>& rows) { rows.erase(rows.begin()); }).empty());
  CHECK(refused("official:sd3-nudity", [](std::vector<Row>& rows) { rows[1].c = 0.5; }).find("use ddim") != std::string::npos);
  for (const double odd : {-2e-6, 2e-6})
    CHECK(refused("official:sd3-nudity", [=](std::vector<Row>& rows) { rows[3].sigma += odd; }).find("rectified flow") != std::string::npos);
  CHECK(refused("official:sd3-nudity", [](std::vector<Row>& rows) { rows[2].d = 0.1; }).find("rectified flow") != std::string::npos);
}

TEST_CASE("the golden verdicts") {
  const Json known = golden(), watched = known["watched"];
  for (const Json& golden_verdict : known["verdicts"]) {
    std::vector<Verdict> verdicts(1);
    Verdict& verdict = verdicts[0];
    verdict.guard = golden_verdict.at("guard");
    verdict.steps = watched["evidence"].size();
    const Job job{{std::vector<Row>(verdict.steps, row(0.6, 0.8))}, {verdict.guard, {}}, 1.0, {}};
    for (std::size_t i = 0; i < verdict.steps; ++i) {
      Tensors outputs;
      outputs.emplace("value", host_tensor<float>({1}, {watched["evidence"][i].get<float>()}));
      outputs.emplace("weight", host_tensor<float>({1}, {watched["weight"][i].get<float>()}));
      outputs.emplace("nearest", host_tensor<std::int64_t>({1}, {watched["nearest"][i].get<std::int64_t>()}));
      add_step(job, i, outputs, verdicts);
    }
    CHECK(verdict.trace.size() == verdict.steps);
    CHECK(Json{{"guard", verdict.guard},
               {"steps", verdict.steps},
               {"opened", verdict.opened},
               {"corrected", verdict.corrected},
               {"strongest_evidence", *verdict.strongest_evidence},
               {"nearest_reference", *verdict.nearest_reference}} == golden_verdict);
  }
}

TEST_CASE("the row of a step says how noisy it is") {
  const Job job{levels(golden()["levels"]), {"off", std::vector<GuardStep>(8, GuardStep{{7.0}, false})}, 1.0, {}};
  const std::vector<float> values = step_row(job, 2);  // alpha 0.2, sigma 0.8
  REQUIRE(values.size() == 17);
  const std::vector<double> expected = {0.2, 0.8, 0.3125, 0.03125, 1.28, 1.0, 7.0};
  for (std::size_t i = 0; i < expected.size(); ++i) CHECK(values[10 + i] == doctest::Approx(expected[i]));
  CHECK(step_row(job, 6)[15] == 0.0f);  // alpha 1, sigma 0.7: no longer early
}
