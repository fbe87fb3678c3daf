// Part of isa_unit.cc, after the two ops that it joins.
#include "ops/group_norm_silu.h"

namespace gaitcrafter {
namespace {

// By tiles one pass; else the product goes to `out` and is read again by the norm.
void shortcut_norm_silu(const ShortcutNormSilu& args, PixelRange range) {
#if defined(GC_AMX)
  if (suits_tiles(args.x)) {
    linear({args.x, args.out, args.weight, args.bias, &args.in}, range);
    return;
  }
#endif
  linear({args.x, args.out, args.weight, args.bias, nullptr}, range);
  norm_silu({args.in, args.out, &args.out}, range);
}

}  // namespace
}  // namespace gaitcrafter
