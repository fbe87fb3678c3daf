/* The C interface of libgaitcrafter.
 *
 * Every call returns a gc_status; gc_last_error_message() then says what came, what is allowed and how to fix it. All
 * arguments are checked before anything is allocated or written. No exception leaves the library.
 *
 * Every struct begins with its size and version, so that a program built against an older header keeps working: start
 * from the gc_..._default() functions below and set what you need. Zero-initialised reserved fields must stay zero.
 *
 * Handles may be used by several threads: gc_generate calls on one engine run one after another, all other calls on it
 * may run at any time. Arrays are borrowed for the length of the call. Strings are UTF-8. */
#ifndef GAITCRAFTER_GAITCRAFTER_H_
#define GAITCRAFTER_GAITCRAFTER_H_

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(GC_BUILDING)
#define GC_API __attribute__((visibility("default")))
#else
#define GC_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Version of the structs in this header. A struct of a newer version than the library knows is refused; one of an older
 * version is taken, and what it lacks has its default. 2: gc_request.mode. 3: gc_options.backend and what follows. */
#define GC_ABI_VERSION 3u

/* The same numbers as the exceptions in gaitcrafter_rt/errors.py. */
typedef enum gc_status {
  GC_OK = 0,
  GC_UNKNOWN = 1,
  GC_INVALID_REQUEST = 2,     /* an argument is outside what the model or the sampler allows */
  GC_MODEL_FORMAT = 3,        /* the model folder is malformed */
  GC_UNSUPPORTED_VERSION = 4, /* a file or struct of a newer version than this library reads */
  GC_DATA_FORMAT = 5,
  GC_OUTPUT = 6,
  GC_CAPABILITY = 7, /* this machine or build cannot do what was asked */
  GC_MISSING_EXTRA = 8,
  GC_CANCELLED = 9, /* the progress callback asked to stop; the output buffers hold nothing of use */
  GC_OUT_OF_MEMORY = 10,
  GC_INTERNAL = 11
} gc_status;

enum { GC_AXIS_DATASET = 0, GC_AXIS_IDENTITY = 1, GC_AXIS_VIEW = 2, GC_AXIS_COVARIATE = 3, GC_AXES = 4 };
enum {
  GC_SAMPLER_DDPM = 0,
  GC_SAMPLER_DDIM = 1,
  GC_SAMPLER_DPMPP_2M = 2,
  GC_SAMPLER_DPMPP_3M = 3,
  GC_SAMPLER_UNIPC = 4
};
enum { GC_SPACING_LEADING = 0, GC_SPACING_TRAILING = 1, GC_SPACING_LINSPACE = 2 };
enum { GC_THRESHOLDING_NONE = 0, GC_THRESHOLDING_CLIP = 1, GC_THRESHOLDING_DYNAMIC = 2 };
enum { GC_MODE_AUTO = 0, GC_MODE_THROUGHPUT = 1, GC_MODE_LATENCY = 2 };
enum { GC_MODEL_DEFAULT = -1 }; /* for the enum-like and boolean fields of gc_sampler */

typedef struct gc_engine gc_engine;

/* ---- opening -------------------------------------------------------------------------------------------------- */

typedef struct gc_options {
  uint32_t struct_size, version;
  const char* device;    /* "cpu"; NULL means that */
  const char* precision; /* "fp32", "fp32-winograd", "bf16", "int8"; "auto" or NULL: bf16 if faster here, else fp32 */
  /* "portable", "avx2", "avx512", "avx512_amx"; NULL means the widest that runs here, or GAITCRAFTER_ISA */
  const char* isa;
  int32_t threads; /* 1..256; 0 means one per processor that this process may use */
  int32_t reserved;
  /* Since version 3. Who runs the network (docs/export.md): "native" or NULL, the engine of this library; "none" only
   * says what a model is. The rest is for other backends than "native". */
  const char* backend;
  const char* library; /* path of the backend's shared library; NULL: where docs/export.md says */
  const char* plan;    /* what the backend runs in place of what is in the model folder; NULL: what is there */
  int32_t batch;       /* clips per network call, 1..256; 0 means the backend's own */
  int32_t reserved2;
} gc_options;

/* `path` is a model package: a folder with config.json, model.safetensors and checksums.json; for backends that run an
 * exported network the folder that the export wrote. `options` may be NULL. */
GC_API gc_status gc_engine_open(const char* path, const gc_options* options, gc_engine** engine);
GC_API void gc_engine_close(gc_engine* engine); /* NULL is fine; no call may be running */

/* ---- sampler -------------------------------------------------------------------------------------------------- */

