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
  WindowOrder(OperandType operand, int channels, int rows, int columns, int stride)
      : channels_(channels),
        rows_(rows),
        columns_(columns),
        unit_(operand.unit()),
        block_(conv_channel_block(operand, channels)),
        apart_(conv_taps_apart(operand, channels, stride)) {}

  int size() const {
    const int whole = channels_ / block_, last = channels_ - whole * block_;
    return rows_ * (whole * row_elements(block_) + (last > 0 ? row_elements(last) : 0));
  }
  WindowIndex at(int k) const {
    const int block = k / (rows_ * row_elements(block_)), first = block * block_;
    const int count = std::min(block_, channels_ - first), rest = k - block * rows_ * row_elements(block_);
    const int row = rest / row_elements(count), in_row = rest % row_elements(count);
    const int tap = apart_ ? round_up(count, unit_) : count;
    if (in_row >= columns_ * tap || in_row % tap >= count) return {-1, 0, 0};
    return {first + in_row % tap, row, in_row / tap};
  }

 private:
  // Elements of one window row over `count` channels.
  int row_elements(int count) const {
    return apart_ ? columns_ * round_up(count, unit_) : round_up(columns_ * count, unit_);
  }

  int channels_, rows_, columns_, unit_, block_;
  bool apart_;
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
  float operator()(int n) const { return first == nullptr ? 0.0f : first[n * stride] * scale; }
};

}  // namespace

const float* copy_of(WeightStore& store, const TensorView& tensor) {
  const size_t count = static_cast<size_t>(tensor.size());
  return store.floats(count, [&](float* y) { std::copy_n(tensor.data, count, y); });
}

const float* rows_of(const Packer& packer, const TensorView& matrix, int channels, bool planes) {
  const ptrdiff_t rows = matrix.size() / channels, pitch = round_up(channels, kWidestLanes);
  return packer.store.floats(static_cast<size_t>(rows * pitch), [&](float* y) {
    for (ptrdiff_t row = 0; row < rows; ++row)
      for (int c = 0; c < channels; ++c) y[row * pitch + c] = matrix.data[planes ? c * rows + row : row * channels + c];
  });
}

const float* padded_vector(const Packer& packer, const TensorView& vector) {
  return packer.store.floats(static_cast<size_t>(round_up(static_cast<int>(vector.size()), kWidestLanes)),
                             [&](float* y) { std::copy_n(vector.data, vector.size(), y); });
}

Packed pack_conv(const Packer& packer, const TensorView& weight) {
  const int out = extent(weight, 0), in = extent(weight, 1), kernel = extent(weight, 2);
  const WindowOrder order(packer.element, in, kernel, kernel, kernel % 2 == 0 ? 2 : 1);
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
  bytes.element.type = DType::kU8;
  const WindowOrder order(bytes.element, in, kernel, kernel, 1);
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
  const WindowOrder order(packer.element, in, 2, 2, 1);
  return pack_matrices(packer, 1, order.size(), out, [&](int k, int) {
    const WindowIndex at = order.at(k);
    const int row = (at.row == 0 ? 3 : 1) - down, column = (at.column == 0 ? 3 : 1) - right;
    const float* first = weight.data + static_cast<ptrdiff_t>(at.channel) * out * 16 + row * 4 + column;
    return StridedRow{at.channel < 0 ? nullptr : first, 16};
  });
}

Packed pack_linear(const Packer& packer, const TensorView& weight) {
  const int in = extent(weight, 1);
  return pack_matrices(packer, 1, round_up(in, packer.unit()), extent(weight, 0), [&](int k, int) {
    return StridedRow{k < in ? weight.data + k : nullptr, in};
  });
}

Packed pack_temporal_conv(const Packer& packer, const TensorView& weight, const TensorView& gamma) {
  const int in = extent(weight, 1), run = packer.element.tiles ? round_up(in, packer.unit()) : in;
  return pack_matrices(packer, 1, 3 * run, extent(weight, 0), [&](int k, int) {
    const int tap = k / run, c = k % run;
    if (c >= in) return ScaledRow{nullptr, 0, 0.0f};
    return ScaledRow{weight.data + static_cast<ptrdiff_t>(c) * 3 + tap, static_cast<ptrdiff_t>(in) * 3, gamma.data[c]};
  });
}

}  // namespace gaitcrafter
