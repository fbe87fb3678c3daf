/* Clips on demand: a bounded queue in front of an engine, and a future for every clip.
 *
 * The rules of gaitcrafter.h hold. A stream owns one thread, which feeds the engine in groups as large as its pool of
 * threads. A clip's bits are those of gc_generate for the same seed, clip index, conditions and sampler. A stream does
 * not survive a fork: open it in the process that uses it. */
#ifndef GAITCRAFTER_STREAM_H_
#define GAITCRAFTER_STREAM_H_

#include "gaitcrafter/gaitcrafter.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gc_stream gc_stream;
typedef struct gc_future gc_future;

typedef struct gc_stream_options {
  uint32_t struct_size, version;
  uint64_t capacity; /* requests that may wait, 1..1048576; gc_stream_submit blocks beyond */
  uint64_t batch;    /* clips of one engine call at most; 0: as many as the engine has threads */
  uint64_t seed;
  const gc_sampler* sampler; /* NULL: the model's defaults */
  float threshold;           /* above 0, below 1 */
  uint32_t reserved;
} gc_stream_options;

/* `engine` must stay open until the stream is closed. `options` may be NULL. */
GC_API gc_status gc_stream_open(gc_engine* engine, const gc_stream_options* options, gc_stream** stream);

/* Ends the stream: what waits or runs is cancelled, blocked and later calls of gc_stream_submit return GC_CANCELLED.
 * May be called from any thread. */
GC_API gc_status gc_stream_cancel(gc_stream* stream);
/* Cancels, waits for the thread, frees. NULL is fine; no call may be running. Futures stay valid. */
GC_API void gc_stream_close(gc_stream* stream);

/* Asks for one clip. `conditions` holds one clip's (NULL: null on every axis) and is copied. Waits while the queue is
 * full: `*future` is NULL, with GC_OK, if that takes longer than `timeout_ms` (negative: for ever). A condition that
 * the model does not know is refused here; what goes wrong later is the future's. */
GC_API gc_status gc_stream_submit(gc_stream* stream, uint64_t clip_index, const gc_conditions* conditions,
                                  int64_t timeout_ms, gc_future** future);

/* `*ready` is 1 when the clip or its error is there. A negative timeout waits for ever. */
GC_API gc_status gc_future_wait(const gc_future* future, int64_t timeout_ms, int* ready);
/* Waits, then copies the packed clip; `packed_size` must be gc_info.packed_bytes. The status is that of the generation:
 * GC_CANCELLED if it was cancelled. May be called again. */
GC_API gc_status gc_future_get(const gc_future* future, uint8_t* packed, uint64_t packed_size);
/* A request that waits is dropped. An engine call that runs ends early if all of its clips are cancelled. */
GC_API gc_status gc_future_cancel(gc_future* future);
/* Frees the handle, and cancels if the clip is not there yet. NULL is fine. */
GC_API void gc_future_release(gc_future* future);

static inline gc_stream_options gc_stream_options_default(void) {
  gc_stream_options o = {(uint32_t)sizeof(gc_stream_options), GC_ABI_VERSION, 64, 0, 0, NULL, 0.5f, 0};
  return o;
}

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* GAITCRAFTER_STREAM_H_ */
