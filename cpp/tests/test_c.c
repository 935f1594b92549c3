/* The C interface from plain C. If this fails, no other language can embed an engine. */
#include <safegen/safegen.h>
#include <math.h>
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

/* How many pictures came, and whether each was whole and in its place. */
typedef struct {
  size_t count;
  int whole;
} tally;

static int take_two(size_t i, const safegen_picture* picture, void* user) {
  tally* taken = user;
  taken->whole = taken->whole && i == taken->count && picture->width == 32 && picture->height == 32 && picture->rgb != NULL &&
                 strcmp(picture->verdict.guard, "ratio") == 0 && picture->verdict.steps == 6;
  return ++taken->count < 2;
}

/* Whether a request is refused with a line that starts with this. */
static int refused(const safegen_engine* engine, const safegen_request* request, const char* start) {
  safegen_pictures* pictures = NULL;
  return safegen_draw(engine, request, NULL, NULL, &pictures) == SAFEGEN_USAGE && pictures == NULL &&
         strncmp(safegen_last_error(), start, strlen(start)) == 0;
}

int main(int argc, char** argv) {
  safegen_engine* engine = NULL;
  safegen_pictures* pictures = NULL;
  safegen_request request, odd;
  const safegen_image image = {32, 32, NULL};
  const char* concepts[] = {"sneaker"};
  tally taken = {0, 1};
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
  request.n = 2;
  request.steps = 6;
  CHECK(safegen_draw(engine, &request, stop_at_two, &reached, &pictures) == SAFEGEN_CANCELLED && reached == 2);
  CHECK(pictures == NULL);
  CHECK(safegen_draw(engine, &request, NULL, NULL, &pictures) == SAFEGEN_OK);
  CHECK(safegen_count(pictures) == 2 && safegen_pixels(pictures, 2, NULL, NULL) == NULL);
  CHECK(safegen_pixels(pictures, 1, &width, &height) != NULL && width == 32 && height == 32);
  CHECK(safegen_verdict_of(pictures, 0, &verdict) == SAFEGEN_OK);
  CHECK(strcmp(verdict.guard, "ratio") == 0 && verdict.steps == 6 && verdict.opened > 0 && verdict.looked);
  CHECK(verdict.corrected > 0 && verdict.corrected <= verdict.opened);
  CHECK(safegen_verdict_of(pictures, 9, &verdict) == SAFEGEN_USAGE);
  safegen_free(pictures);

  request.n = 4;
  request.batch_size = 1;
  CHECK(safegen_draw_each(engine, &request, take_two, NULL, &taken) == SAFEGEN_CANCELLED && taken.count == 2 && taken.whole);
  CHECK(safegen_draw_each(engine, &request, NULL, NULL, NULL) == SAFEGEN_USAGE);

#define REFUSED(change, start) (odd = request, change, refused(engine, &odd, start))
  CHECK(REFUSED(odd.n = 0, "n is 0"));
  CHECK(REFUSED(odd.n = -1, "n is -1"));
  CHECK(REFUSED(odd.batch_size = 0, "batch_size is 0"));
  CHECK(REFUSED(odd.steps = 0, "steps is 0"));
  CHECK(REFUSED(odd.solver = "euler", "solver"));
  CHECK(REFUSED(odd.width = 64, "size is 64x-1"));
  CHECK(REFUSED(odd.text_guard = "safree", "text_guard"));
  CHECK(REFUSED((odd.concepts = concepts, odd.concept_count = 1), "concepts"));
  CHECK(REFUSED(odd.concept_count = 1, "a concept is NULL"));
  CHECK(REFUSED(odd.init = &image, "init"));
  CHECK(REFUSED(odd.strength = 0.8, "strength"));
  CHECK(REFUSED(odd.mask = &image, "mask"));
  CHECK(REFUSED(odd.guidance_scale = NAN, "guidance_scale"));
  CHECK(REFUSED(odd.guidance_scale = -INFINITY, "guidance_scale"));
  CHECK(REFUSED(odd.strength = -INFINITY, "strength"));
  safegen_close(engine);
  safegen_free(NULL);
  safegen_close(NULL);
  return 0;
}
