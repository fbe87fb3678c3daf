// A clip cache, memory-mapped: any clip by its number, as bits, bytes or floats. The folder's layout is that of
// gaitcrafter_rt/dataset/cache_format.py. Every member function is const and may be called from several threads.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/isa.h"
#include "model/mapped_file.h"
#include "reader/cache_files.h"
#include "reader/decode.h"

namespace gaitcrafter {

// One record of index.bin, byte for byte. Labels are -1 where the model chose.
struct ClipRecord {
  uint64_t clip_index, seed;
  int32_t labels[kAxes];
  uint32_t origin;
  uint16_t quality, reserved;
};
static_assert(sizeof(ClipRecord) == 40);

enum class PixelType : int { kPacked = 0, kUint8 = 1, kFloat = 2 };

class ClipReader {
 public:
  // Checks the documents and the index against their checksums, sizes, and every number of the index against its range.
  // Throws kDataFormat, kUnsupportedVersion, kCapability, kOutOfMemory.
  ClipReader(const std::string& folder, Isa isa);

  const CacheMeta& meta() const { return meta_; }
  Isa isa() const { return isa_; }
  uint64_t clips() const { return meta_.clips; }

  // Throws kInvalidRequest if first + count exceeds the clips.
  std::span<const ClipRecord> records(uint64_t first, uint64_t count) const;

  // The bits of one clip, as long as the reader lives. Throws kInvalidRequest.
  std::span<const uint8_t> packed(uint64_t clip) const;

  // Bytes that one clip takes as `type`.
  uint64_t bytes_per_clip(PixelType type) const;

  // Clips by their numbers, in that order; `on` is the foreground's value. `out` must have exactly
  // clips.size() * bytes_per_clip(type) bytes (for kFloat: aligned for float). Throws kInvalidRequest before anything
  // is written.
  void read(std::span<const uint64_t> clips, PixelType type, double on, std::span<std::byte> out) const;

  // Number of a label. Throws kInvalidRequest if the axis has no such label.
  int32_t find_label(int axis, std::string_view name) const;

  // Compares every silhouette with its checksum. Throws kDataFormat that names the first chunk that differs.
  void verify() const;

 private:
  CacheMeta meta_;
  Isa isa_;
  const DecodeTable& decode_;
  std::unique_ptr<const MappedFile> silhouettes_, index_;
};

// Packed clips one after another to pixels; what read() does for clips that do not lie in a cache.
void decode_clips(const DecodeTable& table, std::span<const uint8_t> packed, uint64_t clips, uint64_t pixels,
                  PixelType type, double on, std::span<std::byte> out);

// The same for the clips `rows` of those that `packed` holds, in that order.
void decode_rows(const DecodeTable& table, std::span<const uint8_t> packed, std::span<const uint64_t> rows,
                 uint64_t pixels, PixelType type, double on, std::span<std::byte> out);

}  // namespace gaitcrafter
