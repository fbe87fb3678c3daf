// Memory of runs on the GPU: planned once for a largest batch, and two slots of pinned memory, so that the host fills
// and empties one while the GPU works on the other.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "backends/cuda/launcher.h"
#include "backends/cuda/table_rows.h"

namespace gaitcrafter {

// What a batch takes and what it leaves, each as one block, so that each is one copy.
struct BatchLayout {
  BatchLayout(const KernelPack& pack, int clips, int lanes);
  size_t seeds = 0, indices = 0, conditions = 0, maps = 0, input_bytes = 0;  // of the input block
  size_t packed = 0, bad = 0, output_bytes = 0;                              // of the output block
};

class CubinMemory {
 public:
  // For at most `clips` clips of `lanes` lanes and tables of `rows` rows. Throws kOutOfMemory, kInternal.
  CubinMemory(const Launcher& launcher, int clips, int lanes, int rows);

  // GPU memory that the constructor takes.
  static uint64_t device_bytes(const KernelPack& pack, int clips, int lanes, int rows);

  int clips() const { return clips_; }
  int lanes() const { return lanes_; }
  int rows() const { return rows_; }
  const BatchLayout& batch() const { return batch_; }
  const TableLayout& table() const { return table_; }

  // Bindings for the kernels of a row of the table.
  Bindings bindings(int row) const;
  std::byte* device(Space space) const { return base_[static_cast<size_t>(space)]; }
  std::byte* device_input() const { return input_; }
  std::byte* device_output() const { return output_; }
  std::byte* device_table() const { return table_memory_; }

  struct Slot {
    PinnedMemory pinned;
    std::byte *input = nullptr, *output = nullptr;
    float* x = nullptr;  // x_T given by the caller, or x_0 for it: clips x clip_floats
    EventHandle done;
  };
  Slot& slot(int index) { return slots_[static_cast<size_t>(index)]; }
  std::byte* host_table() const { return static_cast<std::byte*>(pinned_table_.get()); }

  // Takes pinned memory for x in both slots, if it is not there yet.
  void want_x();

 private:
  const Launcher& launcher_;
  int clips_, lanes_, rows_;
  BatchLayout batch_;
  TableLayout table_;
  DeviceMemory memory_;
  PinnedMemory pinned_table_;
  std::array<PinnedMemory, 2> pinned_x_;
  std::array<Slot, 2> slots_;
  Bindings base_{};
  std::byte *input_ = nullptr, *output_ = nullptr, *table_memory_ = nullptr;
};

}  // namespace gaitcrafter
