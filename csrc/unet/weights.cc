#include "unet/weights.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"

namespace gaitcrafter {
namespace {

int extent(const TensorView& t, size_t axis) { return static_cast<int>(t.shape.at(axis)); }

// Position of (block, ky, kx, channel) in K, read backwards; a negative channel is padding.
struct WindowIndex {
  int channel, row, column;
};

class WindowOrder {
 public:
  WindowOrder(int channels, int rows, int columns, int pair)
      : channels_(channels), rows_(rows), columns_(columns), pair_(pair), block_(conv_channel_block(channels)) {}

  int size() const {
    const int whole = channels_ / block_, last = channels_ - whole * block_;
    return rows_ * (whole * row_elements(block_) + (last > 0 ? row_elements(last) : 0));
  }
  WindowIndex at(int k) const {
    const int block = k / (rows_ * row_elements(block_)), first = block * block_;
    const int count = std::min(block_, channels_ - first), rest = k - block * rows_ * row_elements(block_);
    const int row = rest / row_elements(count), in_row = rest % row_elements(count);
    if (in_row >= columns_ * count) return {-1, 0, 0};
    return {first + in_row % count, row, in_row / count};
  }

 private:
  // Elements of one window row over `count` channels.
  int row_elements(int count) const { return round_up(columns_ * count, pair_); }

  int channels_, rows_, columns_, pair_, block_;
};

// A row of a packed matrix whose values lie `stride` apart; a null pointer stands for zeros.
struct StridedRow {
  const float* first;
  ptrdiff_t stride;
  float operator()(int n) const { return first == nullptr ? 0.0f : first[n * stride]; }
};

struct ScaledRow {
  const float* first;
  ptrdiff_t stride;
  float scale;
  float operator()(int n) const { return first[n * stride] * scale; }
};

}  // namespace

const float* copy_of(WeightStore& store, const TensorView& tensor) {
  const size_t count = static_cast<size_t>(tensor.size());
  return store.floats(count, [&](float* y) { std::copy_n(tensor.data, count, y); });
}

const float* padded_vector(const Packer& packer, const TensorView& vector) {
  return packer.store.floats(static_cast<size_t>(round_up(static_cast<int>(vector.size()), kWidestLanes)),
                             [&](float* y) { std::copy_n(vector.data, vector.size(), y); });
}

Packed pack_conv(const Packer& packer, const TensorView& weight) {
  const int out = extent(weight, 0), in = extent(weight, 1), kernel = extent(weight, 2);
  const WindowOrder order(in, kernel, kernel, packer.pair());
  const ptrdiff_t taps = static_cast<ptrdiff_t>(kernel) * kernel;
  return pack_matrices(packer, 1, order.size(), out, [&](int k, int) {
    const WindowIndex at = order.at(k);
    const float* first = at.channel < 0 ? nullptr : weight.data + at.channel * taps + at.row * kernel + at.column;
    return StridedRow{first, in * taps};
  });
}

namespace {

// A convolution's weights as integers: w[n, c, tap] * step[c] is about scale[n] * integer(n, c, tap).
struct QuantisedWeights {
  const float* data;
  int out, in, taps;
  std::vector<float> step, scale;
  std::vector<int> zero;