/* Meaning of the fields: docs/samplers.md. Defaults are the model's own (config.json, "sampler"). */
typedef struct gc_sampler {
  uint32_t struct_size, version;
  int32_t kind;              /* GC_SAMPLER_..., or GC_MODEL_DEFAULT */
  int32_t steps;             /* 1..timesteps; 0 means the model default */
  double eta;                /* 0..1; negative means the model default */
  int32_t spacing;           /* GC_SPACING_..., or GC_MODEL_DEFAULT */
  int32_t thresholding;      /* GC_THRESHOLDING_..., or GC_MODEL_DEFAULT */
  double dynamic_percentile; /* above 0, below 1; negative means the model default */
  int32_t rederive_eps;      /* 0, 1, or GC_MODEL_DEFAULT */
  uint32_t null_axes;        /* bit a: axis a is null in the lane that guidance moves away from; 0 means all axes */
  double guidance;           /* 0..100; negative means the model default; 1 is no guidance and one network call */
} gc_sampler;

/* One step, as in docs/architecture.md, "The sampler". */
typedef struct gc_sampler_row {
  int32_t timestep;
  uint32_t stream;
  float a_x, a_out, c_x, c_x0, c_prev1, c_prev2, c_raw, c_noise;
} gc_sampler_row;

/* ---- what a model is ------------------------------------------------------------------------------------------ */

typedef struct gc_info {
  uint32_t struct_size, version;
  int32_t channels, frames, height, width;
  int32_t timesteps;
  int32_t cond_dim;              /* 0: conditions are labels; else the length of a raw condition vector */
  int32_t label_count[GC_AXES];  /* vocabulary of each axis, 0 if the axis is absent */
  int32_t label_usable[GC_AXES]; /* 1 if a request may name labels of this axis */
  int32_t guidance_trained;      /* 0: only guidance 1 is allowed */
  int32_t threads;
  uint64_t clip_floats;  /* channels x frames x height x width */
  uint64_t packed_bytes; /* of one clip */
  double flops_per_call; /* 2 x multiply-adds of one network call for one clip */
  gc_sampler sampler;    /* the model's defaults, every field set */
  /* Valid until gc_engine_close. */
  const char *name, *model_sha256, *device, *precision, *isa;
  const char *training_data, *training_data_terms, *identities, *command, *notes;
} gc_info;

GC_API gc_status gc_engine_info(const gc_engine* engine, gc_info* info);

/* Who runs the network, and what. Runtimes choose algorithms by shape: a clip's bits depend on the batch and on what
 * runs too, but not on the other clips of a batch. Strings are valid until gc_engine_close. */
typedef struct gc_backend {
  uint32_t struct_size, version;
  const char *name, *sha256, *runtime; /* as opened; hash of what runs; the library that runs it, with its version */
  int32_t batch;                       /* clips per network call */
  int32_t reserved;
} gc_backend;

GC_API gc_status gc_engine_backend(const gc_engine* engine, gc_backend* backend);

/* Where the engine's packed weights lie: "cache", mapped from a file that was there; "written", the same after packing
 * and writing it; "memory", packed into memory of this process, because there is no usable cache. */
GC_API gc_status gc_engine_weights_from(const gc_engine* engine, const char** text);

/* Name of a label; `*text` has `*length` bytes, is followed by a NUL, and lives as long as the engine. */
GC_API gc_status gc_engine_label(const gc_engine* engine, int32_t axis, int32_t index, const char** text,
                                 size_t* length);
/* Index of a label name. GC_INVALID_REQUEST, naming the vocabulary, if the axis has no such label. */
GC_API gc_status gc_engine_find_label(const gc_engine* engine, int32_t axis, const char* text, size_t length,
                                      int32_t* index);

/* ---- generating ----------------------------------------------------------------------------------------------- */

/* Labels of one axis for all clips of a request, as compressed rows: clip i has entries offsets[i] .. offsets[i+1]-1 of
 * `labels` and `weights`. A clip without entries is null on this axis; several entries are a blend, added as they are.
 * All NULL: null for every clip. */
typedef struct gc_axis_conditions {
  const uint64_t* offsets; /* count + 1 values, the first 0, not decreasing */
  const int32_t* labels;
  const float* weights;
} gc_axis_conditions;

typedef struct gc_conditions {
  uint32_t struct_size, version;
  gc_axis_conditions axes[GC_AXES];
  const float* cond;         /* count x cond_dim raw vectors, for models with cond_dim > 0; NULL: none */
  const uint8_t* cond_given; /* count flags; 0: this clip has no raw vector. NULL: every clip has one */
} gc_conditions;

