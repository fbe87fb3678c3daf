#include "backends/cuda/cubin_memory.h"

namespace gaitcrafter {
namespace {

constexpr size_t kAlign = 256;

size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

// Where everything begins in one piece of GPU memory.
struct DeviceLayout {
  DeviceLayout(const KernelPack& pack, int clips, int lanes, int rows) {
    const size_t n = static_cast<size_t>(clips), all = n * static_cast<size_t>(lanes);
    const auto take = [&](size_t bytes) {
      const size_t at = total;
      total += aligned(bytes);
      return at;
    };
    arena = take(pack.arena_bytes * all);
    x = take(space_unit_bytes(pack, Space::kX) * n);
    out = take(space_unit_bytes(pack, Space::kOut) * all);
    history = take(space_unit_bytes(pack, Space::kHistory) * n);
    limit = take(space_unit_bytes(pack, Space::kLimit) * n);
    input = take(BatchLayout(pack, clips, lanes).input_bytes);
    output = take(BatchLayout(pack, clips, lanes).output_bytes);
    table = take(TableLayout(pack, rows).bytes);
  }
  size_t arena, x, out, history, limit, input, output, table, total = 0;
};

}  // namespace

BatchLayout::BatchLayout(const KernelPack& pack, int clips, int lanes) {
  const size_t n = static_cast<size_t>(clips), all = n * static_cast<size_t>(lanes);
  indices = seeds + aligned(space_unit_bytes(pack, Space::kSeeds) * n);
  conditions = indices + aligned(space_unit_bytes(pack, Space::kClips) * n);
  maps = conditions + aligned(space_unit_bytes(pack, Space::kConditions) * all);
  input_bytes = maps + aligned(space_unit_bytes(pack, Space::kMaps) * all);
  bad = packed + aligned(space_unit_bytes(pack, Space::kPacked) * n);
  output_bytes = bad + aligned(space_unit_bytes(pack, Space::kBad) * n);
}

uint64_t CubinMemory::device_bytes(const KernelPack& pack, int clips, int lanes, int rows) {
  return DeviceLayout(pack, clips, lanes, rows).total;
}

CubinMemory::CubinMemory(const Launcher& launcher, int clips, int lanes, int rows)
    : launcher_(launcher),
      clips_(clips),
      lanes_(lanes),
      rows_(rows),
      batch_(launcher.pack(), clips, lanes),
      table_(launcher.pack(), rows) {
  const KernelPack& pack = launcher.pack();
  const CudaApi& api = launcher.api();
  const DeviceLayout at(pack, clips, lanes, rows);
  memory_ = device_memory(api, at.total, "a batch of " + std::to_string(clips) + " clips");
  auto* const base = static_cast<std::byte*>(memory_.get());
  input_ = base + at.input;
  output_ = base + at.output;
  table_memory_ = base + at.table;
  const auto bind = [&](Space space, std::byte* place) { base_[static_cast<size_t>(space)] = place; };
  bind(Space::kArena, base + at.arena);
  bind(Space::kX, base + at.x);
  bind(Space::kOut, base + at.out);
  bind(Space::kHistory, base + at.history);
  bind(Space::kLimit, base + at.limit);
  bind(Space::kSeeds, input_ + batch_.seeds);
  bind(Space::kClips, input_ + batch_.indices);
  bind(Space::kConditions, input_ + batch_.conditions);
  bind(Space::kMaps, input_ + batch_.maps);
  bind(Space::kPacked, output_ + batch_.packed);
  bind(Space::kBad, output_ + batch_.bad);
  bind(Space::kLevel, table_memory_ + table_.level);
  pinned_table_ = pinned_memory(api, table_.bytes, "a sampler table");
  for (Slot& slot : slots_) {
    slot.pinned = pinned_memory(api, batch_.input_bytes + batch_.output_bytes, "conditions and clips");
    slot.input = static_cast<std::byte*>(slot.pinned.get());
    slot.output = slot.input + batch_.input_bytes;
    slot.done = cuda_event(api);
  }
}

Bindings CubinMemory::bindings(int row) const {
  Bindings all = base_;
  const size_t i = static_cast<size_t>(row);
  const KernelPack& pack = launcher_.pack();
  const auto bind = [&](Space space, size_t start) {
    all[static_cast<size_t>(space)] = table_memory_ + start + i * space_unit_bytes(pack, space);
  };
  bind(Space::kRow, table_.numbers);
  bind(Space::kIntegers, table_.integers);
  bind(Space::kTime, table_.time);
  return all;
}

void CubinMemory::want_x() {
  const size_t bytes = space_unit_bytes(launcher_.pack(), Space::kX) * static_cast<size_t>(clips_);
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].x != nullptr) continue;
    pinned_x_[i] = pinned_memory(launcher_.api(), bytes, "noise or x_0");
    slots_[i].x = static_cast<float*>(pinned_x_[i].get());
  }
}

}  // namespace gaitcrafter