  QuantisedWeights(const TensorView& weight, const TensorView& low, const TensorView& high)
      : data(weight.data),
        out(extent(weight, 0)),
        in(extent(weight, 1)),
        taps(extent(weight, 2) * extent(weight, 3)),
        step(static_cast<size_t>(in)),
        scale(static_cast<size_t>(out)),
        zero(step.size()) {
    for (size_t c = 0; c < step.size(); ++c) {
      step[c] = (high.data[c] - low.data[c]) / 255.0f;
      zero[c] = static_cast<int>(std::clamp(std::lrint(-low.data[c] / step[c]), 0L, 255L));
    }
    for (int n = 0; n < out; ++n) {
      float most = 0;
      for (int c = 0; c < in; ++c)
        for (int tap = 0; tap < taps; ++tap) most = std::max(most, std::fabs(stepped(n, c, tap)));
      scale[static_cast<size_t>(n)] = most > 0 ? most / 127.0f : 1.0f;
    }
  }
  float stepped(int n, int c, int tap) const {
    return data[(static_cast<ptrdiff_t>(n) * in + c) * taps + tap] * step[static_cast<size_t>(c)];
  }
  long integer(int n, int c, int tap) const { return std::lrint(stepped(n, c, tap) / scale[static_cast<size_t>(n)]); }
};

}  // namespace

QuantisedConv pack_quantised_conv(const Packer& packer, const TensorView& weight, const TensorView& low,
                                  const TensorView& high) {
  const int out = extent(weight, 0), in = extent(weight, 1), kernel = extent(weight, 2);
  if (in > kMaxQuantisedChannels) {
    throw Error(Status::kCapability, "a convolution of " + std::to_string(in) +
                                         " input channels does not fit the sums of precision int8, which take " +
                                         std::to_string(kMaxQuantisedChannels) + "; use precision bf16");
  }
  // Worked out by the first array that is filled: packed weights that come from a file have no values to start from.
  std::optional<QuantisedWeights> made;
  const auto values = [&]() -> const QuantisedWeights& { return made ? *made : made.emplace(weight, low, high); };

  WeightStore& store = packer.store;
  const size_t channels = static_cast<size_t>(in), padded = static_cast<size_t>(round_up(out, kWidestLanes));
  QuantisedConv q;
  q.arrays.inverse_step = store.floats(channels, [&](float* y) {
    for (const float s : values().step) *y++ = 1.0f / s;
  });
  q.arrays.zero = store.floats(channels, [&](float* y) { std::copy_n(values().zero.begin(), channels, y); });
  q.arrays.zero_bytes = static_cast<const uint8_t*>(
      store.array(channels, [&](void* y) { std::copy_n(values().zero.begin(), channels, static_cast<uint8_t*>(y)); }));
  q.arrays.scale = store.floats(padded, [&](float* y) { std::copy_n(values().scale.begin(), out, y); });
  q.arrays.start = static_cast<const int32_t*>(store.array(padded * sizeof(int32_t), [&](void* memory) {
    const QuantisedWeights& v = values();
    for (int n = 0; n < out; ++n) {
      long sum = 0;
      for (int c = 0; c < in; ++c)
        for (int tap = 0; tap < v.taps; ++tap) sum += v.integer(n, c, tap) * v.zero[static_cast<size_t>(c)];
      static_cast<int32_t*>(memory)[n] = static_cast<int32_t>(-sum);
    }
  }));
  Packer bytes = packer;
  bytes.element = DType::kU8;
  const WindowOrder order(in, kernel, kernel, bytes.pair());
  q.weight = pack_matrices(bytes, 1, order.size(), out, [&](int k, int) {
    const WindowIndex i = order.at(k);
    const QuantisedWeights* v = &values();
    return [v, i, kernel](int n) {
      return i.channel < 0 ? 0.0f : static_cast<float>(v->integer(n, i.channel, i.row * kernel + i.column));
    };
  });
  return q;
}

Packed pack_winograd(const Packer& packer, const TensorView& weight) {
  const int out = extent(weight, 0), in = extent(weight, 1);
  static constexpr double kG[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
  return pack_matrices(packer, 16, in, out, [&](int k, int i) {
    std::array<double, 9> both;
    for (size_t tap = 0; tap < 9; ++tap) both[tap] = kG[i / 4][tap / 3] * kG[i % 4][tap % 3];
    const float* first = weight.data + static_cast<ptrdiff_t>(k) * 9;
    return [both, first, in](int n) {
      const float* g = first + static_cast<ptrdiff_t>(n) * in * 9;
      double sum = 0;
      for (size_t tap = 0; tap < 9; ++tap) sum += both[tap] * g[tap];
      return static_cast<float>(sum);
    };
  });
}

Packed pack_transposed_phase(const Packer& packer, const TensorView& weight, int phase) {
  const int in = extent(weight, 0), out = extent(weight, 1), down = phase / 2, right = phase % 2;
  const WindowOrder order(in, 2, 2, packer.pair());
  return pack_matrices(packer, 1, order.size(), out, [&](int k, int) {
    const WindowIndex at = order.at(k);
    const int row = (at.row == 0 ? 3 : 1) - down, column = (at.column == 0 ? 3 : 1) - right;
    const float* first = weight.data + static_cast<ptrdiff_t>(at.channel) * out * 16 + row * 4 + column;
    return StridedRow{at.channel < 0 ? nullptr : first, 16};
  });
}

Packed pack_linear(const Packer& packer, const TensorView& weight) {
  const int in = extent(weight, 1);
  return pack_matrices(packer, 1, in, extent(weight, 0), [&](int k, int) { return StridedRow{weight.data + k, in}; });
}

Packed pack_temporal_conv(const Packer& packer, const TensorView& weight, const TensorView& gamma) {
  const int in = extent(weight, 1);
  return pack_matrices(packer, 1, 3 * in, extent(weight, 0), [&](int k, int) {
    const int tap = k / in, c = k % in;
    return ScaledRow{weight.data + static_cast<ptrdiff_t>(c) * 3 + tap, static_cast<ptrdiff_t>(in) * 3, gamma.data[c]};
  });
}

const void* arrange_qkv(const Packer& packer, const TensorView& to_qkv, const TensorView& gamma, int heads) {
  const int hidden = extent(to_qkv, 0) / 3, channels = extent(to_qkv, 1), dim = hidden / heads;
  const auto fill = [&](auto* out) {
    for (int head = 0; head < heads; ++head)
      for (int part = 0; part < 3; ++part) {
        const double scale = part == 0 ? 1.0 / std::sqrt(static_cast<double>(dim)) : 1.0;
        for (int d = 0; d < dim; ++d) {
          const float* row = to_qkv.data + (static_cast<ptrdiff_t>(part) * hidden + head * dim + d) * channels;
          for (int c = 0; c < channels; ++c) put(*out++, static_cast<float>(scale * row[c] * gamma.data[c]));
        }
      }
  };
  return packer.store.array(static_cast<size_t>(to_qkv.size()) * bytes_of(packer.element),
                            [&](void* memory) { as_elements(memory, packer.element, fill); });
}

const void* arrange_linear_q(const Packer& packer, const TensorView& to_qkv, const TensorView& gamma) {
  const int hidden = extent(to_qkv, 0) / 3, channels = extent(to_qkv, 1);
  const ptrdiff_t count = static_cast<ptrdiff_t>(hidden) * channels;
  const auto fill = [&](auto* out) {
    for (ptrdiff_t i = 0; i < count; ++i) put(out[i], to_qkv.data[i] * gamma.data[i % channels]);
  };
  return packer.store.array(static_cast<size_t>(count) * bytes_of(packer.element),
                            [&](void* memory) { as_elements(memory, packer.element, fill); });
}

const void* arrange_linear_kv(const Packer& packer, const TensorView& to_qkv, const TensorView& gamma, int heads) {
  const int hidden = extent(to_qkv, 0) / 3, channels = extent(to_qkv, 1), dim = hidden / heads;
  const int padded = round_up(dim, packer.lanes);
  const Packed all = pack_matrices(packer, heads, channels, 2 * padded, [&](int c, int head) {
    const float* k = to_qkv.data + static_cast<ptrdiff_t>(hidden + head * dim) * channels + c;
    const float* v = k + static_cast<ptrdiff_t>(hidden) * channels;
    const ScaledRow keys{k, channels, gamma.data[c]}, values{v, channels, gamma.data[c]};
    return [keys, values, padded, dim](int n) {
      const int d = n % padded;
      return d >= dim ? 0.0f : n < padded ? keys(d) : values(d);
    };
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
