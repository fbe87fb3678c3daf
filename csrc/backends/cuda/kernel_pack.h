// A kernel pack, read as a file of strangers: everything is checked before anything is loaded (format: docs/gpu.md).
// What its programs do on the GPU cannot be checked, so a pack is to be trusted as a program is.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/mapped_file.h"

namespace gaitcrafter {

// Who holds a buffer: the pack's weights, planned activations, or memory that a run fills and reads.
enum class Space : int {
  kWeights,
  kArena,
  kX,
  kOut,
  kHistory,
  kPacked,
  kSeeds,
  kClips,
  kLimit,
  kBad,
  kConditions,
  kTime,
  kRow,
  kIntegers,
  kLevel,
  kMaps,
};
inline constexpr int kSpaces = 16;

// Of activations: per lane, and both scale with the number of lanes. Of weights: in all. Of others: 0.
struct PackBuffer {
  Space space = Space::kWeights;
  uint64_t offset = 0, bytes = 0;
};

struct PackArgument {
  int buffer = 0;
  uint64_t inner = 0;  // bytes from the start of the buffer
};

struct PackCall {
  int kernel = 0;
  bool per_lane = false;  // the grid's first axis counts lanes; else clips
  std::array<uint32_t, 3> grid{1, 1, 1};
  std::vector<PackArgument> arguments;
};

// One chip's code: cubins, which run on chips of the same major capability (8.0 up) or exactly that chip (9.0 up), or
// PTX.
struct PackImage {
  int capability = 0;
  bool ptx = false;
  std::shared_ptr<const MappedFile> file;
};

struct PackCode {
  std::string entry;
  uint64_t offset = 0, size = 0;
  uint32_t warps = 0, shared_bytes = 0;
};

struct PackKernel {
  std::string key, name;
  int pointers = 0;
  std::vector<PackCode> code;  // one per image
};

struct KernelPack {
  std::string folder, model_sha256, precision, compiler, sha256;  // sha256: of the manifest, hex
  uint64_t clip_floats = 0, film_floats = 0, map_floats = 0;
  uint64_t weight_bytes = 0, arena_bytes = 0;  // arena: of one lane
  std::vector<PackImage> images;
  std::vector<PackKernel> kernels;
  std::vector<PackBuffer> buffers;
  std::map<std::string, std::vector<PackCall>, std::less<>> lists;
  std::shared_ptr<const MappedFile> weights;

  std::string model_folder() const { return folder + "/model"; }
  bool has_exact() const { return lists.contains("exact_1"); }
  const std::vector<PackCall>& list(const std::string& name) const { return lists.at(name); }

  // The image for a chip: its own cubins, else those of an older chip of major 8, else PTX. Throws kCapability, below
  // 8.0 too.
  int image_for(int major, int minor) const;
};

// Whether the folder has a pack's manifest.
bool is_kernel_pack(const std::string& folder);

// Reads and checks a pack. Throws kModelFormat, kUnsupportedVersion.
std::shared_ptr<const KernelPack> open_kernel_pack(const std::string& folder);

// Bytes of a space per clip, lane or row, as the pack's model implies.
uint64_t space_unit_bytes(const KernelPack& pack, Space space);

}  // namespace gaitcrafter
