// The readers. If these fail, a changed or foreign file is taken for a sealed one.
#include <doctest.h>

#include <safegen/safegen.hpp>

using namespace safegen;
using namespace safegen::detail;

namespace {

std::string safetensors(const std::string& header, const std::string& body) {
  std::string file;
  for (std::size_t i = 0; i < 8; ++i) file += static_cast<char>(header.size() >> (8 * i) & 255u);
  return file + header + body;
}

}  // namespace

TEST_CASE("SHA-256 of nothing and of parts") {
  CHECK(sha256(std::string_view()) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256(std::string_view("a"), std::string_view("bc")) == sha256(std::string_view("abc")));
}

TEST_CASE("a seal is one field, and covers every byte") {
  const std::string zeros(64, '0'), blank = "{\"digest\":\"" + zeros + "\",\"x\":1}";
  std::string sealed = blank;
  sealed.replace(11, 64, sha256(std::string_view(blank)));
  CHECK(read_seal(sealed).holds());
  for (std::size_t at = 0; at < sealed.size(); ++at) {
    std::string changed = sealed;
    changed[at] = static_cast<char>(changed[at] ^ 1);
    CHECK_FALSE(read_seal(changed).holds());
  }
  CHECK_FALSE(read_seal("{}").holds());
  CHECK_FALSE(read_seal(sealed + sealed).holds());
}

TEST_CASE("half precision is read exactly") {
  CHECK(half_to_float(0x3c00) == 1.0f);
  CHECK(half_to_float(0xc000) == -2.0f);
  CHECK(half_to_float(0x0001) == std::ldexp(1.0f, -24));
  CHECK(half_to_float(0x83ff) == -std::ldexp(1023.0f, -24));
  CHECK(half_to_float(0x7bff) == 65504.0f);
  CHECK(std::isinf(half_to_float(0x7c00)));
  CHECK(std::isnan(half_to_float(0x7e00)));
}

TEST_CASE("tensors lie within their file") {
  const std::string body(8, '\0');
  const auto one = [](const std::string& shape, const std::string& offsets) {
    return "{\"a\":{\"dtype\":\"F32\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}}";
  };
  CHECK(parse_safetensors(safetensors(one("[2]", "[0,8]"), body)).at("a").count() == 2);
  for (const auto& header : {one("[2]", "[0,12]"), one("[3]", "[0,8]"), one("[2]", "[8,0]"), one("[-2]", "[0,8]"),
                             one("[4611686018427387904,4]", "[0,8]"), std::string("[]"), std::string("{")})
    CHECK_THROWS(parse_safetensors(safetensors(header, body)));
  const std::string two = R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})";
  CHECK(parse_safetensors(safetensors(two, body)).tensors.size() == 2);
  for (const char* place : {"[0,4]", "[2,6]"}) {  // read twice; a tail that nothing reads
    std::string odd = two;
    odd.replace(odd.find("[4,8]"), 5, place);
    CHECK_THROWS(parse_safetensors(safetensors(odd, body)));
  }
  CHECK_THROWS(parse_safetensors(safetensors(two, body + "more")));
  CHECK_THROWS(parse_safetensors("short"));
  CHECK_THROWS(parse_safetensors(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10)));
}

TEST_CASE("whole numbers are written as such, and fit") {
  const auto read = [](const char* text) { return Json::parse(text); };
  CHECK(read("-9223372036854775808").get<std::int64_t>() == std::numeric_limits<std::int64_t>::min());
  CHECK(read("9223372036854775807").get<std::int64_t>() == std::numeric_limits<std::int64_t>::max());
  CHECK(read("18446744073709551615").get<std::uint64_t>() == std::numeric_limits<std::uint64_t>::max());
  CHECK(Json(-7).get<std::int64_t>() == -7);
  CHECK(read("7").get<double>() == 7.0);
  for (const char* text : {"7.36e+32", "1.0", "-1e30", "9223372036854775808", "true", "\"1\"", "null", "[]"}) {
    CHECK_THROWS(read(text).get<std::int64_t>());
    CHECK_THROWS(Json{{"a", read(text)}, {"b", 1}}.get<std::map<std::string, std::int64_t>>());
  }
  for (const char* text : {"-1", "1e30"}) CHECK_THROWS(read(text).get<std::uint64_t>());
  CHECK_THROWS(read("[1, 2e30, 3]").get<std::array<std::int64_t, 3>>());
  for (const char* text : {"true", "\"1\"", "null"}) CHECK_THROWS(read(text).get<double>());
}

TEST_CASE("what is not finite is in no bank and no curve") {
  CHECK(finite<float>({1, -2}).size() == 2);
  for (const float odd : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), std::nanf("")})
    CHECK_THROWS(finite<float>({1, odd}));
}

