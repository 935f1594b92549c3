// The C interface over the C++ host: every exception becomes a status and a line of text.
#include <safegen/safegen.h>

#include <safegen/safegen.hpp>

struct safegen_engine {
  safegen::Pipeline pipeline;
};

struct safegen_pictures {
  std::vector<safegen::Picture> pictures;
};

namespace {

thread_local std::string last_error;

safegen_status fail(safegen_status status, const char* message) noexcept {
  try {
    last_error = message;
  } catch (...) {
    last_error.clear();
  }
  return status;
}

template <typename Body>
safegen_status guarded(Body body) noexcept {
  try {
    body();
    return SAFEGEN_OK;
  } catch (const safegen::Error& error) {
    return fail(static_cast<safegen_status>(error.code()), error.what());
  } catch (const std::exception& error) {
    return fail(SAFEGEN_INTERNAL, error.what());
  } catch (...) {
    return fail(SAFEGEN_INTERNAL, "something that is no exception was thrown.");
  }
}

void require(bool given, const char* what) {
  if (!given) throw safegen::Error(safegen::Code::usage, std::string(what) + " is NULL.");
}

safegen::Request request_of(const safegen_request& given) {
  safegen::Request request;
  if (given.prompt) request.prompt = given.prompt;
  if (given.negative_prompt) request.negative_prompt = given.negative_prompt;
  if (given.guard) request.guard = given.guard;
  if (given.class_label >= 0) request.class_label = given.class_label;
  if (given.steps >= 0) request.steps = given.steps;
  if (!(given.guidance_scale < 0.0)) request.guidance_scale = given.guidance_scale;
  request.seed = given.seed;
  request.count = given.count;
  return request;
}

}  // namespace

safegen_status safegen_open(const char* engine, const char* bundle, safegen_provider provider, int device_id, int threads,
                            safegen_engine** out) {
  return guarded([&] {
    require(engine && out, "engine or out");
    if (provider < SAFEGEN_CPU || provider > SAFEGEN_RTX) throw safegen::Error(safegen::Code::usage, "provider is unknown.");
    const safegen::DeviceOptions options{static_cast<safegen::Provider>(provider), device_id, threads};
    *out = new safegen_engine{safegen::Pipeline(engine, bundle ? bundle : "", options)};
  });
}

void safegen_close(safegen_engine* engine) { delete engine; }

void safegen_request_init(safegen_request* request) {
  if (request) *request = {nullptr, nullptr, nullptr, -1, 0, 1, -1, -1.0};
}

safegen_status safegen_draw(const safegen_engine* engine, const safegen_request* request, safegen_progress progress, void* user,
                            safegen_pictures** out) {
  return guarded([&] {
    require(engine && request && out, "engine, request or out");
    safegen::Progress told;
    if (progress) told = [&](std::size_t done, std::size_t count) { return progress(done, count, user) != 0; };
    *out = new safegen_pictures{engine->pipeline.draw(request_of(*request), told)};
  });
}

const uint8_t* safegen_pixels(const safegen_pictures* pictures, size_t index, int64_t* width, int64_t* height) {
  if (!pictures || index >= pictures->pictures.size()) return nullptr;
  const safegen::Picture& picture = pictures->pictures[index];
  if (width) *width = picture.width;
  if (height) *height = picture.height;
  return picture.rgb.data();
}

size_t safegen_count(const safegen_pictures* pictures) { return pictures ? pictures->pictures.size() : 0; }

safegen_status safegen_verdict_of(const safegen_pictures* pictures, size_t index, safegen_verdict* out) {
  return guarded([&] {
    require(pictures && out, "pictures or out");
    if (index >= pictures->pictures.size()) throw safegen::Error(safegen::Code::usage, "there is no picture of this index.");
    const safegen::Verdict& verdict = pictures->pictures[index].verdict;
    *out = {verdict.guard.c_str(), verdict.steps, verdict.opened, verdict.leaned, verdict.strongest_evidence.has_value(),
            verdict.strongest_evidence.value_or(0.0f), verdict.nearest_reference.value_or(-1)};
  });
}

void safegen_free(safegen_pictures* pictures) { delete pictures; }

const char* safegen_last_error(void) { return last_error.c_str(); }