typedef struct gc_progress {
  uint32_t struct_size, version;
  uint64_t steps_done, steps_total; /* summed over clips */
  uint64_t clips_done, clips_total;
} gc_progress;

/* Called on the thread that called gc_generate: before the first step, about every 50 ms, and after the last step.
 * A return value other than 0 stops the call with GC_CANCELLED. */
typedef int (*gc_progress_callback)(void* user, const gc_progress* progress);

typedef struct gc_request {
  uint32_t struct_size, version;
  uint64_t seed;
  uint64_t start;                  /* clip i of the request has clip index start + i ... */
  const uint64_t* clip_indices;    /* ... or clip_indices[i], if given */
  uint64_t count;                  /* 1..GC_MAX_CLIPS */
  const gc_conditions* conditions; /* NULL: all null */
  const gc_sampler* sampler;       /* NULL: the model's defaults */
  float threshold;                 /* above 0, below 1: a pixel is foreground where (x_0 + 1) / 2 exceeds it */
  uint32_t reserved;
  const float* initial_noise; /* count x clip_floats values of x_T in place of stream 0; NULL: drawn from the seed */
  gc_progress_callback progress;
  void* progress_user;
  /* Since version 2. How threads share the clips; bits do not depend on it. GC_MODE_THROUGHPUT: a clip per thread.
   * GC_MODE_LATENCY: one clip after another, each by all threads. GC_MODE_AUTO: a clip per thread, and threads that
   * have none, because the clips are few or the last ones are being made, help the others. */
  int32_t mode;
  int32_t reserved2;
} gc_request;

#define GC_MAX_CLIPS 1048576u

typedef struct gc_output {
  uint32_t struct_size, version;
  uint8_t* packed;      /* count x packed_bytes: channel, frame, row, column; most significant bit first */
  uint64_t packed_size; /* bytes; must be exactly that */
  float* x0;            /* count x clip_floats values of x_0 in [-1, 1], or NULL */
  uint64_t x0_size;     /* floats; must be exactly that, or 0 with NULL */
} gc_output;

/* A clip's bits depend on the model, its conditions, the sampler, the seed and its clip index; not on the other clips
 * of the request, the number of threads or the mode. They may differ between instruction sets. */
GC_API gc_status gc_generate(gc_engine* engine, const gc_request* request, const gc_output* output);

/* ---- profiling ------------------------------------------------------------------------------------------------ */

/* One op at one resolution. The strings are literals. */
typedef struct gc_profile_row {
  const char*
      stage;      /* "network", "network in fp32" (calls that an eps-model makes in fp32 in every precision), "clip" */
  const char* op; /* "convolution 3x3", "temporal attention", "sampler step", ... */
  const char* arithmetic; /* of its products, as in gc_processor_rate; "" if it has none */
  int32_t height, width;  /* 0 for what has no resolution */
  uint64_t calls;
  double seconds;    /* by the clock of the thread that leads a clip; clips made at the same time are added up */
  double operations; /* 2 x multiply-adds, counted as if every convolution were direct */
} gc_profile_row;

/* Times every part of the calls of gc_generate from now on, from zero (on = 1), or no longer (on = 0, and at first). */
GC_API gc_status gc_profile(gc_engine* engine, int on);
/* Writes up to `capacity` rows and the number of rows to `*count`; none unless profiling is on. */
GC_API gc_status gc_profile_rows(const gc_engine* engine, gc_profile_row* rows, size_t capacity, size_t* count);

/* ---- the parts, for tests and benchmarks ---------------------------------------------------------------------- */

/* One network call per clip on the calling thread: x, out are count x clip_floats; timesteps has count values. */
GC_API gc_status gc_unet_forward(const gc_engine* engine, uint64_t count, const float* x, const int32_t* timesteps,
                                 const gc_conditions* conditions, float* out);

/* Writes up to `capacity` rows and the number of rows to `*count`. `rows` may be NULL if `capacity` is 0. */
GC_API gc_status gc_sampler_table(const gc_engine* engine, const gc_sampler* sampler, gc_sampler_row* rows,
                                  size_t capacity, size_t* count);

/* `sampler` with every model default filled in: what gc_generate would run. NULL: the model's own. */
GC_API gc_status gc_sampler_resolve(const gc_engine* engine, const gc_sampler* sampler, gc_sampler* resolved);

/* Elements 0..n-1 of a noise stream (docs/architecture.md, "Noise"): 0 is x_T, 1 + t is the noise of timestep t. */
GC_API gc_status gc_noise_fill(uint64_t seed, uint64_t clip, uint32_t stream, float* out, size_t n);

