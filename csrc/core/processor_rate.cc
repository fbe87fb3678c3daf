#include "core/processor_rate.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <limits>
#include <string>

#include "core/amx_tiles.h"
#include "core/error.h"

namespace gaitcrafter {
namespace {

constexpr int kChains = 12;  // more than latency times issue width on any processor with these sets
// Of all chains, some 2 ms: a virtual machine corrects its clocks by microseconds.
constexpr int kRounds = 600'000;
constexpr int kRuns = 15;

double thread_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

typedef float Vec4 __attribute__((vector_size(16)));
typedef float Vec8 __attribute__((vector_size(32)));
typedef float Vec16 __attribute__((vector_size(64)));

// Operands of every type: 16 bits whose exponent is that of 0.5 to 1, signs and mantissas drawn; two of them are a
// float of that size, and bytes all over. No instruction takes more cycles for them than for zeros, but more power, and
// the matrix unit of a core near its limit of power then runs at fewer cycles a second. Sums of any number of them stay
// finite.
struct Operands {
  alignas(64) uint16_t a[512], b[512];

  Operands() {
    uint32_t state = 1;
    for (uint16_t* values : {a, b})
      for (int i = 0; i < 512; ++i) {
        state = state * 1664525u + 1013904223u;
        values[i] = static_cast<uint16_t>(0x3f00u | (state >> 16 & 0x807fu));
      }
  }
};

// NAME(): seconds of kRounds x kChains times `text`, each chain waiting for itself alone. In assembly, so that no flag
// of this file decides what is timed.
#define GC_SECONDS_OF(NAME, VEC, TARGET, TEXT)                     \
  TARGET double NAME() {                                           \
    const Operands operands;                                       \
    VEC sum[kChains] = {}, a, b;                                   \
    std::memcpy(&a, operands.a, sizeof a);                         \
    std::memcpy(&b, operands.b, sizeof b);                         \
    const double begin = thread_seconds();                         \
    for (int i = 0; i < kRounds; ++i) {                            \
      _Pragma("GCC unroll 12") for (int c = 0; c < kChains; ++c) { \
        __asm__ volatile(TEXT : "+v"(sum[c]) : "v"(a), "v"(b));    \
      }                                                            \
    }                                                              \
    return thread_seconds() - begin;                               \
  }

GC_SECONDS_OF(sse_products, Vec4, , "mulps %1, %0\n\taddps %2, %0")
GC_SECONDS_OF(avx2_products, Vec8, __attribute__((target("avx2,fma"))), "vfmadd231ps %1, %2, %0")
GC_SECONDS_OF(avx512_products, Vec16, __attribute__((target("avx512f"))), "vfmadd231ps %1, %2, %0")
GC_SECONDS_OF(bf16_products, Vec16, __attribute__((target("avx512f"))), "vdpbf16ps %1, %2, %0")
GC_SECONDS_OF(int8_products, Vec16, __attribute__((target("avx512f"))), "vpdpbusd %1, %2, %0")

#undef GC_SECONDS_OF

// The same for the matrix unit: six sums, as many as the tiles leave beside two operands.
constexpr int kTileChains = 6;
constexpr int kTileRounds = 50'000;

#define GC_SECONDS_OF_TILES(NAME, MULTIPLY)                             \
  __attribute__((target("amx-tile,amx-bf16,amx-int8"))) double NAME() { \
    const Operands operands;                                            \
    const TilesInUse tiles;                                             \
    tile_load<6>(operands.a, kTileRowBytes);                            \
    tile_load<7>(operands.b, kTileRowBytes);                            \
    const double begin = thread_seconds();                              \
    for (int i = 0; i < kTileRounds; ++i) {                             \
      MULTIPLY<0, 6, 7>();                                              \
      MULTIPLY<1, 6, 7>();                                              \
      MULTIPLY<2, 6, 7>();                                              \
      MULTIPLY<3, 6, 7>();                                              \
      MULTIPLY<4, 6, 7>();                                              \
      MULTIPLY<5, 6, 7>();                                              \
    }                                                                   \
    return thread_seconds() - begin;                                    \
  }

GC_SECONDS_OF_TILES(amx_bf16_products, tile_multiply)
GC_SECONDS_OF_TILES(amx_int8_products, tile_multiply_bytes)

#undef GC_SECONDS_OF_TILES

struct Probe {
  double (*seconds)();
  double operations;  // of one run
};

Probe probe_of(Arithmetic arithmetic, Isa isa) {
  constexpr double kVectors = static_cast<double>(kChains) * kRounds,
                   kTiles = static_cast<double>(kTileChains) * kTileRounds;
  if (arithmetic != Arithmetic::kFp32 && isa == Isa::kAvx512Amx) {
    return arithmetic == Arithmetic::kBf16 ? Probe{amx_bf16_products, kTiles * 16 * 16 * 32 * 2}
                                           : Probe{amx_int8_products, kTiles * 16 * 16 * 64 * 2};
  }
  if (arithmetic == Arithmetic::kBf16) return {bf16_products, kVectors * 16 * 2 * 2};
  if (arithmetic == Arithmetic::kInt8) return {int8_products, kVectors * 16 * 4 * 2};
  if (isa >= Isa::kAvx512) return {avx512_products, kVectors * 16 * 2};
  if (isa == Isa::kAvx2) return {avx2_products, kVectors * 8 * 2};
  return {sse_products, kVectors * 4 * 2};
}

constexpr std::string_view kNames[] = {"fp32", "bf16", "int8"};

}  // namespace

std::optional<Arithmetic> arithmetic_named(std::string_view name) {
  for (int i = 0; i < 3; ++i)
    if (kNames[i] == name) return static_cast<Arithmetic>(i);
  return std::nullopt;
}

bool arithmetic_supported(Arithmetic arithmetic, Isa isa) {
  if (!isa_supported(isa)) return false;
  if (arithmetic == Arithmetic::kFp32) return true;
  return isa >= Isa::kAvx512 &&
         (arithmetic == Arithmetic::kBf16 ? bf16_products_supported() : int8_products_supported());
}

double processor_rate(Arithmetic arithmetic, Isa isa) {
  if (!arithmetic_supported(arithmetic, isa)) {
    throw Error(Status::kCapability, "this processor has no " + std::string(kNames[static_cast<int>(arithmetic)]) +
                                         " products of the instruction set " + std::string(isa_name(isa)));
  }
  const Probe probe = probe_of(arithmetic, isa);
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kRuns; ++i) best = std::min(best, probe.seconds());
  return probe.operations / best;
}

}  // namespace gaitcrafter
