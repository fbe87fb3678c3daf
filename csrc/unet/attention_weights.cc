// The weights and tables of the attentions (unet/weights.h).
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "unet/weights.h"

namespace gaitcrafter {
namespace {

constexpr double kLog2E = 1.4426950408889634;  // tiles compute softmax by powers of two

int extent(const TensorView& t, size_t axis) { return static_cast<int>(t.shape.at(axis)); }

enum Part { kQ, kK, kV };

// to_qkv [3 * heads * dim, C] times the norm's gamma, whose rows past a head's and columns past C are zeros.
class QkvWeights {
 public:
  QkvWeights(const TensorView& to_qkv, const TensorView& gamma, int heads)
      : hidden_(extent(to_qkv, 0) / 3),
        channels_(extent(to_qkv, 1)),
        dim_(hidden_ / heads),
        weights_(to_qkv.data),
        gamma_(gamma.data) {}

  int channels() const { return channels_; }
  int dim() const { return dim_; }
  double root() const { return 1.0 / std::sqrt(static_cast<double>(dim_)); }
  float at(Part part, int head, int d, int c, double scale) const {
    if (d >= dim_ || c >= channels_) return 0.0f;
    const ptrdiff_t row = static_cast<ptrdiff_t>(part) * hidden_ + head * dim_ + d;
    return static_cast<float>(scale * weights_[row * channels_ + c] * gamma_[c]);
  }

