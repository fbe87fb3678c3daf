// Numpy arrays as channels-last tensors with a pitch, and back.
#pragma once

#include <pybind11/numpy.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <stdexcept>
#include <vector>

#include "core/precision.h"
#include "ops/aligned.h"
#include "ops/op_table.h"
#include "unet/weights.h"

namespace gaitcrafter::testing {

using Array = pybind11::array_t<float, pybind11::array::c_style | pybind11::array::forcecast>;
using MaybeArray = std::optional<Array>;

// A [frames, height, width, channels] tensor whose pixels are kGap floats apart; what lies between must stay NaN.
class Image {
 public:
  static constexpr int kGap = 5;

  Image(DType dtype, int frames, int height, int width, int channels) {
    tensor_.dtype = dtype;
    tensor_.frames = frames;
    tensor_.height = height;
    tensor_.width = width;
    tensor_.channels = channels;
    tensor_.pitch = channels + kGap;
    memory_ = AlignedBytes(static_cast<size_t>(tensor_.pixels() * tensor_.pitch) * bytes_of(dtype));
    tensor_.data = memory_.data();
    for (ptrdiff_t i = 0; i < tensor_.pixels() * tensor_.pitch; ++i) set(i, std::numeric_limits<float>::quiet_NaN());
  }
  Image(DType dtype, const Array& x)
      : Image(dtype, static_cast<int>(x.shape(0)), static_cast<int>(x.shape(1)), static_cast<int>(x.shape(2)),
              static_cast<int>(x.shape(3))) {
    const float* from = x.data();
    for (ptrdiff_t p = 0; p < tensor_.pixels(); ++p)
      for (int c = 0; c < tensor_.channels; ++c) set(p * tensor_.pitch + c, *from++);
  }
  Image(const Image&) = delete;

  Tensor& tensor() { return tensor_; }

  // Throws if an op wrote between the pixels.
  Array array() const {
    Array y({tensor_.frames, tensor_.height, tensor_.width, tensor_.channels});
    float* to = y.mutable_data();
    for (ptrdiff_t p = 0; p < tensor_.pixels(); ++p) {
      for (int c = 0; c < tensor_.channels; ++c) *to++ = get(p * tensor_.pitch + c);
      for (int c = tensor_.channels; c < tensor_.pitch; ++c)
        if (!std::isnan(get(p * tensor_.pitch + c)))
          throw std::runtime_error("an op wrote past the channels of pixel " + std::to_string(p));
    }
    return y;
  }

 private:
  void set(ptrdiff_t i, float x) {
    if (tensor_.dtype == DType::kF32)
      assign(static_cast<float*>(tensor_.data)[i], x);
    else
      assign(static_cast<Bf16*>(tensor_.data)[i], x);
  }
  float get(ptrdiff_t i) const {
    return tensor_.dtype == DType::kF32 ? static_cast<const float*>(tensor_.data)[i]
                                        : to_float(static_cast<const Bf16*>(tensor_.data)[i]);
  }

  Tensor tensor_;
  AlignedBytes memory_;
};

inline TensorView view(const Array& a) { return {a.data(), std::vector<int64_t>(a.shape(), a.shape() + a.ndim())}; }

// Scratch with a guard after its end.
class Scratch {
 public:
  explicit Scratch(size_t bytes) : memory_(bytes + kGuard), bytes_(bytes) {
    std::memset(memory_.data(), 0xff, bytes);  // NaN in every type
    std::memset(memory_.data() + bytes, kMark, kGuard);
  }
  std::byte* data() { return memory_.data(); }
  void check() const {
    for (size_t i = 0; i < kGuard; ++i)
      if (memory_.data()[bytes_ + i] != std::byte{kMark}) throw std::runtime_error("an op wrote past its scratch");
  }

 private:
  static constexpr size_t kGuard = 256;
  static constexpr int kMark = 0x5a;
  AlignedBytes memory_;
  size_t bytes_;
};

inline Isa isa_named(const std::string& name) {
  for (const Isa isa : kIsas)
    if (isa_name(isa) == name) return isa;
  throw std::invalid_argument("unknown instruction set " + name);
}

// The op table that a test names, as "avx2", or "avx512 bf16", and a packer for it.
struct Ops {
  explicit Ops(const std::string& name) : table(table_named(name)), packer(store, table) {}
  Image image(const Array& x) const { return Image(table.element, x); }
  Image image(int frames, int height, int width, int channels) const {
    return Image(table.element, frames, height, width, channels);
  }

  const OpTable& table;
  WeightStore store;
  Packer packer;

 private:
  static const OpTable& table_named(const std::string& name) {
    const size_t space = name.find(' ');
    if (space == std::string::npos) return op_table(isa_named(name), Precision::kFp32);
    return op_table(isa_named(name.substr(0, space)), precision_named(name.substr(space + 1)).value());
  }
};

void bind_ops(pybind11::module_& m);
void bind_cubin(pybind11::module_& m);

}  // namespace gaitcrafter::testing
