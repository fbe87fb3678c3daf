// The arithmetic limit that benchmarks quote: fp32 multiply-adds in registers alone, no memory, on the calling thread.
#include <pybind11/pybind11.h>

#include <ctime>
#include <string>

#include "arrays.h"

namespace gaitcrafter::testing {
namespace {

constexpr int kChains = 12;  // more than latency times issue width on any processor with these sets
constexpr int kRounds = 2'000'000;

double thread_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

template <class Vec>
__attribute__((always_inline)) inline double rate(double flops_of_one) {
  Vec sum[kChains] = {}, factor = {}, term = {};
  factor += 0.999f;
  term += 0.5f;
  const double begin = thread_seconds();
  for (int i = 0; i < kRounds; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) {
      sum[c] = sum[c] * factor + term;
      __asm__ volatile("" : "+v"(sum[c]));  // keeps the chain
    }
  }
  return flops_of_one * kChains * kRounds / (thread_seconds() - begin) * 1e-9;
}

typedef float Vec4 __attribute__((vector_size(16)));
typedef float Vec8 __attribute__((vector_size(32)));
typedef float Vec16 __attribute__((vector_size(64)));

double portable() { return rate<Vec4>(8); }
__attribute__((target("avx2,fma"), optimize("fp-contract=fast"))) double avx2() { return rate<Vec8>(16); }
__attribute__((target("avx512f,fma"), optimize("fp-contract=fast"))) double avx512() { return rate<Vec16>(32); }

}  // namespace

void bind_fma_limit(pybind11::module_& m) {
  m.def("fma_limit", [](const std::string& isa) {
    double best = 0;
    op_table(isa_named(isa), Precision::kFp32);  // throws if this processor lacks it
    for (int i = 0; i < 3; ++i) best = std::max(best, isa == "avx512" ? avx512() : isa == "avx2" ? avx2() : portable());
    return best;
  });
}

}  // namespace gaitcrafter::testing
