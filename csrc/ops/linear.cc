#include "ops/linear.h"

#include "ops/product.h"
#if defined(GC_AMX)
#include "ops/amx_product.h"
#endif

namespace gaitcrafter {
namespace {

#if defined(GC_AMX)

// What becomes of the sums of a block of pixels.
template <class Out, bool kActivate>
class LinearRows {
 public:
  GC_INLINE LinearRows(const Linear& args, const Product& p, int column)
      : args_(args),
        finish_(p.finish),
        column_(column),
        vectors_(p.vectors),
        rest_(p.columns - (p.vectors - 1) * kLanes) {}

  // Pixels [begin, end), whose sums begin at `sums`.
  GC_INLINE void put(const std::byte* sums, ptrdiff_t begin, ptrdiff_t end) const {
    if constexpr (!kActivate) {
      put_frame(sums, begin, end, nullptr, nullptr);
    } else {
      const Affine& pending = args_.residual->pending;
      const ptrdiff_t sites = args_.in.sites();
      for (ptrdiff_t pixel = begin; pixel < end;) {
        const ptrdiff_t frame = pixel / sites, stop = (frame + 1) * sites < end ? (frame + 1) * sites : end;
        const ptrdiff_t at = frame * pending.frame_stride + column_;
        put_frame(sums + (pixel - begin) * kBlockPitch, pixel, stop, pending.scale + at, pending.shift + at);
        pixel = stop;
      }
    }
  }

 private:
  GC_INLINE void put_frame(const std::byte* sums, ptrdiff_t begin, ptrdiff_t end, const float* scale,
                           const float* shift) const {
    Out* c = args_.out.pixel<Out>(begin) + column_;
    const Elem* added = args_.residual == nullptr ? nullptr : args_.residual->pixel<Elem>(begin) + column_;
    for (ptrdiff_t pixel = begin; pixel < end; ++pixel, sums += kBlockPitch, c += args_.out.pitch) {
      for (int n = 0; n < vectors_; ++n) {
        const int lanes = n + 1 < vectors_ ? kLanes : rest_;
        Vec v = block_sum<ElementMath>({const_cast<std::byte*>(sums), 0}, 0, n);
        if (finish_.bias != nullptr) v += load(finish_.bias + n * kLanes);
        if (added != nullptr) v += added_vector(added + n * kLanes, scale, shift, n, lanes);
        if (lanes == kLanes)
          store(c + n * kLanes, v);
        else
          store_first(c + n * kLanes, v, lanes);
      }
      if (added != nullptr) added += args_.residual->pitch;
    }
  }
  GC_INLINE Vec added_vector(const Elem* x, const float* scale, const float* shift, int n, int lanes) const {
    const bool whole = lanes == kLanes;
    const Vec v = whole ? load(x) : load_first(x, lanes);
    if constexpr (!kActivate) return v;
    const Vec a = whole ? load(scale + n * kLanes) : load_first(scale + n * kLanes, lanes);
    const Vec b = whole ? load(shift + n * kLanes) : load_first(shift + n * kLanes, lanes);
    return silu(v * a + b);
  }

  const Linear& args_;
  ElementMath::Finish finish_;
  int column_, vectors_, rest_;
};

// A last tile of pixels that is not full begins earlier, and leaves what is there already.
template <class Out, bool kActivate>
void linear_tiles(const Linear& args, PixelRange range) {
  alignas(64) std::byte block[kBlockRows * kBlockPitch];
  constexpr ptrdiff_t kBlock = 256;
  const ptrdiff_t last = args.in.pixels() - kTileRows;
  for (ptrdiff_t begin = range.begin; begin < range.end; begin += kBlock) {
    const ptrdiff_t end = range.end - begin < kBlock ? range.end : begin + kBlock;
    for (int panel = 0; panel < panels_of(args.weight.n); ++panel) {
      const Product p = packed_product(args.weight, args.bias, panel);
      const LinearRows<Out, kActivate> rows(args, p, first_column(args.weight.n, panel));
      TileSums s;
      s.a_pitch = args.in.pitch * static_cast<ptrdiff_t>(sizeof(Elem));
      s.b = reinterpret_cast<const std::byte*>(p.b);
      s.b_pitch = p.vectors * kTileRowBytes;
      s.segment = &kNoOffset;
      s.steps = args.in.channels / kTileDepth;
      s.to = {block, kBlockPitch};
      for (ptrdiff_t first = begin; first < end; first += kBlockRows) {
        const int tiles = end - first > kTileRows ? 2 : 1;
        ptrdiff_t from[kBlockTiles];
        for (int i = 0; i < tiles; ++i) {
          const ptrdiff_t wanted = first + i * kTileRows;
          from[i] = wanted < last ? wanted : last;
          s.a[i] = reinterpret_cast<const std::byte*>(args.in.pixel<Elem>(from[i]));
        }
        sum_tiles<ElementMath>(s, tiles, p.vectors);
        for (int i = 0; i < tiles; ++i) {
          const ptrdiff_t wanted = first + i * kTileRows, stop = wanted + kTileRows < end ? wanted + kTileRows : end;
          rows.put(block + (i * kTileRows + wanted - from[i]) * kBlockPitch, wanted, stop);
        }
      }
    }
  }
}

// True if pixels can be read as rows of whole tiles.
GC_INLINE bool suits_tiles(const Tensor& in) { return in.channels % kTileDepth == 0 && in.pixels() >= kTileRows; }

#endif

// The product's rows as `Out`: activations, or fp32 where the result leaves the network.
template <class Out>
GC_INLINE void linear_as(const Linear& args, PixelRange range) {
#if defined(GC_AMX)
  if (suits_tiles(args.in)) {
    if (args.residual != nullptr && args.residual->pending.scale != nullptr)
      linear_tiles<Out, true>(args, range);
    else
      linear_tiles<Out, false>(args, range);
    return;
  }
#endif
  constexpr ptrdiff_t kBlock = 256;  // pixels that stay in the cache while all panels pass over them
  for (ptrdiff_t begin = range.begin; begin < range.end; begin += kBlock) {
    const int rows = static_cast<int>(range.end - begin < kBlock ? range.end - begin : kBlock);
    for (int panel = 0; panel < panels_of(args.weight.n); ++panel) {
      const int column = first_column(args.weight.n, panel);
      Product p = packed_product(args.weight, args.bias, panel);
      p.k = args.in.channels;
      panel_product<Layout::kRows, Out, Elem>(p, rows, [&](int i) {
        const ptrdiff_t pixel = begin + i;
        return Row<Out, Elem>{args.in.pixel<Elem>(pixel), args.out.pixel<Out>(pixel) + column,
                              args.residual == nullptr ? nullptr : args.residual->pixel<Elem>(pixel) + column};
      });
    }
  }
}

void linear(const Linear& args, PixelRange range) {
  const ProductUnit unit;
  if (args.out.dtype == DType::kF32)
    linear_as<float>(args, range);
  else
    linear_as<Elem>(args, range);
}

}  // namespace
}  // namespace gaitcrafter
