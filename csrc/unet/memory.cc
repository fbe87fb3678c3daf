#include "unet/memory.h"

#include <algorithm>
#include <numeric>

namespace gaitcrafter {
namespace {

size_t aligned(size_t bytes) { return (bytes + kMemoryAlignment - 1) / kMemoryAlignment * kMemoryAlignment; }

bool overlap(const Lifetime& a, const Lifetime& b) { return a.first <= b.last && b.first <= a.last; }

}  // namespace

Placement place_buffers(std::span<const Lifetime> buffers, size_t own) {
  Placement result;
  result.own = own;
  result.offsets.assign(buffers.size(), 0);
  std::vector<size_t> order(buffers.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return buffers[a].bytes > buffers[b].bytes; });

  std::vector<size_t> placed;  // by offset
  for (const size_t i : order) {
    const size_t bytes = buffers[i].bytes;
    const auto inside = [&](size_t at) { return at < own && own - at < bytes ? own : at; };
    size_t offset = inside(0);
    for (const size_t j : placed) {
      if (!overlap(buffers[i], buffers[j])) continue;
      if (offset + bytes <= result.offsets[j]) break;
      offset = inside(std::max(offset, aligned(result.offsets[j] + buffers[j].bytes)));
    }
    result.offsets[i] = offset;
    result.bytes = std::max(result.bytes, aligned(offset + bytes));
    const auto after = [&](size_t at, size_t j) { return at < result.offsets[j]; };
    placed.insert(std::upper_bound(placed.begin(), placed.end(), offset, after), i);
  }
  return result;
}

}  // namespace gaitcrafter
