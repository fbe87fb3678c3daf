#include "unet/weights.h"

#include <cmath>
#include <cstdlib>

namespace gaitcrafter {
namespace {

int extent(const TensorView& t, size_t axis) { return static_cast<int>(t.shape.at(axis)); }

// Position of (block, ky, kx, channel) in K, read backwards.
struct WindowIndex {
  int channel, row, column;
};

WindowIndex window_index(int k, int channels, int rows, int columns) {
  const int block_size = conv_channel_block(channels), window = rows * columns;
  const int block = k / (block_size * window), first = block * block_size;
  const int count = std::min(block_size, channels - first), rest = k - first * window;
  return {first + rest % count, rest / count / columns, rest / count % columns};
}

}  // namespace

AlignedFloats padded_vector(const TensorView& vector) {
  AlignedFloats padded(static_cast<size_t>(round_up(static_cast<int>(vector.size()), kWidestLanes)));
  std::copy_n(vector.data, vector.size(), padded.data());
  return padded;
}

PackedWeights pack_conv(PanelShape shape, const TensorView& weight) {
  const int out = extent(weight, 0), in = extent(weight, 1), kernel = extent(weight, 2);
  return pack_matrix(shape, in * kernel * kernel, out, [&](int k, int n) {
    const WindowIndex at = window_index(k, in, kernel, kernel);
    return weight.data[((static_cast<ptrdiff_t>(n) * in + at.channel) * kernel + at.row) * kernel + at.column];
  });
}

PackedWeights pack_winograd(PanelShape shape, const TensorView& weight) {
  const int out = extent(weight, 0), in = extent(weight, 1);
  constexpr double kG[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
  const size_t matrix = static_cast<size_t>(in) * static_cast<size_t>(round_up(out, shape.lanes));
  PackedWeights all;
  all.k = in;
  all.n = out;
  all.data = AlignedFloats(16 * matrix);
  for (int i = 0; i < 16; ++i) {
    const PackedWeights one = pack_matrix(shape, in, out, [&](int k, int n) {
      const float* g = weight.data + (static_cast<ptrdiff_t>(n) * in + k) * 9;
      double sum = 0;
      for (int y = 0; y < 3; ++y)
        for (int x = 0; x < 3; ++x) sum += kG[i / 4][y] * kG[i % 4][x] * g[3 * y + x];
      return static_cast<float>(sum);
    });
    std::copy_n(one.data.data(), matrix, all.data.data() + i * matrix);
  }
  return all;
}

PackedWeights pack_transposed_phase(PanelShape shape, const TensorView& weight, int phase) {
  const int in = extent(weight, 0), out = extent(weight, 1), down = phase / 2, right = phase % 2;
  return pack_matrix(shape, in * 4, out, [&](int k, int n) {
    const WindowIndex at = window_index(k, in, 2, 2);
    const int row = (at.row == 0 ? 3 : 1) - down, column = (at.column == 0 ? 3 : 1) - right;
    return weight.data[((static_cast<ptrdiff_t>(at.channel) * out + n) * 4 + row) * 4 + column];
  });
}

PackedWeights pack_linear(PanelShape shape, const TensorView& weight) {
  const int in = extent(weight, 1);
  return pack_matrix(shape, in, extent(weight, 0),
                     [&](int k, int n) { return weight.data[static_cast<ptrdiff_t>(n) * in + k]; });
}

PackedWeights pack_temporal_conv(PanelShape shape, const TensorView& weight, const TensorView& gamma) {
  const int in = extent(weight, 1);
  return pack_matrix(shape, 3 * in, extent(weight, 0), [&](int k, int n) {
    const int tap = k / in, c = k % in;
    return weight.data[(static_cast<ptrdiff_t>(n) * in + c) * 3 + tap] * gamma.data[c];
  });
}

AlignedFloats arrange_qkv(const TensorView& to_qkv, const TensorView& gamma, int heads) {
  const int hidden = extent(to_qkv, 0) / 3, channels = extent(to_qkv, 1), dim = hidden / heads;
  AlignedFloats out(static_cast<size_t>(to_qkv.size()));
  float* y = out.data();
  for (int head = 0; head < heads; ++head)
    for (int part = 0; part < 3; ++part) {
      const double scale = part == 0 ? 1.0 / std::sqrt(static_cast<double>(dim)) : 1.0;
      for (int d = 0; d < dim; ++d) {
        const float* row = to_qkv.data + (static_cast<ptrdiff_t>(part) * hidden + head * dim + d) * channels;
        for (int c = 0; c < channels; ++c) *y++ = static_cast<float>(scale * row[c] * gamma.data[c]);
      }
    }
  return out;
}

AlignedFloats arrange_linear_q(const TensorView& to_qkv, const TensorView& gamma) {
  const int hidden = extent(to_qkv, 0) / 3, channels = extent(to_qkv, 1);
  AlignedFloats out(static_cast<size_t>(hidden) * channels);
  for (ptrdiff_t i = 0; i < static_cast<ptrdiff_t>(hidden) * channels; ++i)
    out.data()[i] = to_qkv.data[i] * gamma.data[i % channels];
  return out;
}

AlignedFloats arrange_linear_kv(PanelShape shape, const TensorView& to_qkv, const TensorView& gamma, int heads) {
  const int hidden = extent(to_qkv, 0) / 3, channels = extent(to_qkv, 1), dim = hidden / heads;
  const int padded = round_up(dim, shape.lanes);
  const size_t head_floats = static_cast<size_t>(channels) * 2 * padded;
  AlignedFloats out(heads * head_floats);
  for (int head = 0; head < heads; ++head) {
    const PackedWeights packed = pack_matrix(shape, channels, 2 * padded, [&](int c, int n) {
      const int part = 1 + n / padded, d = n % padded;
      if (d >= dim) return 0.0f;
      return to_qkv.data[(static_cast<ptrdiff_t>(part) * hidden + head * dim + d) * channels + c] * gamma.data[c];
    });
    std::copy_n(packed.data.data(), head_floats, out.data() + head * head_floats);
  }
  return out;
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

AlignedFloats position_bias(const TensorView& table, int frames, int max_distance, int pitch) {
  const int buckets = extent(table, 0), heads = extent(table, 1);
  AlignedFloats out(static_cast<size_t>(heads) * frames * pitch);
  for (int head = 0; head < heads; ++head)
    for (int key = 0; key < frames; ++key)
      for (int query = 0; query < frames; ++query)
        out.data()[(static_cast<ptrdiff_t>(head) * frames + key) * pitch + query] =
            table.data[static_cast<ptrdiff_t>(position_bucket(query, key, buckets, max_distance)) * heads + head];
  return out;
}

RotaryTables rotary_tables(int frames, int rotary_dim, int tokens) {
  RotaryTables t;
  t.pitch = round_up(tokens, kWidestLanes);
  t.cos = AlignedFloats(static_cast<size_t>(rotary_dim / 2) * t.pitch);
  t.sin = AlignedFloats(static_cast<size_t>(rotary_dim / 2) * t.pitch);
  for (int i = 0; i < rotary_dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rotary_dim);
    const float frequency = 1.0f / static_cast<float>(std::pow(10000.0, static_cast<double>(exponent)));
    for (int token = 0; token < tokens; ++token) {
      const double angle = static_cast<float>(token % frames) * frequency;
      t.cos.data()[static_cast<ptrdiff_t>(i) * t.pitch + token] = static_cast<float>(std::cos(angle));
      t.sin.data()[static_cast<ptrdiff_t>(i) * t.pitch + token] = static_cast<float>(std::sin(angle));
    }
  }
  return t;
}

}  // namespace gaitcrafter
