// gaitcrafter/reader.h over csrc/reader.
#include <cstring>
#include <memory>

#include "capi/guard.h"
#include "capi/translate.h"
#include "gaitcrafter/reader.h"
#include "reader/clip_reader.h"

struct gc_reader {
  gaitcrafter::ClipReader reader;
};

namespace {

using namespace gaitcrafter;

static_assert(sizeof(gc_clip_record) == sizeof(ClipRecord));

PixelType pixel_type(const gc_pixels& pixels) {
  if (pixels.type < GC_PIXELS_PACKED || pixels.type > GC_PIXELS_FLOAT) {
    refuse("pixel type is " + std::to_string(pixels.type) + "; allowed are 0 (packed), 1 (uint8) and 2 (float)");
  }
  return static_cast<PixelType>(pixels.type);
}

gc_pixels pixels_or_default(const gc_pixels* pixels) {
  return pixels == nullptr ? gc_pixels_default() : checked(pixels, "gc_pixels");
}

std::span<std::byte> bytes(void* out, uint64_t size) {
  if (out == nullptr && size != 0) refuse("out is NULL");
  return {static_cast<std::byte*>(out), static_cast<size_t>(size)};
}

}  // namespace

extern "C" {

gc_status gc_reader_open(const char* path, const gc_reader_options* options, gc_reader** reader) {
  return guarded([&] {
    given(reader, "reader") = nullptr;
    const gc_reader_options o =
        options == nullptr ? gc_reader_options_default() : checked(options, "gc_reader_options");
    const Isa isa = o.isa == nullptr ? choose_isa() : isa_named(o.isa);
    auto made = std::make_unique<gc_reader>(gc_reader{ClipReader(std::string(&given(path, "path")), isa)});
    if (o.verify != 0) made->reader.verify();
    *reader = made.release();
  });
}

void gc_reader_close(gc_reader* reader) { delete reader; }

gc_status gc_reader_info(const gc_reader* reader, gc_cache_info* info) {
  return guarded([&] {
    const ClipReader& r = given(reader, "reader").reader;
    checked(info, "gc_cache_info");
    const CacheMeta& m = r.meta();
    info->frames = m.frames;
    info->height = m.height;
    info->width = m.width;
    for (size_t a = 0; a < kAxes; ++a) info->label_count[a] = static_cast<int32_t>(m.labels[a].size());
    info->origins = static_cast<int32_t>(m.origins);
    info->clips = m.clips;
    info->pixels = m.pixels();
    info->packed_bytes = m.clip_bytes;
    info->isa = literal(r.isa());
  });
}

gc_status gc_reader_label(const gc_reader* reader, int32_t axis, int32_t index, const char** text, size_t* length) {
  return guarded([&] {
    const auto& labels = given(reader, "reader").reader.meta().labels[static_cast<size_t>(checked_axis(axis))];
    if (index < 0 || static_cast<size_t>(index) >= labels.size()) {
      refuse(std::string(kAxisNames[static_cast<size_t>(axis)]) + " index " + std::to_string(index) +
             " is not one of this cache's " + std::to_string(labels.size()) + " labels");
    }
    given(text, "text") = labels[static_cast<size_t>(index)].c_str();
    given(length, "length") = labels[static_cast<size_t>(index)].size();
  });
}

gc_status gc_reader_find_label(const gc_reader* reader, int32_t axis, const char* text, size_t length, int32_t* index) {
  return guarded([&] {
    const ClipReader& r = given(reader, "reader").reader;
    given(index, "index") = r.find_label(checked_axis(axis), {&given(text, "text"), length});
  });
}

gc_status gc_reader_records(const gc_reader* reader, uint64_t first, uint64_t count, gc_clip_record* records) {
  return guarded([&] {
    const auto found = given(reader, "reader").reader.records(first, count);
    if (count > 0) std::memcpy(&given(records, "records"), found.data(), found.size_bytes());
  });
}

gc_status gc_reader_packed(const gc_reader* reader, uint64_t clip, const uint8_t** packed) {
  return guarded([&] { given(packed, "packed") = given(reader, "reader").reader.packed(clip).data(); });
}

gc_status gc_reader_read(const gc_reader* reader, const uint64_t* clips, uint64_t count, const gc_pixels* pixels,
                         void* out, uint64_t out_size) {
  return guarded([&] {
    const gc_pixels p = pixels_or_default(pixels);
    const ClipReader& r = given(reader, "reader").reader;
    if (count > 0) given(clips, "clips");
    r.read({clips, static_cast<size_t>(count)}, pixel_type(p), p.foreground, bytes(out, out_size));
  });
}

gc_status gc_reader_verify(const gc_reader* reader) {
  return guarded([&] { given(reader, "reader").reader.verify(); });
}

gc_status gc_decode(const uint8_t* packed, uint64_t packed_size, uint64_t clips, uint64_t pixels_per_clip,
                    const gc_pixels* pixels, void* out, uint64_t out_size) {
  return guarded([&] {
    const gc_pixels p = pixels_or_default(pixels);
    if (packed_size > 0) given(packed, "packed");
    decode_clips(decode_table(choose_isa()), {packed, static_cast<size_t>(packed_size)}, clips, pixels_per_clip,
                 pixel_type(p), p.foreground, bytes(out, out_size));
  });
}

gc_status gc_decode_rows(const uint8_t* packed, uint64_t packed_size, const uint64_t* rows, uint64_t count,
                         uint64_t pixels_per_clip, const gc_pixels* pixels, void* out, uint64_t out_size) {
  return guarded([&] {
    const gc_pixels p = pixels_or_default(pixels);
    if (packed_size > 0) given(packed, "packed");
    if (count > 0) given(rows, "rows");
    decode_rows(decode_table(choose_isa()), {packed, static_cast<size_t>(packed_size)},
                {rows, static_cast<size_t>(count)}, pixels_per_clip, pixel_type(p), p.foreground, bytes(out, out_size));
  });
}

}  // extern "C"