TEST_CASE("noise is that of the Python package") {
  // Salmon et al.'s own test vectors of Philox 4x32-10
  CHECK(philox({0, 0, 0, 0}, {0, 0}) == std::array<std::uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
        std::array<std::uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  const std::vector<float> five = normal(1, 0, 5), eight = normal(1, 0, 8);
  CHECK(std::equal(five.begin(), five.end(), eight.begin()));
}

TEST_CASE("curves are NumPy's") {
  const std::vector<double> known = {-1, 0, 2}, curve = {10, 20, 40};
  CHECK(interpolate(-9, known, curve) == 10);
  CHECK(interpolate(-0.5, known, curve) == 15);
  CHECK(interpolate(0, known, curve) == 20);
  CHECK(interpolate(1, known, curve) == 30);
  for (const double beyond : {2.0, 9.0, std::numeric_limits<double>::infinity()}) CHECK(interpolate(beyond, known, curve) == 40);
  CHECK(interpolate(-std::numeric_limits<double>::infinity(), known, curve) == 10);
  for (const double at : {-1.0, 0.0, 1.0}) CHECK(interpolate(at, {0}, {7}) == 7);
}

TEST_CASE("the rank of a rate is that of split conformal prediction") {
  CHECK(conformal_rank(199, 0.005) == 199);
  CHECK(conformal_rank(198, 0.005) == 198);  // too few: the highest
  CHECK(conformal_rank(39, 0.7) == 12);      // 40 * 0.3 is a hair above 12
  CHECK(conformal_rank(10, 0.0) == 10);
  CHECK(conformal_rank(10, 1.0) == 1);
  CHECK(conformal_rank(1, 0.5) == 1);
}

TEST_CASE("regions lie where Python has them") {
  // the same table is in tests/runtime/guard/test_regions.py
  const std::vector<std::array<std::int64_t, 3>> known = {{4, 4, 4},    {8, 4, 7},    {64, 2, 33},   {100, 2, 51}, {128, 2, 33},
                                                          {132, 2, 34}, {192, 2, 33}, {260, 4, 196}, {512, 4, 97}};
  for (const auto& [length, sides, count] : known) {
    CHECK(regions_along(length, sides, true) == count);
    CHECK(regions_along(length, sides, false) == sides);
  }
}

TEST_CASE("guards are named as in Python") {
  CHECK(parse_guard("official:inappropriate").at("scale") == 0.03);
  CHECK(parse_guard("ratio").at("mode") == "ratio");
  CHECK_THROWS_AS(parse_guard("nothing"), Error);
  CHECK_THROWS_AS(parse_guard("ratio:nudity"), Error);
  for (const char* rival : {"theorem", "spell", "sgf", "bank-mean", "renoise-only"}) {
    try {
      parse_guard(rival);
      CHECK(false);
    } catch (const Error& error) {
      CHECK(error.code() == Code::guard);
      CHECK(std::string(error.what()).find(std::string(rival) + "' is for research and runs in the Python package alone") != std::string::npos);
    }
    CHECK_THROWS_AS(check_settings({{"mode", rival}}), Error);
  }
  const Table table{{Row{999, 1, 1, 0, 1, 0, 0, 0, 0.6, 0.8}}};
  CHECK(open_guard({{"mode", "off"}}, nullptr, table).steps.size() == 1);
  CHECK_THROWS_AS(open_guard({{"mode", "ratio"}}, nullptr, table), Error);
}

TEST_CASE("a bundle's guard has settings that this version knows, of the kind and range that they have") {
  const auto read = [](const char* text) { return Json::parse(text); };
  for (const char* text : {R"({"mode": "off"})", R"({"mode": "ratio", "false_positive_rate": 0, "repulsion": -1.5})",
                           R"({"mode": "paper", "quantile": 1})", R"({"mode": "official", "first_steps": null, "sd3": true})",
                           R"({"mode": "official", "gate": false, "first_steps": 12})"})
    check_settings(read(text));
  for (const char* text :
       {"null", "[]", "{}", R"({"mode": 5})", R"({"mode": null})", R"({"mode": "stronger"})", R"({"mode": "off", "strength": 2})",
        R"({"mode": "ratio", "repulsion": null})", R"({"mode": "ratio", "repulsion": "1"})", R"({"mode": "ratio", "repulsion": true})",
        R"({"mode": "ratio", "false_positive_rate": -0.1})", R"({"mode": "ratio", "false_positive_rate": null})",
        R"({"mode": "paper", "quantile": 1.1})", R"({"mode": "paper", "quantile": 1e30})", R"({"mode": "paper", "w_max": 0})",
        R"({"mode": "official", "gate": 0})", R"({"mode": "official", "first_steps": 1e30})", R"({"mode": "official", "first_steps": 1.5})",
        R"({"mode": "official", "bandwidth": -1})", R"({"mode": "official", "unit_x0": true})"})
    CHECK_THROWS(check_settings(read(text)));
}
