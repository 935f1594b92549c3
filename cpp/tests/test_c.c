/* The C interface from plain C. If this fails, no other language can embed an engine. */
#include <safegen/safegen.h>
#include <stdio.h>
#include <string.h>

#define CHECK(condition)                                                             \
  do {                                                                               \
    if (!(condition)) {                                                              \
      fprintf(stderr, "%d: %s (%s)\n", __LINE__, #condition, safegen_last_error()); \
      return 1;                                                                      \
    }                                                                                \
  } while (0)

static int stop_at_two(size_t done, size_t count, void* user) {
  *(size_t*)user = done;
  return done < 2 && count > 0;
}

int main(int argc, char** argv) {
  safegen_engine* engine = NULL;
  safegen_pictures* pictures = NULL;
  safegen_request request;
  safegen_verdict verdict;
  int64_t width = 0, height = 0;
  size_t reached = 0;

  CHECK(argc == 2);
  CHECK(safegen_open("no-such-folder", NULL, SAFEGEN_CPU, 0, 0, &engine) == SAFEGEN_ENGINE);
  CHECK(strstr(safegen_last_error(), "no engine.json here") != NULL);
  CHECK(safegen_open(NULL, NULL, SAFEGEN_CPU, 0, 0, &engine) == SAFEGEN_USAGE);
  CHECK(safegen_open(argv[1], NULL, SAFEGEN_CPU, 0, 1, &engine) == SAFEGEN_OK);

  safegen_request_init(&request);
  CHECK(safegen_draw(engine, &request, NULL, NULL, &pictures) == SAFEGEN_USAGE); /* no prompt */
  request.prompt = "a photo of a sneaker";
  request.seed = 7;
  request.count = 2;
  request.steps = 6;
  CHECK(safegen_draw(engine, &request, stop_at_two, &reached, &pictures) == SAFEGEN_CANCELLED && reached == 2);
  CHECK(pictures == NULL);
  CHECK(safegen_draw(engine, &request, NULL, NULL, &pictures) == SAFEGEN_OK);
  CHECK(safegen_count(pictures) == 2 && safegen_pixels(pictures, 2, NULL, NULL) == NULL);
  CHECK(safegen_pixels(pictures, 1, &width, &height) != NULL && width == 32 && height == 32);
  CHECK(safegen_verdict_of(pictures, 0, &verdict) == SAFEGEN_OK);
  CHECK(strcmp(verdict.guard, "ratio") == 0 && verdict.steps == 6 && verdict.opened > 0 && verdict.looked);
  CHECK(safegen_verdict_of(pictures, 9, &verdict) == SAFEGEN_USAGE);
  safegen_free(pictures);
  safegen_close(engine);
  safegen_free(NULL);
  safegen_close(NULL);
  return 0;
}
