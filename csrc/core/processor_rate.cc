#include "core/processor_rate.h"

#include <algorithm>
#include <ctime>
#include <limits>
#include <string>

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

// NAME(): seconds of kRounds x kChains times `text`, each chain waiting for itself alone. In assembly, so that no flag
// of this file decides what is timed. The operands are zeros: none of these instructions takes longer for others.
#define GC_SECONDS_OF(NAME, VEC, TARGET, TEXT)                     \
  TARGET double NAME() {                                           \
    VEC sum[kChains] = {}, a = {}, b = {};                         \
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

struct Probe {
  double (*seconds)();
  int operations;  // of one instruction
};

Probe probe_of(Arithmetic arithmetic, Isa isa) {
  if (arithmetic == Arithmetic::kBf16) return {bf16_products, 16 * 2 * 2};
  if (arithmetic == Arithmetic::kInt8) return {int8_products, 16 * 4 * 2};
  if (isa == Isa::kAvx512) return {avx512_products, 16 * 2};
  if (isa == Isa::kAvx2) return {avx2_products, 8 * 2};
  return {sse_products, 4 * 2};
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
  return isa == Isa::kAvx512 &&
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
  return probe.operations * static_cast<double>(kChains) * kRounds / best;
}

}  // namespace gaitcrafter
