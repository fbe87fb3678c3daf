// Each op on arrays [frames, height, width, channels], weights as in the package. Tiles run in two calls, to show that
// any split of the grid gives the same.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "arrays.h"
#include "ops/norm_statistics.h"
#include "ops/time_embedding.h"

namespace gaitcrafter::testing {
namespace {

namespace py = pybind11;

// Runs [0, tiles) as two ranges, the second first.
template <class Run>
void in_two(int tiles, Run run) {
  run(TileRange{tiles / 3, tiles});
  run(TileRange{0, tiles / 3});
}

PixelRange all(const Tensor& t) { return {0, t.pixels()}; }

Affine pending(const MaybeArray& scale, const MaybeArray& shift) {
  if (!scale) return {};
  return {scale->data(), shift->data(), scale->shape(0) > 1 ? scale->shape(1) : 0};
}

Array conv2d(const std::string& isa, const Array& x, const Array& weight, const Array& bias, int stride,
             const MaybeArray& scale, const MaybeArray& shift, bool winograd) {
  Ops ops(isa);
  Image in = ops.image(x);
  const int kernel = static_cast<int>(weight.shape(2)), padding = stride == 1 ? kernel / 2 : 1;
  const auto size = [&](int n) { return (n + 2 * padding - kernel) / stride + 1; };
  const Tensor& t = in.tensor();
  Image out = ops.image(t.frames, size(t.height), size(t.width), static_cast<int>(weight.shape(0)));
  in.tensor().pending = pending(scale, shift);
  const Packed packed = winograd ? pack_winograd(ops.packer, view(weight)) : pack_conv(ops.packer, view(weight));
  const float* padded = padded_vector(ops.packer, view(bias));
  const ConvGrid grid =
      winograd ? winograd_grid(t.frames, t.height, t.width, t.channels)
               : conv_grid(ops.table.operand(), t.frames, size(t.height), size(t.width), t.channels, kernel, stride);
  const Conv2d args{in.tensor(), out.tensor(), grid, packed, padded};
  Scratch scratch(args.grid.scratch_bytes);
  in_two(args.grid.tiles, [&](TileRange r) { ops.table.conv2d(args, r, scratch.data()); });
  scratch.check();
  return out.array();
}

// By 8-bit integers, for inputs (after the pending affine) in low .. high of their channel.
Array conv2d_int8(const std::string& isa, const Array& x, const Array& weight, const Array& bias, const Array& low,
                  const Array& high, const MaybeArray& scale, const MaybeArray& shift) {
  Ops ops(isa + " int8");
  Image in = ops.image(x);
  const Tensor& t = in.tensor();
  Image out = ops.image(t.frames, t.height, t.width, static_cast<int>(weight.shape(0)));
  in.tensor().pending = pending(scale, shift);
  const QuantisedConv packed = pack_quantised_conv(ops.packer, view(weight), view(low), view(high));
  const ConvGrid grid =
      conv_grid(ops.table.bytes(), t.frames, t.height, t.width, t.channels, static_cast<int>(weight.shape(2)), 1);
  const Conv2d args{in.tensor(),   out.tensor(), grid, packed.weight, padded_vector(ops.packer, view(bias)),
                    &packed.arrays};
  Scratch scratch(grid.scratch_bytes);
  in_two(grid.tiles, [&](TileRange r) { ops.table.conv2d(args, r, scratch.data()); });
  scratch.check();
  return out.array();
}

Array conv_transpose2d(const std::string& isa, const Array& x, const Array& weight, const Array& bias) {
  Ops ops(isa);
  Image in = ops.image(x);
  const Tensor& t = in.tensor();
  Image out = ops.image(t.frames, 2 * t.height, 2 * t.width, static_cast<int>(weight.shape(1)));
  ConvTranspose2d args{
      t, out.tensor(), conv_grid(ops.table.operand(), t.frames, t.height, t.width, t.channels, 3, 1), {}, nullptr};
  for (int phase = 0; phase < 4; ++phase) args.phase[phase] = pack_transposed_phase(ops.packer, view(weight), phase);
  const float* padded = padded_vector(ops.packer, view(bias));
  args.bias = padded;
  Scratch scratch(args.grid.scratch_bytes);
  in_two(args.grid.tiles, [&](TileRange r) { ops.table.conv_transpose2d(args, r, scratch.data()); });
  scratch.check();
  return out.array();
}

Array linear(const std::string& isa, const Array& x, const Array& weight, const Array& bias,
             const MaybeArray& residual) {
  Ops ops(isa);
  Image in = ops.image(x);
  const Tensor& t = in.tensor();
  Image out = ops.image(t.frames, t.height, t.width, static_cast<int>(weight.shape(0)));
  const Packed packed = pack_linear(ops.packer, view(weight));
  const float* padded = padded_vector(ops.packer, view(bias));
  std::optional<Image> added;
  if (residual) added.emplace(ops.table.element, *residual);
  ops.table.linear({t, out.tensor(), packed, padded, added ? &added->tensor() : nullptr}, all(t));
  return out.array();
}

// silu(norm(conv3x3(x)) * (film scale + 1) + film shift) + residual, through the statistics of the convolution's tiles.
Array conv_group_norm_silu(const std::string& isa, const Array& x, const Array& weight, const Array& bias,
                           const Array& norm_weight, const Array& norm_bias, int groups, const std::string& scope,
                           const MaybeArray& film, const MaybeArray& residual, bool winograd) {
  Ops ops(isa);
  Image in = ops.image(x);
  const Tensor& t = in.tensor();
  const int channels = static_cast<int>(weight.shape(0));
  Image mid = ops.image(t.frames, t.height, t.width, channels), out = ops.image(t.frames, t.height, t.width, channels);
  const Packed packed = winograd ? pack_winograd(ops.packer, view(weight)) : pack_conv(ops.packer, view(weight));
  const float* padded = padded_vector(ops.packer, view(bias));
  const ConvGrid grid = winograd ? winograd_grid(t.frames, t.height, t.width, t.channels)
                                 : conv_grid(ops.table.operand(), t.frames, t.height, t.width, t.channels, 3, 1);
  Conv2d conv{t, mid.tensor(), grid, packed, padded};
  std::vector<float> statistics(statistics_floats(conv.grid, channels));
  conv.out.statistics = statistics.data();
  Scratch scratch(conv.grid.scratch_bytes);
  in_two(conv.grid.tiles, [&](TileRange r) { ops.table.conv2d(conv, r, scratch.data()); });
  scratch.check();

  GroupNormAffine affine{statistics.data(),
                         conv.grid,
                         channels,
                         groups,
                         scope == "clip" ? NormScope::kClip : NormScope::kFrame,
                         norm_weight.data(),
                         norm_bias.data(),
                         {film ? film->data() : nullptr, nullptr}};
  const bool per_frame = affine.scope == NormScope::kFrame;
  std::vector<float> scale(static_cast<size_t>(channels) * (per_frame ? t.frames : 1)), shift(scale.size());
  in_two(group_norm_sets(affine), [&](TileRange r) { group_norm_affine(affine, r, scale.data(), shift.data()); });
  NormSilu args{mid.tensor(), out.tensor(), nullptr};
  args.in.pending = {scale.data(), shift.data(), per_frame ? channels : 0};
  std::optional<Image> added;
  if (residual) args.residual = &added.emplace(ops.table.element, *residual).tensor();
  ops.table.norm_silu(args, {t.pixels() / 3, t.pixels()});
  ops.table.norm_silu(args, {0, t.pixels() / 3});
  return out.array();
}

Array rms_norm_silu(const std::string& isa, const Array& x, const Array& gamma, const MaybeArray& film,
                    const MaybeArray& residual) {
  Ops ops(isa);
  Image in = ops.image(x);
  const Tensor& t = in.tensor();
  Image out = ops.image(t.frames, t.height, t.width, t.channels);
  std::vector<float> scale(static_cast<size_t>(t.channels)), shift(scale.size());
  rms_norm_affine(gamma.data(), t.channels, {film ? film->data() : nullptr, nullptr}, scale.data(), shift.data());
  RmsNormSilu args{t, out.tensor(), nullptr};
  args.in.pending = {scale.data(), shift.data(), 0};
  std::optional<Image> added;
  if (residual) args.residual = &added.emplace(ops.table.element, *residual).tensor();
  ops.table.rms_norm_silu(args, all(t));
  return out.array();
}

// silu(y * scale + shift) + W x + b.
Array shortcut_norm_silu(const std::string& isa, const Array& y, const Array& scale, const Array& shift, const Array& x,
                         const Array& weight, const Array& bias) {
  Ops ops(isa);
  Image in = ops.image(y), input = ops.image(x);
  const Tensor& t = in.tensor();
  Image out = ops.image(t.frames, t.height, t.width, t.channels);
  in.tensor().pending = pending(scale, shift);
  const Packed packed = pack_linear(ops.packer, view(weight));
  const float* padded = padded_vector(ops.packer, view(bias));
  const ShortcutNormSilu args{t, out.tensor(), input.tensor(), packed, padded};
  ops.table.shortcut_norm_silu(args, {t.pixels() / 3, t.pixels()});
  ops.table.shortcut_norm_silu(args, {0, t.pixels() / 3});
  return out.array();
}

Array channel_layer_norm(const std::string& isa, const Array& x, const Array& gamma) {
  Ops ops(isa);
  Image in = ops.image(x);
  const Tensor& t = in.tensor();
  Image out = ops.image(t.frames, t.height, t.width, t.channels);
  ops.table.channel_layer_norm({t, out.tensor(), gamma.data()}, all(t));
  return out.array();
}

// in + attention(layer_norm(in)); `table` is the position bias [buckets, heads].
Array temporal_attention(const std::string& isa, const Array& x, const Array& gamma, const Array& to_qkv,
                         const Array& to_out, int heads, const MaybeArray& table, int max_distance, int rotary_dim) {
  Ops ops(isa);
  Image in = ops.image(x);
  const Tensor& t = in.tensor();
  Image out = ops.image(t.frames, t.height, t.width, t.channels);
  const int dim = static_cast<int>(to_qkv.shape(0)) / (3 * heads), sites = static_cast<int>(t.sites());
  const void* qkv = arrange_qkv(ops.packer, view(to_qkv), view(gamma), heads);
  const Packed packed = pack_linear(ops.packer, view(to_out));
  TemporalAttention args;
  args.in = t;
  args.out = out.tensor();
  args.weights = {heads, dim, qkv, packed};
  args.bias_pitch = round_up(t.frames, kWidestLanes);
  if (table) {
    args.bias = position_bias(ops.packer, view(*table), t.frames, max_distance);
  }
  const int tile = temporal_attention_sites(ops.table.operand(), t.channels, heads, dim, t.frames, sites);
  if (rotary_dim > 0) args.rotary = rotary_tables(ops.packer, t.frames, rotary_dim, dim, tile);
  Scratch scratch(temporal_attention_scratch(ops.table.operand(), t.channels, heads, dim, t.frames, sites));
  in_two(ceil_div(sites, tile), [&](TileRange r) { ops.table.temporal_attention(args, r, scratch.data()); });
  scratch.check();
  return out.array();
}

// In place, like the network runs it.
Array spatial_attention(const std::string& isa, const Array& x, const Array& gamma, const Array& to_qkv,
                        const Array& to_out, int heads) {
  Ops ops(isa);
  Image in = ops.image(x);
  const Tensor& t = in.tensor();
  const int dim = static_cast<int>(to_qkv.shape(0)) / (3 * heads);
  const void* qkv = arrange_qkv(ops.packer, view(to_qkv), view(gamma), heads);
  const Packed packed = pack_linear(ops.packer, view(to_out));
  Scratch scratch(spatial_attention_scratch(ops.table.operand(), t.channels, heads, dim, static_cast<int>(t.sites())));
  const SpatialAttention args{t, t, {heads, dim, qkv, packed}};
  in_two(t.frames, [&](TileRange r) { ops.table.spatial_attention(args, r, scratch.data()); });
  scratch.check();
  return in.array();
}

Array spatial_linear_attention(const std::string& isa, const Array& x, const Array& gamma, const Array& to_qkv,
                               const Array& to_out, const Array& to_out_bias, int heads) {
  Ops ops(isa);
  Image in = ops.image(x);
  const Tensor& t = in.tensor();
  const int dim = static_cast<int>(to_qkv.shape(0)) / (3 * heads);
  const void* q = arrange_linear_q(ops.packer, view(to_qkv), view(gamma), heads);
  const void* kv = arrange_linear_kv(ops.packer, view(to_qkv), view(gamma), heads);
  const Packed packed = pack_linear(ops.packer, view(to_out));
  const float* padded = padded_vector(ops.packer, view(to_out_bias));
  Scratch scratch(linear_attention_scratch(ops.table.operand(), t.channels, heads, dim, static_cast<int>(t.sites())));
  const SpatialLinearAttention args{t, t, heads, dim, q, kv, packed, padded};
  in_two(t.frames, [&](TileRange r) { ops.table.spatial_linear_attention(args, r, scratch.data()); });
  scratch.check();
  return in.array();
}

Array temporal_conv(const std::string& isa, const Array& x, const Array& gamma, const Array& weight,
                    const Array& bias) {
  Ops ops(isa);
  Image in = ops.image(x);
  const Tensor& t = in.tensor();
  const int sites = static_cast<int>(t.sites()), tile = temporal_conv_sites(t.channels, t.frames, sites);
  const Packed packed = pack_temporal_conv(ops.packer, view(weight), view(gamma));
  const float* padded = padded_vector(ops.packer, view(bias));
  Scratch scratch(temporal_conv_scratch(ops.table.operand(), t.channels, t.frames, sites));
  const TemporalConv args{t, t, packed, padded};
  in_two(ceil_div(sites, tile), [&](TileRange r) { ops.table.temporal_conv(args, r, scratch.data()); });
  scratch.check();
  return in.array();
}

// clip [C, F, H, W] to [F, H / p, W / p, C p^2], and back.
Array unshuffle(const std::string& isa, const Array& clip, const MaybeArray& map, int patch) {
  Ops ops(isa);
  Image out(ops.table.element, static_cast<int>(clip.shape(1)), static_cast<int>(clip.shape(2)) / patch,
            static_cast<int>(clip.shape(3)) / patch, static_cast<int>(clip.shape(0)) * patch * patch);
  in_two(out.tensor().frames, [&](TileRange frames) {
    ops.table.pixel_unshuffle(clip.data(), map ? map->data() : nullptr, patch, out.tensor(), frames);
  });
  return out.array();
}

Array shuffle(const std::string& isa, const Array& x, int patch) {
  Ops ops(isa);
  Image in(DType::kF32, x);
  const Tensor& t = in.tensor();
  Array clip({t.channels / (patch * patch), t.frames, t.height * patch, t.width * patch});
  float* to = clip.mutable_data();
  in_two(t.frames, [&](TileRange frames) { ops.table.pixel_shuffle(t, patch, to, frames); });
  return clip;
}

Array positional(const std::string& isa, const Array& x, const Array& spatial, const Array& frame) {
  Ops ops(isa);
  Image in = ops.image(x);
  const int channels = in.tensor().channels;
  const PositionalEmbedding args{in.tensor(), rows_of(ops.packer, view(spatial), channels, true),
                                 rows_of(ops.packer, view(frame), channels, false)};
  in_two(in.tensor().frames, [&](TileRange frames) { ops.table.positional_embedding(args, frames); });
  return in.array();
}

py::array_t<double> time_mlp_of(int dim, const Array& w1, const Array& b1, const Array& w2, const Array& b2,
                                int timestep) {
  const std::vector<double> y = time_mlp({dim, w1.data(), b1.data(), w2.data(), b2.data()}, timestep);
  return py::array_t<double>(static_cast<py::ssize_t>(y.size()), y.data());
}

Array mapped(void (*function)(const float*, float*, ptrdiff_t), const Array& x) {
  Array y(x.size());
  function(x.data(), y.mutable_data(), x.size());
  return y;
}

}  // namespace

void bind_ops(py::module_& m) {
  const auto none = py::none();
  m.def("conv2d", &conv2d, py::arg("isa"), py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("stride") = 1,
        py::arg("scale") = none, py::arg("shift") = none, py::arg("winograd") = false);
  m.def("conv2d_int8", &conv2d_int8, py::arg("isa"), py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("low"),
        py::arg("high"), py::arg("scale") = none, py::arg("shift") = none);
  m.def("conv_transpose2d", &conv_transpose2d);
  m.def("linear", &linear, py::arg("isa"), py::arg("x"), py::arg("weight"), py::arg("bias"),
        py::arg("residual") = none);
  m.def("conv_group_norm_silu", &conv_group_norm_silu, py::arg("isa"), py::arg("x"), py::arg("weight"), py::arg("bias"),
        py::arg("norm_weight"), py::arg("norm_bias"), py::arg("groups"), py::arg("scope"), py::arg("film") = none,
        py::arg("residual") = none, py::arg("winograd") = false);
  m.def("rms_norm_silu", &rms_norm_silu, py::arg("isa"), py::arg("x"), py::arg("gamma"), py::arg("film") = none,
        py::arg("residual") = none);
  m.def("shortcut_norm_silu", &shortcut_norm_silu);
  m.def("channel_layer_norm", &channel_layer_norm);
  m.def("temporal_attention", &temporal_attention);
  m.def("spatial_attention", &spatial_attention);
  m.def("spatial_linear_attention", &spatial_linear_attention);
  m.def("temporal_conv", &temporal_conv);
  m.def("pixel_unshuffle", &unshuffle, py::arg("isa"), py::arg("clip"), py::arg("map"), py::arg("patch"));
  m.def("pixel_shuffle", &shuffle);
  m.def("positional_embedding", &positional);
  m.def("time_mlp", &time_mlp_of);
  m.def("exp", [](const std::string& isa, const Array& x) { return mapped(Ops(isa).table.exp, x); });
  m.def("silu", [](const std::string& isa, const Array& x) { return mapped(Ops(isa).table.silu, x); });
}

}  // namespace gaitcrafter::testing
