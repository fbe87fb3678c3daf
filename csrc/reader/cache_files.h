// cache.json and checksums.json of a clip cache (gaitcrafter_rt/dataset/cache_format.py), read strictly.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"

namespace gaitcrafter {

struct CacheMeta {
  uint64_t clips = 0;
  int32_t frames = 0, height = 0, width = 0;
  uint64_t clip_bytes = 0;
  std::array<std::vector<std::string>, kAxes> labels;
  uint64_t origins = 0;
  uint64_t chunk_clips = 0;
  std::vector<std::string> chunks_sha256;
  std::string index_sha256;

  uint64_t pixels() const { return uint64_t(frames) * uint64_t(height) * uint64_t(width); }
};

// Throws kDataFormat if a document is absent, malformed or does not fit its checksum, kUnsupportedVersion for a newer
// format.
CacheMeta read_cache_meta(const std::string& folder);

}  // namespace gaitcrafter
