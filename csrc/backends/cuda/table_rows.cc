#include "backends/cuda/table_rows.h"

#include <array>
#include <cmath>
#include <cstring>

#include "engine/cpu_backend.h"
#include "unet/conditions.h"

namespace gaitcrafter {
namespace {

constexpr size_t kAlign = 256;

size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

// Bits of a row's flags.
enum Flag : int32_t {
  kNewest = 1,
  kClipped = 2,
  kDynamicFlag = 4,
  kKeeps = 8,
  kPrev1 = 16,
  kPrev2 = 32,
  kRaw = 64,
  kNoise = 128
};

int32_t flags_of(const SamplerTable& table, int index) {
  const SamplerRow& row = table.rows[static_cast<size_t>(index)];
  int32_t flags = index % 2 == 1 ? kNewest : 0;
  if (table.thresholding == Thresholding::kClip) flags |= kClipped;
  if (table.thresholding == Thresholding::kDynamic) flags |= kDynamicFlag;
  if (table.history > 0) flags |= kKeeps;
  if (row.c_prev1 != 0) flags |= kPrev1;
  if (row.c_prev2 != 0) flags |= kPrev2;
  if (row.c_raw != 0) flags |= kRaw;
  if (row.c_noise != 0) flags |= kNoise;
  return flags;
}

}  // namespace

TableLayout::TableLayout(const KernelPack& pack, int rows) {
  const size_t n = static_cast<size_t>(rows);
  integers = numbers + aligned(n * space_unit_bytes(pack, Space::kRow));
  time = integers + aligned(n * space_unit_bytes(pack, Space::kIntegers));
  level = time + aligned(n * space_unit_bytes(pack, Space::kTime));
  bytes = level + kAlign;
}

std::vector<bool> exact_rows(const KernelPack& pack, const SamplerTable& table) {
  std::vector<bool> exact;
  for (const SamplerRow& row : table.rows) {
    exact.push_back(pack.has_exact() && std::fabs(row.a_out) > kExactAmplification);
  }
  return exact;
}

void write_table(const KernelPack& pack, const SamplerTable& table, const TimeTables& time, float threshold,
                 const TableLayout& layout, std::byte* out) {
  const auto& terms = static_cast<const FilmTimeTables&>(time);
  const double rank = table.dynamic_percentile * static_cast<double>(pack.clip_floats - 1);
  for (int i = 0; i < table.size(); ++i) {
    const SamplerRow& r = table.rows[static_cast<size_t>(i)];
    const std::array<float, 12> numbers = {r.a_x,
                                           r.a_out,
                                           r.c_x,
                                           r.c_x0,
                                           r.c_prev1,
                                           r.c_prev2,
                                           r.c_raw,
                                           r.c_noise,
                                           static_cast<float>(table.guidance),
                                           static_cast<float>(rank - std::floor(rank))};
    const std::array<int32_t, 4> integers = {static_cast<int32_t>(r.stream), static_cast<int32_t>(rank),
                                             flags_of(table, i)};
    const size_t row = static_cast<size_t>(i);
    std::memcpy(out + layout.numbers + row * sizeof numbers, numbers.data(), sizeof numbers);
    std::memcpy(out + layout.integers + row * sizeof integers, integers.data(), sizeof integers);
    const size_t film = 4 * pack.film_floats;
    std::memcpy(out + layout.time + row * film, terms.step(i), film);
  }
  const float level = 2.0f * threshold - 1.0f;
  std::memcpy(out + layout.level, &level, sizeof level);
}

}  // namespace gaitcrafter
