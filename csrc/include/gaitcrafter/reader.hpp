// C++17 over gaitcrafter/reader.h: a clip cache as a random-access sequence. Header only.
//
//   gaitcrafter::ClipReader clips("train-cache");
//   std::vector<uint8_t> batch(128 * clips.pixels());
//   clips.read(numbers, batch.data(), batch.size());   // 128 clips of frames x height x width, 0 and 255
//   int32_t who = clips.record(7).labels[GC_AXIS_IDENTITY];
#ifndef GAITCRAFTER_READER_HPP_
#define GAITCRAFTER_READER_HPP_

#include "gaitcrafter/gaitcrafter.hpp"
#include "gaitcrafter/reader.h"

namespace gaitcrafter {
inline namespace abi1 {

// Throws Error from every member function. All of them only read and may be called by several threads.
class ClipReader {
 public:
  // `verify` compares every silhouette with its checksum first, which reads the whole cache.
  explicit ClipReader(const std::string& folder, bool verify = false) {
    gc_reader_options o = gc_reader_options_default();
    o.verify = verify ? 1 : 0;
    gc_reader* reader = nullptr;
    check(gc_reader_open(folder.c_str(), &o, &reader));
    reader_.reset(reader);
    check(gc_reader_info(get(), &info_));
  }

  const gc_reader* get() const noexcept { return reader_.get(); }
  const gc_cache_info& info() const noexcept { return info_; }
  uint64_t size() const noexcept { return info_.clips; }
  size_t pixels() const noexcept { return static_cast<size_t>(info_.pixels); }
  size_t packed_bytes() const noexcept { return static_cast<size_t>(info_.packed_bytes); }

  std::vector<std::string> labels(Axis axis) const {
    std::vector<std::string> names;
    for (int32_t k = 0; k < info_.label_count[static_cast<int>(axis)]; ++k) {
      const char* text = nullptr;
      size_t length = 0;
      check(gc_reader_label(get(), static_cast<int32_t>(axis), k, &text, &length));
      names.emplace_back(text, length);
    }
    return names;
  }

  int32_t find_label(Axis axis, std::string_view name) const {
    int32_t index = 0;
    check(gc_reader_find_label(get(), static_cast<int32_t>(axis), name.data(), name.size(), &index));
    return index;
  }

  gc_clip_record record(uint64_t clip) const {
    gc_clip_record r;
    check(gc_reader_records(get(), clip, 1, &r));
    return r;
  }

  // All records, for building an index by label.
  std::vector<gc_clip_record> records() const {
    std::vector<gc_clip_record> all(static_cast<size_t>(size()));
    check(gc_reader_records(get(), 0, size(), all.data()));
    return all;
  }

  // The bits inside the map, packed_bytes() of them; valid as long as the reader.
  const uint8_t* packed(uint64_t clip) const {
    const uint8_t* bits = nullptr;
    check(gc_reader_packed(get(), clip, &bits));
    return bits;
  }

  // Clips one after another as bytes of 0 and `foreground`; `size` must be clips.size() * pixels().
  void read(const std::vector<uint64_t>& clips, uint8_t* out, size_t size, uint8_t foreground = 255) const {
    read_as(GC_PIXELS_UINT8, foreground, clips, out, size);
  }
  // The same as floats of 0 and `foreground`; `size` counts floats.
  void read(const std::vector<uint64_t>& clips, float* out, size_t size, float foreground = 1.0f) const {
    read_as(GC_PIXELS_FLOAT, static_cast<double>(foreground), clips, out, uint64_t{size} * sizeof(float));
  }
  // The same as bits; `size` must be clips.size() * packed_bytes().
  void read_packed(const std::vector<uint64_t>& clips, uint8_t* out, size_t size) const {
    read_as(GC_PIXELS_PACKED, 1, clips, out, size);
  }

  void verify() const { check(gc_reader_verify(get())); }

 private:
  struct Close {
    void operator()(gc_reader* r) const noexcept { gc_reader_close(r); }
  };

  void read_as(int32_t type, double foreground, const std::vector<uint64_t>& clips, void* out, uint64_t bytes) const {
    gc_pixels p = gc_pixels_default();
    p.type = type;
    p.foreground = foreground;
    check(gc_reader_read(get(), clips.data(), clips.size(), &p, out, bytes));
  }

  std::unique_ptr<gc_reader, Close> reader_;
  gc_cache_info info_ = gc_cache_info_default();
};

}  // namespace abi1
}  // namespace gaitcrafter

#endif  // GAITCRAFTER_READER_HPP_
