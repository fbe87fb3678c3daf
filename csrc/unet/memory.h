// Where the buffers of a plan lie: in one workspace, or in two, of which the first has a given size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace gaitcrafter {

// Nodes [first, last] during which a buffer holds something.
struct Lifetime {
  size_t bytes = 0;
  int first = 0, last = -1;
};

struct Placement {
  std::vector<size_t> offsets;  // multiples of kMemoryAlignment; from `own` on they count in the second workspace
  size_t bytes = 0;             // of both
  size_t own = SIZE_MAX;        // of the first

  size_t own_bytes() const { return bytes < own ? bytes : own; }
  size_t shared_bytes() const { return bytes - own_bytes(); }
};

inline constexpr size_t kMemoryAlignment = 64;

// Greedy by size: the largest buffers first, each at the lowest place that no buffer living at the same time overlaps.
// No buffer lies across the end of the first workspace, `own` bytes, a multiple of kMemoryAlignment.
Placement place_buffers(std::span<const Lifetime> buffers, size_t own = SIZE_MAX);

}  // namespace gaitcrafter