GC_API gc_status gc_pack(const float* x, size_t pixels, float threshold, uint8_t* packed); /* (pixels + 7) / 8 bytes */
GC_API gc_status gc_unpack(const uint8_t* packed, size_t pixels, uint8_t* mask); /* one byte, 0 or 1, per pixel */

/* Judges the text of a config.json; `source` names it in messages and may be NULL. */
GC_API gc_status gc_config_check(const char* text, size_t length, const char* source);

/* ---- the library ---------------------------------------------------------------------------------------------- */

/* Of the last call on this thread that did not return GC_OK; "" if none. Valid until the next call on this thread. */
GC_API const char* gc_last_error_message(void);
GC_API const char* gc_version(void);  /* "0.1.0" */
GC_API uint32_t gc_abi_version(void); /* GC_ABI_VERSION of the library */
/* The instruction set that an engine gets by default. */
GC_API gc_status gc_isa(const char** name);
/* Whether this processor runs the named one; GC_INVALID_REQUEST for an unknown name. */
GC_API gc_status gc_isa_supported(const char* name, int* supported);
/* Whether an engine with the default instruction set takes the precision ("fp32", "fp32-winograd", "bf16", "int8")
 * here; GC_INVALID_REQUEST for an unknown name. */
GC_API gc_status gc_precision_supported(const char* name, int* supported);

/* What one core does with operands in registers alone, in operations per second (two per multiply-add) of the calling
 * thread's processor time; takes some 30 ms. `arithmetic` is "fp32", "bf16" (vdpbf16ps) or "int8" (vpdpbusd); `isa` as
 * in gc_options. GC_CAPABILITY if this processor lacks the instruction. */
GC_API gc_status gc_processor_rate(const char* arithmetic, const char* isa, double* operations_per_second);

/* The cache of packed weights (docs/cpu-engine.md, "Packed weights"). `entries` and `bytes` count what is in it: for
 * `model_sha256` alone, as this build writes them, unless it is NULL. Strings are valid until the next call on this
 * thread. */
typedef struct gc_cache {
  uint32_t struct_size, version;
  const char* folder;  /* "" if there is none */
  const char* problem; /* why it is not used; "" if it is */
  uint64_t entries, bytes;
} gc_cache;

GC_API gc_status gc_cache_look(const char* model_sha256, gc_cache* cache);

/* ---- structs with every field at its default ------------------------------------------------------------------ */

static inline gc_options gc_options_default(void) {
  gc_options o = {(uint32_t)sizeof(gc_options), GC_ABI_VERSION, NULL, NULL, NULL, 0, 0, NULL, NULL, NULL, 0, 0};
  return o;
}

static inline gc_backend gc_backend_default(void) {
  gc_backend b;
  memset(&b, 0, sizeof b);
  b.struct_size = (uint32_t)sizeof(gc_backend);
  b.version = GC_ABI_VERSION;
  return b;
}

static inline gc_sampler gc_sampler_default(void) {
  gc_sampler s = {(uint32_t)sizeof(gc_sampler),
                  GC_ABI_VERSION,
                  GC_MODEL_DEFAULT,
                  0,
                  -1.0,
                  GC_MODEL_DEFAULT,
                  GC_MODEL_DEFAULT,
                  -1.0,
                  GC_MODEL_DEFAULT,
                  0,
                  -1.0};
  return s;
}

static inline gc_info gc_info_default(void) {
  gc_info i;
  memset(&i, 0, sizeof i);
  i.struct_size = (uint32_t)sizeof(gc_info);
  i.version = GC_ABI_VERSION;
  return i;
}

static inline gc_cache gc_cache_default(void) {
  gc_cache c;
  memset(&c, 0, sizeof c);
  c.struct_size = (uint32_t)sizeof(gc_cache);
  c.version = GC_ABI_VERSION;
  return c;
}

static inline gc_conditions gc_conditions_default(void) {
  gc_conditions c;
  memset(&c, 0, sizeof c);
  c.struct_size = (uint32_t)sizeof(gc_conditions);
  c.version = GC_ABI_VERSION;
  return c;
}

static inline gc_request gc_request_default(void) {
  gc_request r;
  memset(&r, 0, sizeof r);
  r.struct_size = (uint32_t)sizeof(gc_request);
  r.version = GC_ABI_VERSION;
  r.count = 1;
  r.threshold = 0.5f;
  return r;
}

static inline gc_output gc_output_default(void) {
  gc_output o;
  memset(&o, 0, sizeof o);
  o.struct_size = (uint32_t)sizeof(gc_output);
  o.version = GC_ABI_VERSION;
  return o;
}

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* GAITCRAFTER_GAITCRAFTER_H_ */