 private:
  int hidden_, channels_, dim_;
  const float *weights_, *gamma_;
};

// Of one head, [rows][depth], and [depth / 2][rows][2].
template <class E>
E* put_rows(E* out, const QkvWeights& w, Part part, int head, int rows, int depth, double scale) {
  for (int d = 0; d < rows; ++d)
    for (int c = 0; c < depth; ++c) put(*out++, w.at(part, head, d, c, scale));
  return out;
}

template <class E>
E* put_columns(E* out, const QkvWeights& w, Part part, int head, int rows, int depth) {
  for (int c = 0; c < depth; c += 2)
    for (int d = 0; d < rows; ++d)
      for (int i = 0; i < 2; ++i) put(*out++, w.at(part, head, d, c + i, 1.0));
  return out;
}

template <class Fill>
const void* elements(const Packer& packer, size_t count, Fill fill) {
  return packer.store.array(count * bytes_of(packer.element.type),
                            [&](void* memory) { as_elements(memory, packer.element.type, fill); });
}

}  // namespace

const void* arrange_qkv(const Packer& packer, const TensorView& to_qkv, const TensorView& gamma, int heads) {
  const QkvWeights w(to_qkv, gamma, heads);
  const bool tiles = packer.element.tiles;
  const int rows = tiles ? round_up(w.dim(), kWidestLanes) : w.dim();
  const int depth = tiles ? round_up(w.channels(), packer.unit()) : w.channels();
  return elements(packer, static_cast<size_t>(heads) * 3 * rows * depth, [&](auto* out) {
    for (int head = 0; head < heads; ++head) {
      out = put_rows(out, w, kQ, head, rows, depth, tiles ? w.root() * kLog2E : w.root());
      if (!tiles) out = put_rows(out, w, kK, head, rows, depth, 1.0);
      out = put_rows(out, w, kV, head, rows, depth, 1.0);
      if (tiles) out = put_columns(out, w, kK, head, rows, depth);
    }
  });
}

const void* arrange_linear_q(const Packer& packer, const TensorView& to_qkv, const TensorView& gamma, int heads) {
  const QkvWeights w(to_qkv, gamma, heads);
  const bool tiles = packer.element.tiles;
  const int rows = tiles ? round_up(w.dim(), kWidestLanes) : w.dim();
  const int depth = tiles ? round_up(w.channels(), packer.unit()) : w.channels();
  return elements(packer, static_cast<size_t>(heads) * rows * depth, [&](auto* out) {
    for (int head = 0; head < heads; ++head) out = put_rows(out, w, kQ, head, rows, depth, tiles ? kLog2E : 1.0);
  });
}

const void* arrange_linear_kv(const Packer& packer, const TensorView& to_qkv, const TensorView& gamma, int heads) {
  const QkvWeights w(to_qkv, gamma, heads);
  if (packer.element.tiles) {
    const int rows = round_up(w.dim(), kWidestLanes), depth = round_up(w.channels(), packer.unit());
    return elements(packer, static_cast<size_t>(heads) * 2 * rows * depth, [&](auto* out) {
      for (int head = 0; head < heads; ++head) {
        out = put_rows(out, w, kK, head, rows, depth, kLog2E);
        out = put_columns(out, w, kV, head, rows, depth);
      }
    });
  }
  const int padded = round_up(w.dim(), packer.lanes);
  const Packed all = pack_matrices(packer, heads, w.channels(), 2 * padded, [&](int c, int head) {
    return [&w, padded, c, head](int n) { return w.at(n < padded ? kK : kV, head, n % padded, c, 1.0); };
  });
  return all.data;
}

// T5's bidirectional bucket of key - query, in fp32 like the base network, to land in the same bucket at the edges.
static int position_bucket(int query, int key, int buckets, int max_distance) {
  const int half = buckets / 2, exact = half / 2, distance = std::abs(query - key);
  const int base = query < key ? half : 0;
  if (distance < exact) return base + distance;
  const float ratio = std::log(static_cast<float>(distance) / static_cast<float>(exact)) /
                      static_cast<float>(std::log(static_cast<double>(max_distance) / exact));
  return base + std::min(exact + static_cast<int>(ratio * static_cast<float>(half - exact)), half - 1);
}

const float* position_bias(const Packer& packer, const TensorView& table, int frames, int max_distance) {
  const int buckets = extent(table, 0), heads = extent(table, 1), pitch = round_up(frames, kWidestLanes);
  const bool tiles = packer.element.tiles;
  const int keys = tiles ? pitch : frames;
  return packer.store.floats(static_cast<size_t>(heads) * keys * pitch, [&](float* out) {
    for (int head = 0; head < heads; ++head)
      for (int key = 0; key < frames; ++key)
        for (int query = 0; query < frames; ++query) {
          const ptrdiff_t bucket = position_bucket(query, key, buckets, max_distance);
          const double bias = table.data[bucket * heads + head] * (tiles ? kLog2E : 1.0);
          out[(static_cast<ptrdiff_t>(head) * keys + key) * pitch + query] = static_cast<float>(bias);
        }
  });
}

RotaryTables rotary_tables(const Packer& packer, int frames, int rotary_dim, int dim, int sequences) {
  const bool tiles = packer.element.tiles;
  const int tokens = tiles ? frames : sequences * frames, pitch = round_up(tokens, kWidestLanes);
  const auto value = [&](double (*function)(double), int pair, int frame) {
    const float exponent = static_cast<float>(2 * pair) / static_cast<float>(rotary_dim);
    const float frequency = 1.0f / static_cast<float>(std::pow(10000.0, static_cast<double>(exponent)));
    const double angle = static_cast<float>(frame) * frequency;
    return static_cast<float>(function(angle));
  };
  const auto table = [&](double (*function)(double)) {
    return packer.store.floats(static_cast<size_t>(rotary_dim / 2) * pitch, [&](float* out) {
      for (int i = 0; i < rotary_dim / 2; ++i)
        for (int token = 0; token < tokens; ++token)
          out[static_cast<ptrdiff_t>(i) * pitch + token] = value(function, i, token % frames);
    });
  };
  RotaryTables t;
  t.cos = table(std::cos);
  t.sin = table(std::sin);
  t.pitch = pitch;
  t.dim = rotary_dim;
  if (!tiles) return t;
  const int rows = round_up(dim, kWidestLanes);
  const auto lanes = [&](double (*function)(double), float rest, float even_sign) {
    return packer.store.floats(static_cast<size_t>(pitch) * rows, [&](float* out) {
      for (int frame = 0; frame < pitch; ++frame)
        for (int d = 0; d < rows; ++d, ++out) {
          const bool turned = frame < frames && d < rotary_dim;
          *out = turned ? value(function, d / 2, frame) * (d % 2 == 0 ? even_sign : 1.0f) : rest;
        }
    });
  };
  t.cos_lanes = lanes(std::cos, 1.0f, 1.0f);
  t.sin_lanes = lanes(std::sin, 0.0f, -1.0f);
  return t;
}

}  // namespace gaitcrafter
