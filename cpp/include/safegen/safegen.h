/* The C interface of the C++ host: opaque handles, no exceptions. See docs/cpp.md.
 *
 * Every function may be called from any thread; one open engine may draw on several at a time. */
#ifndef SAFEGEN_H
#define SAFEGEN_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(safegen_c_EXPORTS)
#define SAFEGEN_API __declspec(dllexport)
#elif defined(_WIN32)
#define SAFEGEN_API __declspec(dllimport)
#else
#define SAFEGEN_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  SAFEGEN_OK = 0,
  SAFEGEN_USAGE = 1,     /* a request that has no meaning */
  SAFEGEN_ENGINE = 2,    /* an engine that is incomplete, changed, of another schema, or cannot run here */
  SAFEGEN_BUNDLE = 3,    /* a bundle that is missing, changed, or made for another autoencoder */
  SAFEGEN_GUARD = 4,     /* a guard that the engine does not allow, or that has no bundle to guard with */
  SAFEGEN_CANCELLED = 5, /* a function of the caller said stop */
  SAFEGEN_INTERNAL = 6   /* out of memory, or a mistake of this library */
} safegen_status;

typedef enum { SAFEGEN_CPU = 0, SAFEGEN_CUDA = 1, SAFEGEN_TENSORRT = 2, SAFEGEN_RTX = 3 } safegen_provider;

typedef struct safegen_engine safegen_engine;
typedef struct safegen_pictures safegen_pictures;

/* Pixels of the caller, height x width x 3. */
typedef struct {
  int64_t width, height;
  const uint8_t* rgb;
} safegen_image;

/* What to draw, by the names that the Python package has. Fill it with safegen_request_init first; NULL and
 * negative numbers leave the choice to the engine and its bundle. What this host cannot draw is a field all the
 * same, and SAFEGEN_USAGE where it is given: never a picture of something else. */
typedef struct {
  const char* prompt;          /* UTF-8 */
  int64_t class_label;         /* for a model of classes */
  const char* negative_prompt; /* takes the place of the empty prompt in guidance */
  uint64_t seed;
  int64_t n;          /* pictures, 1 or more; picture i has seed + i */
  int64_t steps;      /* model evaluations */
  const char* solver; /* the engine's own alone */
  double guidance_scale;
  int64_t width, height;       /* in pixels, both or neither; the engine's own alone */
  const char* guard;           /* ratio, official:nudity, and so on */
  const char* text_guard;      /* Python's alone */
  const char* const* concepts; /* of a text guard: Python's alone */
  size_t concept_count;
  const safegen_image* init; /* an image to start from: Python's alone */
  double strength;           /* of init: Python's alone */
  const safegen_image* mask; /* of init: Python's alone */
  int64_t batch_size;        /* pictures drawn at a time, 1 to 1024; memory grows with these, not with n */
} safegen_request;

/* What the guard did to one picture. */
typedef struct {
  const char* guard; /* lives as long as the picture */
  size_t steps;
  size_t opened;             /* at so many of them the gate was open: evidence above 0 or, with ratio, at a step before */
  size_t corrected;          /* at so many the guard changed the picture: weight above 0 */
  int looked;                /* 0 where the guard looked at no step; the next two then mean nothing */
  float strongest_evidence;  /* the gate opens above 0 */
  int64_t nearest_reference; /* at the step of the strongest evidence */
} safegen_verdict;

/* One picture, handed out as soon as it is finished. */
typedef struct {
  int64_t width, height;
  const uint8_t* rgb; /* height x width x 3 */
  safegen_verdict verdict;
} safegen_picture;

/* Called after each step with how many are done and how many all batches of the request take; 0 stops. */
typedef int (*safegen_progress)(size_t done, size_t count, void* user);

/* Called with picture i of a request, in order; it lives until the function returns. 0 stops. */
typedef int (*safegen_on_picture)(size_t i, const safegen_picture* picture, void* user);

/* Open and verify an engine folder. bundle may be NULL: the engine's own. threads 0: ONNX Runtime's choice. */
SAFEGEN_API safegen_status safegen_open(const char* engine, const char* bundle, safegen_provider provider, int device_id,
                                        int threads, safegen_engine** out);
SAFEGEN_API void safegen_close(safegen_engine* engine);

SAFEGEN_API void safegen_request_init(safegen_request* request);

/* Draw the pictures of a request, batch by batch, and hand out each one as soon as it is finished: memory does not
 * grow with their number. An error takes back none that was handed out before it. progress may be NULL. */
SAFEGEN_API safegen_status safegen_draw_each(const safegen_engine* engine, const safegen_request* request,
                                             safegen_on_picture on_picture, safegen_progress progress, void* user);

/* The same, all of them at the end. */
SAFEGEN_API safegen_status safegen_draw(const safegen_engine* engine, const safegen_request* request, safegen_progress progress,
                                        void* user, safegen_pictures** out);

/* Pixels of a picture, height x width x 3; they live as long as the pictures. NULL where there is no such picture. */
SAFEGEN_API const uint8_t* safegen_pixels(const safegen_pictures* pictures, size_t index, int64_t* width, int64_t* height);
SAFEGEN_API size_t safegen_count(const safegen_pictures* pictures);
SAFEGEN_API safegen_status safegen_verdict_of(const safegen_pictures* pictures, size_t index, safegen_verdict* out);
SAFEGEN_API void safegen_free(safegen_pictures* pictures);

/* One line: what the last call of this thread that failed found wrong, and what to do. */
SAFEGEN_API const char* safegen_last_error(void);

#ifdef __cplusplus
}
#endif

#endif
