#include "unet/weights.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

namespace gaitcrafter {
namespace {

int extent(const TensorView& t, size_t axis) { return static_cast<int>(t.shape.at(axis)); }

// Position of (block, ky, kx, channel) in K, read backwards; a negative channel is padding.
struct WindowIndex {
  int channel, row, column;
};

struct WindowOrder {
  int channels, rows, columns, pair;

  // Elements of one window row over `count` channels.
  int row_elements(int count) const { return round_up(columns * count, pair); }
  int size() const {
    const int block = conv_channel_block(channels), whole = channels / block;
    const int last = channels - whole * block;
    return rows * (whole * row_elements(block) + (last > 0 ? row_elements(last) : 0));
  }
  WindowIndex at(int k) const {
    const int block_size = conv_channel_block(channels);
    const int block = k / (rows * row_elements(block_size)), first = block * block_size;
    const int count = std::min(block_size, channels - first), rest = k - block * rows * row_elements(block_size);
    const int row = rest / row_elements(count), in_row = rest % row_elements(count);
    if (in_row >= columns * count) return {-1, 0, 0};
    return {first + in_row % count, row, in_row / count};
  }
};

}  // namespace

const float* padded_vector(const Packer& packer, const TensorView& vector) {
  return packer.store.floats(static_cast<size_t>(round_up(static_cast<int>(vector.size()), kWidestLanes)),
                             [&](float* y) { std::copy_n(vector.data, vector.size(), y); });
}

Packed pack_conv(const Packer& packer, const TensorView& weight) {
  const int out = extent(weight, 0), in = extent(weight, 1), kernel = extent(weight, 2);
  const WindowOrder order{in, kernel, kernel, packer.pair()};
  return pack_matrices(packer, 1, order.size(), out, [&](int k, int n, int) {
    const WindowIndex at = order.at(k);
    if (at.channel < 0) return 0.0f;
    return weight.data[((static_cast<ptrdiff_t>(n) * in + at.channel) * kernel + at.row) * kernel + at.column];
  });
}

QuantisedConv pack_quantised_conv(const Packer& packer, const TensorView& weight, const TensorView& low,
                                  const TensorView& high) {
  const int out = extent(weight, 0), in = extent(weight, 1), taps = extent(weight, 2) * extent(weight, 3);
  std::vector<float> step(static_cast<size_t>(in)), scale(static_cast<size_t>(out));
  std::vector<int> zero(step.size());
  for (size_t c = 0; c < step.size(); ++c) {
    step[c] = (high.data[c] - low.data[c]) / 255.0f;
    zero[c] = static_cast<int>(std::clamp(std::lrint(-low.data[c] / step[c]), 0L, 255L));
  }
  const auto at = [&](int n, int c, int tap) {
    return weight.data[(static_cast<ptrdiff_t>(n) * in + c) * taps + tap] * step[static_cast<size_t>(c)];
  };
  for (int n = 0; n < out; ++n) {
    float most = 0;
    for (int c = 0; c < in; ++c)
      for (int tap = 0; tap < taps; ++tap) most = std::max(most, std::fabs(at(n, c, tap)));
    scale[static_cast<size_t>(n)] = most > 0 ? most / 127.0f : 1.0f;
  }
  const auto integer = [&](int n, int c, int tap) { return std::lrint(at(n, c, tap) / scale[static_cast<size_t>(n)]); };

  WeightStore& store = packer.store;
  const size_t padded = static_cast<size_t>(round_up(out, kWidestLanes));
  QuantisedConv q;
  q.arrays.inverse_step = store.floats(step.size(), [&](float* y) {
    for (const float s : step) *y++ = 1.0f / s;
  });
  q.arrays.zero = store.floats(zero.size(), [&](float* y) { std::copy(zero.begin(), zero.end(), y); });
  q.arrays.zero_bytes = static_cast<const uint8_t*>(
      store.array(zero.size(), [&](void* y) { std::copy(zero.begin(), zero.end(), static_cast<uint8_t*>(y)); }));
  q.arrays.scale = store.floats(padded, [&](float* y) { std::copy(scale.begin(), scale.end(), y); });
  q.arrays.start = static_cast<const int32_t*>(store.array(padded * sizeof(int32_t), [&](void* memory) {
    for (int n = 0; n < out; ++n) {
      long sum = 0;
      for (int c = 0; c < in; ++c)
        for (int tap = 0; tap < taps; ++tap) sum += integer(n, c, tap) * zero[static_cast<size_t>(c)];
      static_cast<int32_t*>(memory)[n] = static_cast<int32_t>(-sum);
    }
  }));
  Packer bytes = packer;
  bytes.element = DType::kU8;
  const int kernel = extent(weight, 2);
  const WindowOrder order{in, kernel, kernel, bytes.pair()};
  q.weight = pack_matrices(bytes, 1, order.size(), out, [&](int k, int n, int) {
    const WindowIndex i = order.at(k);
    return i.channel < 0 ? 0.0f : static_cast<float>(integer(n, i.channel, i.row * kernel + i.column));
  });
  return q;
}

Packed pack_winograd(const Packer& packer, const TensorView& weight) {
  const int out = extent(weight, 0), in = extent(weight, 1);
  constexpr double kG[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
  return pack_matrices(packer, 16, in, out, [&](int k, int n, int i) {
    const float* g = weight.data + (static_cast<ptrdiff_t>(n) * in + k) * 9;
    double sum = 0;
    for (int y = 0; y < 3; ++y)
      for (int x = 0; x < 3; ++x) sum += kG[i / 4][y] * kG[i % 4][x] * g[3 * y + x];
    return static_cast<float>(sum);
  });
}

Packed pack_transposed_phase(const Packer& packer, const TensorView& weight, int phase) {
  const int in = extent(weight, 0), out = extent(weight, 1), down = phase / 2, right = phase % 2;
  const WindowOrder order{in, 2, 2, packer.pair()};
  return pack_matrices(packer, 1, order.size(), out, [&](int k, int n, int) {
    const WindowIndex at = order.at(k);
    if (at.channel < 0) return 0.0f;
    const int row = (at.row == 0 ? 3 : 1) - down, column = (at.column == 0 ? 3 : 1) - right;
    return weight.data[((static_cast<ptrdiff_t>(at.channel) * out + n) * 4 + row) * 4 + column];
  });
}

Packed pack_linear(const Packer& packer, const TensorView& weight) {
  const int in = extent(weight, 1);
  return pack_matrices(packer, 1, in, extent(weight, 0),
                       [&](int k, int n, int) { return weight.data[static_cast<ptrdiff_t>(n) * in + k]; });
}

Packed pack_temporal_conv(const Packer& packer, const TensorView& weight, const TensorView& gamma) {
  const int in = extent(weight, 1);
  return pack_matrices(packer, 1, 3 * in, extent(weight, 0), [&](int k, int n, int) {
    const int tap = k / in, c = k % in;
    return weight.data[(static_cast<ptrdiff_t>(n) * in + c) * 3 + tap] * gamma.data[c];
  });
}

const void* arrange_qkv(const Packer& packer, const TensorView& to_qkv, const TensorView& gamma, int heads) {
  const int hidden = extent(to_qkv, 0) / 3, channels = extent(to_qkv, 1), dim = hidden / heads;
  return packer.store.array(static_cast<size_t>(to_qkv.size()) * bytes_of(packer.element), [&](void* memory) {
    ElementWriter out(memory, packer.element);
    for (int head = 0; head < heads; ++head)
      for (int part = 0; part < 3; ++part) {
        const double scale = part == 0 ? 1.0 / std::sqrt(static_cast<double>(dim)) : 1.0;
        for (int d = 0; d < dim; ++d) {
          const float* row = to_qkv.data + (static_cast<ptrdiff_t>(part) * hidden + head * dim + d) * channels;
          for (int c = 0; c < channels; ++c) out.put(static_cast<float>(scale * row[c] * gamma.data[c]));
        }
      }
  });
}

const void* arrange_linear_q(const Packer& packer, const TensorView& to_qkv, const TensorView& gamma) {
  const int hidden = extent(to_qkv, 0) / 3, channels = extent(to_qkv, 1);
  const ptrdiff_t count = static_cast<ptrdiff_t>(hidden) * channels;
  return packer.store.array(static_cast<size_t>(count) * bytes_of(packer.element), [&](void* memory) {
    ElementWriter out(memory, packer.element);
    for (ptrdiff_t i = 0; i < count; ++i) out.put(to_qkv.data[i] * gamma.data[i % channels]);
  });
}

const void* arrange_linear_kv(const Packer& packer, const TensorView& to_qkv, const TensorView& gamma, int heads) {
  const int hidden = extent(to_qkv, 0) / 3, channels = extent(to_qkv, 1), dim = hidden / heads;
  const int padded = round_up(dim, packer.lanes);
  const Packed all = pack_matrices(packer, heads, channels, 2 * padded, [&](int c, int n, int head) {
    const int part = 1 + n / padded, d = n % padded;
    if (d >= dim) return 0.0f;
    return to_qkv.data[(static_cast<ptrdiff_t>(part) * hidden + head * dim + d) * channels + c] * gamma.data[c];
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

const float* position_bias(WeightStore& store, const TensorView& table, int frames, int max_distance, int pitch) {
  const int buckets = extent(table, 0), heads = extent(table, 1);
  return store.floats(static_cast<size_t>(heads) * frames * pitch, [&](float* out) {
    for (int head = 0; head < heads; ++head)
      for (int key = 0; key < frames; ++key)
        for (int query = 0; query < frames; ++query)
          out[(static_cast<ptrdiff_t>(head) * frames + key) * pitch + query] =
              table.data[static_cast<ptrdiff_t>(position_bucket(query, key, buckets, max_distance)) * heads + head];
  });
}

RotaryTables rotary_tables(WeightStore& store, int frames, int rotary_dim, int tokens) {
  const int pitch = round_up(tokens, kWidestLanes);
  const auto table = [&](double (*function)(double)) {
    return store.floats(static_cast<size_t>(rotary_dim / 2) * pitch, [&](float* out) {
      for (int i = 0; i < rotary_dim / 2; ++i) {
        const float exponent = static_cast<float>(2 * i) / static_cast<float>(rotary_dim);
        const float frequency = 1.0f / static_cast<float>(std::pow(10000.0, static_cast<double>(exponent)));
        for (int token = 0; token < tokens; ++token) {
          const double angle = static_cast<float>(token % frames) * frequency;
          out[static_cast<ptrdiff_t>(i) * pitch + token] = static_cast<float>(function(angle));
        }
      }
    });
  };
  const float* cos = table(std::cos);
  return {cos, table(std::sin), pitch, rotary_dim};
}

}  // namespace gaitcrafter
