// Numpy arrays as channels-last tensors with a pitch, and back.
#pragma once

#include <pybind11/numpy.h>

#include <cmath>
#include <limits>
#include <optional>
#include <stdexcept>
#include <vector>

#include "core/isa.h"
#include "ops/op_table.h"
#include "unet/weights.h"

namespace gaitcrafter::testing {

using Array = pybind11::array_t<float, pybind11::array::c_style | pybind11::array::forcecast>;
using MaybeArray = std::optional<Array>;

// A [frames, height, width, channels] tensor whose pixels are kGap floats apart; what lies between must stay NaN.
class Image {
 public:
  static constexpr int kGap = 5;

  Image(int frames, int height, int width, int channels) {
    tensor_.frames = frames;
    tensor_.height = height;
    tensor_.width = width;
    tensor_.channels = channels;
    tensor_.pitch = channels + kGap;
    memory_.assign(static_cast<size_t>(tensor_.pixels() * tensor_.pitch), std::numeric_limits<float>::quiet_NaN());
    tensor_.data = memory_.data();
  }
  explicit Image(const Array& x)
      : Image(static_cast<int>(x.shape(0)), static_cast<int>(x.shape(1)), static_cast<int>(x.shape(2)),
              static_cast<int>(x.shape(3))) {
    const float* from = x.data();
    for (ptrdiff_t p = 0; p < tensor_.pixels(); ++p)
      for (int c = 0; c < tensor_.channels; ++c) tensor_.pixel(p)[c] = *from++;
  }
  Image(const Image&) = delete;

  Tensor& tensor() { return tensor_; }

  // Throws if an op wrote between the pixels.
  Array array() const {
    Array y({tensor_.frames, tensor_.height, tensor_.width, tensor_.channels});
    float* to = y.mutable_data();
    for (ptrdiff_t p = 0; p < tensor_.pixels(); ++p) {
      for (int c = 0; c < tensor_.channels; ++c) *to++ = tensor_.pixel(p)[c];
      for (int c = tensor_.channels; c < tensor_.pitch; ++c)
        if (!std::isnan(tensor_.pixel(p)[c]))
          throw std::runtime_error("an op wrote past the channels of pixel " + std::to_string(p));
    }
    return y;
  }

 private:
  Tensor tensor_;
  std::vector<float> memory_;
};

inline TensorView view(const Array& a) { return {a.data(), std::vector<int64_t>(a.shape(), a.shape() + a.ndim())}; }

// Scratch with a guard after its end.
class Scratch {
 public:
  explicit Scratch(size_t floats) : memory_(floats + kGuard), floats_(floats) {
    std::fill_n(memory_.data(), floats, std::numeric_limits<float>::quiet_NaN());
    std::fill_n(memory_.data() + floats, kGuard, kMark);
  }
  float* data() { return memory_.data(); }
  void check() const {
    for (size_t i = 0; i < kGuard; ++i)
      if (memory_.data()[floats_ + i] != kMark) throw std::runtime_error("an op wrote past its scratch");
  }

 private:
  static constexpr size_t kGuard = 64;
  static constexpr float kMark = 12345.0f;
  AlignedFloats memory_;
  size_t floats_;
};

inline Isa isa_named(const std::string& name) {
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512})
    if (isa_name(isa) == name) return isa;
  throw std::invalid_argument("unknown instruction set " + name);
}

// The table and panel shape of an instruction set named by a test.
struct Ops {
  explicit Ops(const std::string& name) : table(op_table(isa_named(name))), shape{table.lanes, table.max_vectors} {}
  const OpTable& table;
  PanelShape shape;
};

void bind_ops(pybind11::module_& m);
void bind_fma_limit(pybind11::module_& m);

}  // namespace gaitcrafter::testing
