#include "reader/clip_reader.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "model/sha256.h"

namespace gaitcrafter {
namespace {

[[noreturn]] void refuse(const std::string& message) { throw Error(Status::kInvalidRequest, message); }
[[noreturn]] void damaged(const std::string& message) { throw Error(Status::kDataFormat, message); }

std::unique_ptr<const MappedFile> map(const std::string& path, uint64_t bytes) {
  try {
    auto file = std::make_unique<const MappedFile>(path, INT64_MAX);
    if (file->bytes().size() != bytes) {
      damaged(path + ": " + std::to_string(file->bytes().size()) + " bytes there; cache.json promises " +
              std::to_string(bytes));
    }
    return file;
  } catch (const Error& e) {
    if (e.status() != Status::kModelFormat) throw;
    throw Error(Status::kDataFormat, e.what());
  }
}

void check_record(const ClipRecord& r, uint64_t number, const CacheMeta& meta, const std::string& path) {
  for (int a = 0; a < kAxes; ++a) {
    const int64_t count = static_cast<int64_t>(meta.labels[static_cast<size_t>(a)].size());
    if (r.labels[a] < -1 || r.labels[a] >= count) {
      damaged(path + ": clip " + std::to_string(number) + " has the " + std::string(kAxisNames[a]) + " " +
              std::to_string(r.labels[a]) + "; allowed are -1 to " + std::to_string(count - 1));
    }
  }
  if (r.origin >= meta.origins) {
    damaged(path + ": clip " + std::to_string(number) + " is of origin " + std::to_string(r.origin) + " of " +
            std::to_string(meta.origins));
  }
}

uint64_t bytes_of(PixelType type, uint64_t pixels) {
  switch (type) {
    case PixelType::kUint8:
      return pixels;
    case PixelType::kFloat:
      return pixels * sizeof(float);
    default:
      return (pixels + 7) / 8;
  }
}

void check_on(PixelType type, double on) {
  if (type == PixelType::kUint8 && !(on >= 1 && on <= 255 && on == std::floor(on)))
    refuse("the foreground is " + std::to_string(on) + "; for bytes a whole number from 1 to 255 is allowed");
  if (type == PixelType::kFloat && !std::isfinite(on)) refuse("the foreground must be a finite number");
}

void check_pixels(uint64_t pixels) {
  if (pixels < 1 || pixels > uint64_t{1} << 32) refuse("a clip of " + std::to_string(pixels) + " pixels");
}

void check_out(std::span<std::byte> out, uint64_t count, uint64_t each, PixelType type) {
  if (count != 0 && out.size() / each != count) {
    refuse("the buffer has " + std::to_string(out.size()) + " bytes; " + std::to_string(count) +
           " clips need exactly " + std::to_string(each) + " each");
  }
  if (out.size() != count * each) {
    refuse("the buffer has " + std::to_string(out.size()) + " bytes; " + std::to_string(count) +
           " clips need exactly " + std::to_string(count * each));
  }
  if (type == PixelType::kFloat && reinterpret_cast<uintptr_t>(out.data()) % alignof(float) != 0)
    refuse("the buffer is not aligned for floats");
}

void decode_one(const DecodeTable& table, const uint8_t* packed, uint64_t pixels, PixelType type, double on,
                std::byte* out) {
  switch (type) {
    case PixelType::kUint8:
      table.to_uint8(packed, pixels, static_cast<uint8_t>(on), reinterpret_cast<uint8_t*>(out));
      break;
    case PixelType::kFloat:
      table.to_float(packed, pixels, static_cast<float>(on), reinterpret_cast<float*>(out));
      break;
    default:
      std::memcpy(out, packed, (pixels + 7) / 8);
  }
}

}  // namespace

ClipReader::ClipReader(const std::string& folder, Isa isa)
    : meta_(read_cache_meta(folder)), isa_(isa), decode_(decode_table(isa)) {
  silhouettes_ = map(folder + "/silhouettes.bin", meta_.clips * meta_.clip_bytes);
  index_ = map(folder + "/index.bin", meta_.clips * sizeof(ClipRecord));
  if (sha256_hex(index_->bytes()) != meta_.index_sha256)
    damaged(index_->path() + ": its SHA-256 is not that of checksums.json; the file was changed or damaged");
  const auto all = records(0, clips());
  for (uint64_t i = 0; i < all.size(); ++i) check_record(all[i], i, meta_, index_->path());
}

std::span<const ClipRecord> ClipReader::records(uint64_t first, uint64_t count) const {
  if (first > clips() || count > clips() - first) {
    refuse("clips " + std::to_string(first) + " and " + std::to_string(count) +
           " from there on; the cache holds clips 0 to " + std::to_string(clips() - 1));
  }
  // A mapping begins at a page, so the records are aligned.
  return {reinterpret_cast<const ClipRecord*>(index_->bytes().data()) + first, static_cast<size_t>(count)};
}

std::span<const uint8_t> ClipReader::packed(uint64_t clip) const {
  if (clip >= clips()) refuse("clip " + std::to_string(clip) + " is outside 0.." + std::to_string(clips() - 1));
  const auto* base = reinterpret_cast<const uint8_t*>(silhouettes_->bytes().data());
  return {base + clip * meta_.clip_bytes, static_cast<size_t>(meta_.clip_bytes)};
}

uint64_t ClipReader::bytes_per_clip(PixelType type) const { return bytes_of(type, meta_.pixels()); }

void ClipReader::read(std::span<const uint64_t> numbers, PixelType type, double on, std::span<std::byte> out) const {
  check_on(type, on);
  const uint64_t each = bytes_per_clip(type);
  check_out(out, numbers.size(), each, type);
  for (const uint64_t clip : numbers) packed(clip);  // for its check
  std::byte* to = out.data();
  for (const uint64_t clip : numbers) {
    decode_one(decode_, packed(clip).data(), meta_.pixels(), type, on, to);
    to += each;
  }
}

int32_t ClipReader::find_label(int axis, std::string_view name) const {
  const auto& names = meta_.labels[static_cast<size_t>(axis)];
  const auto it = std::find(names.begin(), names.end(), name);
  if (it == names.end()) {
    refuse(std::string(kAxisNames[axis]) + " \"" + std::string(name.substr(0, 128)) + "\" is not one of this cache's " +
           std::to_string(names.size()) + " labels");
  }
  return static_cast<int32_t>(it - names.begin());
}

void ClipReader::verify() const {
  const auto all = silhouettes_->bytes();
  const uint64_t step = meta_.chunk_clips;
  for (size_t k = 0; k < meta_.chunks_sha256.size(); ++k) {
    const uint64_t first = k * step, count = std::min(step, clips() - first);
    const auto part = all.subspan(first * meta_.clip_bytes, count * meta_.clip_bytes);
    if (sha256_hex(part) != meta_.chunks_sha256[k]) {
      damaged(silhouettes_->path() + ": clips " + std::to_string(first) + " to " + std::to_string(first + count - 1) +
              " do not fit their SHA-256");
    }
  }
}

void decode_clips(const DecodeTable& table, std::span<const uint8_t> packed, uint64_t clips, uint64_t pixels,
                  PixelType type, double on, std::span<std::byte> out) {
  check_on(type, on);
  check_pixels(pixels);
  const uint64_t from = bytes_of(PixelType::kPacked, pixels), each = bytes_of(type, pixels);
  if (packed.size() / from != clips || packed.size() % from != 0) {
    refuse(std::to_string(packed.size()) + " packed bytes for " + std::to_string(clips) + " clips of " +
           std::to_string(from));
  }
  check_out(out, clips, each, type);
  for (uint64_t i = 0; i < clips; ++i)
    decode_one(table, packed.data() + i * from, pixels, type, on, out.data() + i * each);
}

void decode_rows(const DecodeTable& table, std::span<const uint8_t> packed, std::span<const uint64_t> rows,
                 uint64_t pixels, PixelType type, double on, std::span<std::byte> out) {
  check_on(type, on);
  check_pixels(pixels);
  const uint64_t from = bytes_of(PixelType::kPacked, pixels), each = bytes_of(type, pixels);
  const uint64_t there = packed.size() / from;
  if (packed.size() % from != 0) {
    refuse(std::to_string(packed.size()) + " packed bytes are no whole number of clips of " + std::to_string(from));
  }
  check_out(out, rows.size(), each, type);
  for (const uint64_t row : rows) {
    if (row >= there) refuse("clip " + std::to_string(row) + " is outside 0.." + std::to_string(there - 1));
  }
  std::byte* to = out.data();
  for (const uint64_t row : rows) {
    decode_one(table, packed.data() + row * from, pixels, type, on, to);
    to += each;
  }
}

}  // namespace gaitcrafter
