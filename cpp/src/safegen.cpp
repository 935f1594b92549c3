// The C interface over the C++ host: every exception becomes a status and a line of text.
#include <safegen/safegen.h>

#include <cmath>
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

/// A number that is given; negative ones leave it out. What is not finite is given, and refused later.
std::optional<double> given(double number) { return std::isfinite(number) && number < 0.0 ? std::nullopt : std::optional(number); }
std::optional<std::int64_t> given(std::int64_t number) { return number < 0 ? std::nullopt : std::optional(number); }
std::optional<std::string> given(const char* text) { return text ? std::optional<std::string>(text) : std::nullopt; }

/// Without its pixels: the host refuses images, whatever they show.
std::optional<safegen::Image> given(const safegen_image* image) {
  return image ? std::optional(safegen::Image{image->width, image->height, {}}) : std::nullopt;
}

safegen::Request request_of(const safegen_request& fields) {
  safegen::Request request;
  request.prompt = given(fields.prompt);
  request.class_label = given(fields.class_label);
  if (fields.negative_prompt) request.negative_prompt = fields.negative_prompt;
  request.seed = fields.seed;
  request.n = fields.n;
  request.steps = given(fields.steps);
  request.solver = given(fields.solver);
  request.guidance_scale = given(fields.guidance_scale);
  if (fields.width >= 0 || fields.height >= 0) request.size = std::array<std::int64_t, 2>{fields.width, fields.height};
  request.guard = given(fields.guard);
  request.text_guard = given(fields.text_guard);
  for (std::size_t i = 0; i < fields.concept_count; ++i) {
    require(fields.concepts && fields.concepts[i], "a concept");
    request.concepts.emplace_back(fields.concepts[i]);
  }
  request.init = given(fields.init);
  request.strength = given(fields.strength);
  request.mask = given(fields.mask);
  request.batch_size = fields.batch_size;
  return request;
}

safegen_verdict verdict_of(const safegen::Verdict& verdict) {
  return {verdict.guard.c_str(), verdict.steps, verdict.opened, verdict.corrected, verdict.strongest_evidence.has_value(),
          verdict.strongest_evidence.value_or(0.0f), verdict.nearest_reference.value_or(-1)};
}

safegen::Progress progress_of(safegen_progress progress, void* user) {
  if (!progress) return {};
  return [=](std::size_t done, std::size_t count) { return progress(done, count, user) != 0; };
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
  if (!request) return;
  *request = {};
  request->n = 1;
  request->batch_size = safegen::Request().batch_size;
  request->class_label = request->steps = request->width = request->height = -1;
  request->guidance_scale = request->strength = -1.0;
}

safegen_status safegen_draw_each(const safegen_engine* engine, const safegen_request* request, safegen_on_picture on_picture,
                                 safegen_progress progress, void* user) {
  return guarded([&] {
    require(engine && request && on_picture, "engine, request or on_picture");
    const safegen::OnPicture hand_out = [&](std::size_t i, const safegen::Picture& picture) {
      const safegen_picture view = {picture.width, picture.height, picture.rgb.data(), verdict_of(picture.verdict)};
      return on_picture(i, &view, user) != 0;
    };
    engine->pipeline.draw(request_of(*request), hand_out, progress_of(progress, user));
  });
}

safegen_status safegen_draw(const safegen_engine* engine, const safegen_request* request, safegen_progress progress, void* user,
                            safegen_pictures** out) {
  return guarded([&] {
    require(engine && request && out, "engine, request or out");
    *out = new safegen_pictures{engine->pipeline.draw(request_of(*request), progress_of(progress, user))};
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
    *out = verdict_of(pictures->pictures[index].verdict);
  });
}

void safegen_free(safegen_pictures* pictures) { delete pictures; }

const char* safegen_last_error(void) { return last_error.c_str(); }
