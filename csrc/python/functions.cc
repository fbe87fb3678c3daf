// What needs no engine: noise, packing, decoding, and questions about this machine.
#include "functions.h"

#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <string_view>

#include "convert.h"
#include "gaitcrafter/reader.h"

namespace gaitcrafter_python {
namespace {

py::array_t<float> noise_fill(uint64_t seed, uint64_t clip, uint32_t stream, size_t n) {
  if (n > size_t{1} << 34) raise(GC_INVALID_REQUEST, "a noise stream has 2^34 elements");
  py::array_t<float> out(static_cast<py::ssize_t>(n));
  float* values = out.mutable_data();
  gc_status status;
  {
    const py::gil_scoped_release nogil;
    status = gc_noise_fill(seed, clip, stream, values, n);
  }
  check(status);
  return out;
}

py::array_t<uint8_t> pack(const Array<float>& x, float threshold) {
  const size_t pixels = static_cast<size_t>(x.size());
  py::array_t<uint8_t> out(static_cast<py::ssize_t>((pixels + 7) / 8));
  check(gc_pack(x.data(), pixels, threshold, out.mutable_data()));
  return out;
}

py::array_t<uint8_t> unpack(const Array<uint8_t>& packed, size_t pixels) {
  if (pixels > static_cast<size_t>(packed.size()) * 8)
    raise(GC_INVALID_REQUEST, "fewer packed bits than pixels asked for");
  py::array_t<uint8_t> out(static_cast<py::ssize_t>(pixels));
  check(gc_unpack(packed.data(), pixels, out.mutable_data()));
  return out;
}

// Packed clips uint8 [n, bytes], all or those of `rows`, into `out`, uint8 or float32 of one row of pixels for each.
void decode(const Array<uint8_t>& packed, size_t pixels, const py::array& out, double foreground,
            const std::optional<Array<int64_t>>& rows) {
  if (packed.ndim() != 2) raise(GC_INVALID_REQUEST, "packed must have two dimensions: clips and bytes");
  gc_pixels how = gc_pixels_default();
  const bool is_float = py::isinstance<py::array_t<float>>(out);
  if (!is_float && !py::isinstance<py::array_t<uint8_t>>(out))
    raise(GC_INVALID_REQUEST, "out must hold uint8 or float32");
  if ((out.flags() & py::array::c_style) == 0 || !out.writeable())
    raise(GC_INVALID_REQUEST, "out must be writable and in C order");
  if (rows && static_cast<size_t>(packed.shape(1)) != (pixels + 7) / 8)
    raise(GC_INVALID_REQUEST, "packed clips of " + std::to_string(packed.shape(1)) + " bytes do not hold " +
                                  std::to_string(pixels) + " pixels");
  how.type = is_float ? GC_PIXELS_FLOAT : GC_PIXELS_UINT8;
  how.foreground = foreground;
  const auto clips = static_cast<uint64_t>(packed.shape(0)), size = static_cast<uint64_t>(packed.size());
  const auto out_size = static_cast<uint64_t>(out.nbytes());
  void* target = const_cast<void*>(out.data());
  // A negative row is a very large one here, and refused like one.
  const auto* chosen = rows ? reinterpret_cast<const uint64_t*>(rows->data()) : nullptr;
  const auto count = rows ? static_cast<uint64_t>(rows->size()) : 0;
  gc_status status;
  {
    const py::gil_scoped_release nogil;
    status = rows ? gc_decode_rows(packed.data(), size, chosen, count, pixels, &how, target, out_size)
                  : gc_decode(packed.data(), size, clips, pixels, &how, target, out_size);
  }
  check(status);
}

void add_clip_functions(py::module_& m) {
  m.def("noise_fill", &noise_fill, py::arg("seed"), py::arg("clip"), py::arg("stream"), py::arg("n"));
  m.def("pack", &pack, py::arg("x"), py::arg("threshold") = 0.5f);
  m.def("unpack", &unpack, py::arg("packed"), py::arg("pixels"));
  m.def("decode", &decode, py::arg("packed").noconvert(), py::arg("pixels"), py::arg("out").noconvert(),
        py::arg("foreground"), py::arg("rows").noconvert() = py::none());
}

void add_machine_functions(py::module_& m) {
  m.def(
      "validate_config",
      [](const py::bytes& text, const std::string& source) {
        const auto view = static_cast<std::string_view>(text);
        check(gc_config_check(view.data(), view.size(), source.c_str()));
      },
      py::arg("text"), py::arg("source") = "config.json");
  m.def("isa", [] {
    const char* name = nullptr;
    check(gc_isa(&name));
    return name;
  });
  m.def(
      "isa_supported",
      [](const std::string& name) {
        int supported = 0;
        check(gc_isa_supported(name.c_str(), &supported));
        return supported != 0;
      },
      py::arg("name"));
  m.def(
      "precision_supported",
      [](const std::string& name) {
        int supported = 0;
        check(gc_precision_supported(name.c_str(), &supported));
        return supported != 0;
      },
      py::arg("name"));
  m.def(
      "processor_rate",
      [](const std::string& arithmetic, const std::optional<std::string>& isa) {
        double rate = 0;
        check(gc_processor_rate(arithmetic.c_str(), isa ? isa->c_str() : nullptr, &rate));
        return rate;
      },
      py::arg("arithmetic"), py::arg("isa") = py::none());
  m.def(
      "cache",
      [](const std::optional<std::string>& model_sha256) {
        gc_cache cache = gc_cache_default();
        check(gc_cache_look(model_sha256 ? model_sha256->c_str() : nullptr, &cache));
        py::dict d;
        d["folder"] = py::reinterpret_steal<py::str>(PyUnicode_DecodeFSDefault(cache.folder));
        d["problem"] = py::reinterpret_steal<py::str>(PyUnicode_DecodeFSDefault(cache.problem));
        d["entries"] = cache.entries;
        d["bytes"] = cache.bytes;
        return d;
      },
      py::arg("model_sha256") = py::none());
}

}  // namespace

void add_functions(py::module_& m) {
  add_clip_functions(m);
  add_machine_functions(m);
}

}  // namespace gaitcrafter_python
