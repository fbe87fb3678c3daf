/* Reading clip caches (folders made by `gaitcrafter-rt dataset cache`), and packed bits to pixels.
 *
 * The rules of gaitcrafter.h hold. A reader may be used by several threads at once; all calls only read. A cache is
 * never changed once it is there: do not cut or overwrite its files while a reader has them mapped. */
#ifndef GAITCRAFTER_READER_H_
#define GAITCRAFTER_READER_H_

#include "gaitcrafter/gaitcrafter.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gc_reader gc_reader;

typedef struct gc_reader_options {
  uint32_t struct_size, version;
  const char* isa; /* "portable", "avx2", "avx512", "avx512_amx"; NULL: the widest that runs here, or GAITCRAFTER_ISA */
  int32_t verify;  /* 1: compare every silhouette with its checksum before returning (reads the whole cache) */
  int32_t reserved;
} gc_reader_options;

/* Maps the cache in the folder `path`. Documents and index are compared with their checksums, and every number of the
 * index with its range. GC_DATA_FORMAT if anything does not fit, GC_UNSUPPORTED_VERSION for a newer format. `options`
 * may be NULL. */
GC_API gc_status gc_reader_open(const char* path, const gc_reader_options* options, gc_reader** reader);
GC_API void gc_reader_close(gc_reader* reader); /* NULL is fine; no call may be running */

typedef struct gc_cache_info {
  uint32_t struct_size, version;
  int32_t frames, height, width;
  int32_t label_count[GC_AXES];
  int32_t origins; /* how many plans the clips come from */
  uint64_t clips;
  uint64_t pixels;       /* frames x height x width */
  uint64_t packed_bytes; /* of one clip */
  const char* isa;       /* what decodes; valid for ever */
} gc_cache_info;

GC_API gc_status gc_reader_info(const gc_reader* reader, gc_cache_info* info);

/* As gc_engine_label and gc_engine_find_label, for the labels of the cache. An identity's name is its label, or a
 * blend's as in "001=0.3+002=0.7". */
GC_API gc_status gc_reader_label(const gc_reader* reader, int32_t axis, int32_t index, const char** text,
                                 size_t* length);
GC_API gc_status gc_reader_find_label(const gc_reader* reader, int32_t axis, const char* text, size_t length,
                                      int32_t* index);

/* What is known of one clip; 40 bytes, as in index.bin. */
typedef struct gc_clip_record {
  uint64_t clip_index, seed;
  int32_t labels[GC_AXES]; /* per axis the number of its label, -1: the model chose */
  uint32_t origin;
  uint16_t quality; /* flags (docs/bulk.md) */
  uint16_t reserved;
} gc_clip_record;

/* Records of clips first .. first + count - 1. */
GC_API gc_status gc_reader_records(const gc_reader* reader, uint64_t first, uint64_t count, gc_clip_record* records);

/* The packed bits of one clip inside the map: nothing is copied. Valid until gc_reader_close. */
GC_API gc_status gc_reader_packed(const gc_reader* reader, uint64_t clip, const uint8_t** packed);

enum { GC_PIXELS_PACKED = 0, GC_PIXELS_UINT8 = 1, GC_PIXELS_FLOAT = 2 };

typedef struct gc_pixels {
  uint32_t struct_size, version;
  int32_t type; /* GC_PIXELS_... */
  int32_t reserved;
  double foreground; /* value of a foreground pixel: 1..255 for bytes, any finite number for floats; background is 0 */
} gc_pixels;

/* The clips `clips[0..count-1]`, in that order, as frames x height x width pixels each. `out_size` is in bytes and must
 * fit exactly; a buffer of floats must be aligned for them. `pixels` NULL: bytes of 0 and 255. */
GC_API gc_status gc_reader_read(const gc_reader* reader, const uint64_t* clips, uint64_t count, const gc_pixels* pixels,
                                void* out, uint64_t out_size);

/* Compares every silhouette with its checksum; GC_DATA_FORMAT names the first clips that differ. */
GC_API gc_status gc_reader_verify(const gc_reader* reader);

/* The same decoding for packed clips that lie elsewhere: `clips` of them, one after another. */
GC_API gc_status gc_decode(const uint8_t* packed, uint64_t packed_size, uint64_t clips, uint64_t pixels_per_clip,
                           const gc_pixels* pixels, void* out, uint64_t out_size);

/* The same for some of them: `packed` holds clips one after another, and those numbered rows[0..count-1] are decoded in
 * that order. GC_INVALID_REQUEST before anything is written if a row is not there. */
GC_API gc_status gc_decode_rows(const uint8_t* packed, uint64_t packed_size, const uint64_t* rows, uint64_t count,
                                uint64_t pixels_per_clip, const gc_pixels* pixels, void* out, uint64_t out_size);

static inline gc_reader_options gc_reader_options_default(void) {
  gc_reader_options o = {(uint32_t)sizeof(gc_reader_options), GC_ABI_VERSION, NULL, 0, 0};
  return o;
}

static inline gc_cache_info gc_cache_info_default(void) {
  gc_cache_info i;
  memset(&i, 0, sizeof i);
  i.struct_size = (uint32_t)sizeof(gc_cache_info);
  i.version = GC_ABI_VERSION;
  return i;
}

static inline gc_pixels gc_pixels_default(void) {
  gc_pixels p = {(uint32_t)sizeof(gc_pixels), GC_ABI_VERSION, GC_PIXELS_UINT8, 0, 255.0};
  return p;
}

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* GAITCRAFTER_READER_H_ */
