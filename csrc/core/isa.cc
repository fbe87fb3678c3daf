#include "core/isa.h"

#include <cstdint>
#include <cstdlib>
#include <string>

#include "core/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace gaitcrafter {
namespace {

#if defined(__x86_64__)

struct Registers {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf = 0) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);  // leaves zeros if the leaf does not exist
  return r;
}

bool all_set(uint64_t value, uint64_t bits) { return (value & bits) == bits; }

// Register state that the operating system saves on a context switch.
uint64_t saved_state() {
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

bool detect_bf16() {
  constexpr uint32_t kBf16 = 1u << 5;  // leaf 7, subleaf 1, eax
  return all_set(cpuid(7, 1).eax, kBf16);
}

// vdpbf16ps does twice the operations of a multiply-add of floats. Intel's processors run a fourth as many of them,
// at half the operations a second (docs/cpu-engine.md, "Precision", has both rates); AMD's run as many. No cpuid bit
// tells.
bool detect_fast_bf16() {
  const Registers vendor = cpuid(0);
  constexpr uint32_t kGenu = 0x756e6547, kIneI = 0x49656e69, kNtel = 0x6c65746e;
  const bool intel = vendor.ebx == kGenu && vendor.edx == kIneI && vendor.ecx == kNtel;
  return detect_bf16() && !intel;
}

bool detect_int8() {
  constexpr uint32_t kVnni = 1u << 11;  // leaf 7, ecx
  return all_set(cpuid(7).ecx, kVnni);
}

// The tiles' registers are 8 KiB that a signal frame has to hold, so the kernel keeps them from processes that have not
// asked for them. It refuses where it is too old, or where an alternate signal stack of this process is too small.
bool allowed_tiles() {
  constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return ::syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

bool detect_amx() {
  constexpr uint32_t kTiles = 1u << 22 | 1u << 24 | 1u << 25;  // leaf 7, edx: amx_bf16, amx_tile, amx_int8
  constexpr uint64_t kSaved = 0x60000;                         // xcr0
  return all_set(cpuid(7).edx, kTiles) && all_set(saved_state(), kSaved) && detect_bf16() && detect_int8() &&
         allowed_tiles();
}

Isa detect() {
  constexpr uint32_t kFma = 1u << 12, kOsxsave = 1u << 27, kAvx = 1u << 28;                           // leaf 1, ecx
  constexpr uint32_t kAvx2 = 1u << 5, kF = 1u << 16, kDq = 1u << 17, kBw = 1u << 30, kVl = 1u << 31;  // leaf 7, ebx
  constexpr uint64_t kYmm = 0x6, kZmm = 0xe6;                                                         // xcr0
  const uint32_t basic = cpuid(1).ecx;
  if (!all_set(basic, kOsxsave | kAvx | kFma)) return Isa::kPortable;
  const uint32_t extended = cpuid(7).ebx;
  const uint64_t saved = saved_state();
  if (!all_set(saved, kYmm) || !all_set(extended, kAvx2)) return Isa::kPortable;
  if (!all_set(saved, kZmm) || !all_set(extended, kF | kDq | kBw | kVl)) return Isa::kAvx2;
  return detect_amx() ? Isa::kAvx512Amx : Isa::kAvx512;
}

bool detect_sha() {
  constexpr uint32_t kSsse3 = 1u << 9, kSse41 = 1u << 19, kSha = 1u << 29;  // leaf 1, ecx; leaf 7, ebx
  return all_set(cpuid(1).ecx, kSsse3 | kSse41) && all_set(cpuid(7).ebx, kSha);
}

#else

Isa detect() { return Isa::kPortable; }
bool detect_sha() { return false; }
bool detect_bf16() { return false; }
bool detect_fast_bf16() { return false; }
bool detect_int8() { return false; }

#endif

Isa widest() {
  static const Isa isa = detect();
  return isa;
}

}  // namespace

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Amx:
      return "avx512_amx";
    default:
      return "portable";
  }
}

bool isa_supported(Isa isa) { return static_cast<int>(isa) <= static_cast<int>(widest()); }

bool sha_instructions_supported() {
  static const bool supported = detect_sha();
  return supported;
}

bool bf16_products_supported() {
  static const bool supported = detect_bf16();
  return supported && isa_supported(Isa::kAvx512);
}

bool bf16_products_fast() {
  static const bool fast = detect_fast_bf16();
  return fast && isa_supported(Isa::kAvx512);
}

bool int8_products_supported() {
  static const bool supported = detect_int8();
  return supported && isa_supported(Isa::kAvx512);
}

Isa choose_isa() {
  const char* wanted = std::getenv("GAITCRAFTER_ISA");
  if (wanted == nullptr || *wanted == '\0') return widest();
  for (const Isa isa : kIsas) {
    if (isa_name(isa) != wanted) continue;
    if (isa_supported(isa)) return isa;
    throw Error(Status::kCapability, "GAITCRAFTER_ISA is " + std::string(wanted) +
                                         ", but this processor runs at most " + std::string(isa_name(widest())) +
                                         "; unset it or name that one");
  }
  throw Error(Status::kInvalidRequest,
              "GAITCRAFTER_ISA is '" + std::string(wanted) + "'; allowed are " + std::string(kIsaChoices));
}

}  // namespace gaitcrafter
