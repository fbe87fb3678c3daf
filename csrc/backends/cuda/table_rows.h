// A sampler table as the kernels read it (kernels/sampler_step.py, DeviceTable), with the time terms of every row.
#pragma once

#include <cstddef>
#include <vector>

#include "backends/cuda/kernel_pack.h"
#include "sampler/table.h"
#include "unet/unet.h"

namespace gaitcrafter {

// Where the parts of a table begin in its memory, on the host and on the GPU alike.
struct TableLayout {
  TableLayout(const KernelPack& pack, int rows);
  size_t numbers = 0, integers = 0, time = 0, level = 0, bytes = 0;
};

// Which rows run the network in fp32: those that multiply an eps-model's error (engine/cpu_backend.h), where the pack
// has such a list.
std::vector<bool> exact_rows(const KernelPack& pack, const SamplerTable& table);

// Fills layout.bytes bytes. `time` is for the table's timesteps; of a network in any precision.
void write_table(const KernelPack& pack, const SamplerTable& table, const TimeTables& time, float threshold,
                 const TableLayout& layout, std::byte* out);

}  // namespace gaitcrafter
