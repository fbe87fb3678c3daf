// Where the buffers of a plan lie in one workspace.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace gaitcrafter {

// Nodes [first, last] during which a buffer holds something.
struct Lifetime {
  size_t bytes = 0;
  int first = 0, last = -1;
};

struct Placement {
  std::vector<size_t> offsets;  // multiples of kMemoryAlignment
  size_t bytes = 0;
};

inline constexpr size_t kMemoryAlignment = 64;

// Greedy by size: the largest buffers first, each at the lowest place that no buffer living at the same time overlaps.
Placement place_buffers(std::span<const Lifetime> buffers);

}  // namespace gaitcrafter
