// gaitcrafter_rt._native: the C interface as Python sees it. No logic of its own; gaitcrafter_rt/engine.py is the API.
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "convert.h"
#include "functions.h"

namespace gaitcrafter_python {

namespace {

template <typename T>
T* writable(py::array_t<T>& array, const char* name) {
  if ((array.flags() & py::array::c_style) == 0 || !array.writeable()) {
    raise(GC_INVALID_REQUEST, std::string(name) + " must be a writable contiguous array");
  }
  return array.mutable_data();
}

// The progress callback and Ctrl-C, both seen on the calling thread, which holds no GIL while clips are made.
struct Watcher {
  py::object callback;
  std::optional<py::error_already_set> thrown;

  static int call(void* user, const gc_progress* p) noexcept {
    auto& self = *static_cast<Watcher*>(user);
    const py::gil_scoped_acquire gil;
    try {
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      if (self.callback.is_none()) return 0;
      const py::object answer = self.callback(p->steps_done, p->steps_total, p->clips_done, p->clips_total);
      return answer.is(py::bool_(false)) ? 1 : 0;
    } catch (py::error_already_set& e) {
      self.thrown.emplace(std::move(e));
      return 1;
    } catch (...) {
      return 1;
    }
  }
};

class NativeEngine {
 public:
  NativeEngine(const std::string& path, const std::string& device, const std::string& precision,
               const std::optional<std::string>& isa, int threads, const std::string& backend,
               const std::optional<std::string>& library, const std::optional<std::string>& plan, int batch) {
    if (path.find('\0') != std::string::npos) raise(GC_INVALID_REQUEST, "a path cannot hold a NUL character");
    gc_options options = gc_options_default();
    options.device = device.c_str();
    options.precision = precision.c_str();
    options.isa = isa ? isa->c_str() : nullptr;
    options.threads = threads;
    options.backend = backend.c_str();
    options.library = library ? library->c_str() : nullptr;
    options.plan = plan ? plan->c_str() : nullptr;
    options.batch = batch;
    gc_engine* engine = nullptr;
    gc_status status;
    {
      const py::gil_scoped_release nogil;
      status = gc_engine_open(path.c_str(), &options, &engine);
    }
    check(status);
    // A call in another thread keeps its own reference, so close() cannot pull the engine from under it.
    engine_ = std::shared_ptr<gc_engine>(engine, &gc_engine_close);
    check(gc_engine_info(engine, &info_));
  }

  void close() { engine_.reset(); }

  py::dict info() const {
    const auto engine = open();
    py::dict d;
    d["channels"] = info_.channels;
    d["frames"] = info_.frames;
    d["height"] = info_.height;
    d["width"] = info_.width;
    d["timesteps"] = info_.timesteps;
    d["cond_dim"] = info_.cond_dim;
    d["guidance_trained"] = info_.guidance_trained != 0;
    d["threads"] = info_.threads;
    d["clip_floats"] = info_.clip_floats;
    d["packed_bytes"] = info_.packed_bytes;
    d["flops_per_call"] = info_.flops_per_call;
    d["sampler"] = from_sampler(info_.sampler);
    d["name"] = info_.name;
    d["model_sha256"] = info_.model_sha256;
    d["device"] = info_.device;
    d["precision"] = info_.precision;
    d["isa"] = info_.isa;
    const char* weights = nullptr;
    check(gc_engine_weights_from(engine.get(), &weights));
    d["weights_from"] = weights;
    gc_backend who = gc_backend_default();
    check(gc_engine_backend(engine.get(), &who));
    d["backend"] = who.name;
    d["batch"] = who.batch;
    d["backend_sha256"] = who.sha256;
    d["runtime"] = who.runtime;
    py::dict origin;
    origin["training_data"] = info_.training_data;
    origin["training_data_terms"] = info_.training_data_terms;
    origin["identities"] = info_.identities;
    origin["command"] = info_.command;
    origin["notes"] = info_.notes;
    d["provenance"] = origin;
    return d;
  }

  py::list labels(const std::string& axis_name) const {
    const auto engine = open();
    const int axis = axis_from(axis_name);
    py::list names;
    for (int32_t i = 0; i < info_.label_count[axis]; ++i) {
      const char* text = nullptr;
      size_t length = 0;
      check(gc_engine_label(engine.get(), axis, i, &text, &length));
      names.append(py::str(text, length));
    }
    return names;
  }

  bool axis_usable(const std::string& axis) const { return info_.label_usable[axis_from(axis)] != 0; }

  void generate(uint64_t count, uint64_t seed, uint64_t start, const py::object& clip_indices, const py::dict& axes,
                const py::object& cond, const py::object& cond_given, const py::object& sampler, float threshold,
                int32_t mode, const py::object& initial_noise, py::array_t<uint8_t> packed,
                std::optional<py::array_t<float>> x0, py::object progress) const {
    const auto engine = open();
    check_count(count);
    const gc_sampler s = to_sampler(sampler);
    const Conditions conditions(count, static_cast<size_t>(info_.cond_dim), axes, cond, cond_given);
    Watcher watcher{std::move(progress), {}};
    gc_request request = gc_request_default();
    request.seed = seed;
    request.start = start;
    request.count = count;
    request.conditions = &conditions.view;
    request.sampler = &s;
    request.threshold = threshold;
    request.mode = mode;
    request.progress = &Watcher::call;
    request.progress_user = &watcher;
    Array<uint64_t> indices;
    if (!clip_indices.is_none()) {
      indices = clip_indices.cast<Array<uint64_t>>();
      if (static_cast<uint64_t>(indices.size()) != count)
        raise(GC_INVALID_REQUEST, "clip_indices needs one entry per clip");
      request.clip_indices = indices.data();
    }
    Array<float> noise;
    if (!initial_noise.is_none()) {
      noise = initial_noise.cast<Array<float>>();
      if (static_cast<uint64_t>(noise.size()) != count * info_.clip_floats) {
        raise(GC_INVALID_REQUEST, "initial_noise needs " + std::to_string(info_.clip_floats) + " values per clip");
      }
      request.initial_noise = noise.data();
    }
    gc_output output = gc_output_default();
    output.packed = writable(packed, "packed");
    output.packed_size = static_cast<uint64_t>(packed.size());
    if (x0) {
      output.x0 = writable(*x0, "x0");
      output.x0_size = static_cast<uint64_t>(x0->size());
    }
    gc_status status;
    {
      const py::gil_scoped_release nogil;
      status = gc_generate(engine.get(), &request, &output);
    }
    if (watcher.thrown) throw std::move(*watcher.thrown);
    check(status);
  }

  py::array_t<float> forward(const Array<float>& x, const Array<int32_t>& t, const py::dict& axes,
                             const py::object& cond, const py::object& cond_given) const {
    const auto engine = open();
    const uint64_t count = static_cast<uint64_t>(t.size());
    check_count(count);
    if (x.ndim() != 5 || static_cast<uint64_t>(x.shape(0)) != count || x.shape(1) != info_.channels ||
        x.shape(2) != info_.frames || x.shape(3) != info_.height || x.shape(4) != info_.width) {
      raise(GC_INVALID_REQUEST, "x must have shape (" + std::to_string(count) + ", " + std::to_string(info_.channels) +
                                    ", " + std::to_string(info_.frames) + ", " + std::to_string(info_.height) + ", " +
                                    std::to_string(info_.width) + ") for " + std::to_string(count) + " timesteps");
    }
    const Conditions conditions(count, static_cast<size_t>(info_.cond_dim), axes, cond, cond_given);
    py::array_t<float> out(std::vector<py::ssize_t>(x.shape(), x.shape() + 5));
    float* result = out.mutable_data();
    gc_status status;
    {
      const py::gil_scoped_release nogil;
      status = gc_unet_forward(engine.get(), count, x.data(), t.data(), &conditions.view, result);
    }
    check(status);
    return out;
  }

  py::array_t<gc_sampler_row> sampler_table(const py::object& sampler) const {
    const auto engine = open();
    const gc_sampler s = to_sampler(sampler);
    size_t count = 0;
    check(gc_sampler_table(engine.get(), &s, nullptr, 0, &count));
    py::array_t<gc_sampler_row> rows(static_cast<py::ssize_t>(count));
    check(gc_sampler_table(engine.get(), &s, rows.mutable_data(), count, &count));
    return rows;
  }

  void profile(bool on) const {
    const auto engine = open();
    gc_status status;
    {
      const py::gil_scoped_release nogil;
      status = gc_profile(engine.get(), on ? 1 : 0);
    }
    check(status);
  }

  py::list profile_rows() const {
    const auto engine = open();
    std::vector<gc_profile_row> rows;
    gc_status status;
    {
      const py::gil_scoped_release nogil;  // a call that runs, and wants the GIL now and again, is waited for
      size_t count = 0;
      status = gc_profile_rows(engine.get(), nullptr, 0, &count);
      rows.resize(count);
      if (status == GC_OK) status = gc_profile_rows(engine.get(), rows.data(), rows.size(), &count);
      rows.resize(std::min(rows.size(), count));
    }
    check(status);
    py::list all;
    for (const gc_profile_row& r : rows) {
      py::dict d;
      d["stage"] = r.stage;
      d["op"] = r.op;
      d["arithmetic"] = r.arithmetic;
      d["height"] = r.height;
      d["width"] = r.width;
      d["calls"] = r.calls;
      d["seconds"] = r.seconds;
      d["operations"] = r.operations;
      all.append(d);
    }
    return all;
  }

  py::dict resolve_sampler(const py::object& sampler) const {
    const auto engine = open();
    const gc_sampler s = to_sampler(sampler);
    gc_sampler resolved = gc_sampler_default();
    check(gc_sampler_resolve(engine.get(), &s, &resolved));
    return from_sampler(resolved);
  }

 private:
  std::shared_ptr<gc_engine> open() const {
    if (!engine_) raise(GC_INVALID_REQUEST, "this engine is closed");
    return engine_;
  }

  // Before sizes are multiplied with it.
  static void check_count(uint64_t count) {
    if (count < 1 || count > GC_MAX_CLIPS) {
      raise(GC_INVALID_REQUEST,
            "count is " + std::to_string(count) + "; a request takes 1 to " + std::to_string(GC_MAX_CLIPS) + " clips");
    }
  }

  std::shared_ptr<gc_engine> engine_;
  gc_info info_ = gc_info_default();
};

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Native engine of gaitcrafter_rt. Use gaitcrafter_rt.Engine; this module has no stable API.";
  PYBIND11_NUMPY_DTYPE(gc_sampler_row, timestep, stream, a_x, a_out, c_x, c_x0, c_prev1, c_prev2, c_raw, c_noise);
  py::class_<NativeEngine>(m, "Engine")
      .def(py::init<const std::string&, const std::string&, const std::string&, const std::optional<std::string>&, int,
                    const std::string&, const std::optional<std::string>&, const std::optional<std::string>&, int>(),
           py::arg("path"), py::kw_only(), py::arg("device") = "cpu", py::arg("precision") = "auto",
           py::arg("isa") = py::none(), py::arg("threads") = 0, py::arg("backend") = "native",
           py::arg("library") = py::none(), py::arg("plan") = py::none(), py::arg("batch") = 0)
      .def("close", &NativeEngine::close)
      .def_property_readonly("info", &NativeEngine::info)
      .def("labels", &NativeEngine::labels, py::arg("axis"))
      .def("axis_usable", &NativeEngine::axis_usable, py::arg("axis"))
      .def("generate", &NativeEngine::generate, py::kw_only(), py::arg("count"), py::arg("seed") = 0,
           py::arg("start") = 0, py::arg("clip_indices") = py::none(), py::arg("axes") = py::dict(),
           py::arg("cond") = py::none(), py::arg("cond_given") = py::none(), py::arg("sampler") = py::none(),
           py::arg("threshold") = 0.5f, py::arg("mode") = 0, py::arg("initial_noise") = py::none(),
           py::arg("packed").noconvert(), py::arg("x0").noconvert() = py::none(), py::arg("progress") = py::none())
      .def("forward", &NativeEngine::forward, py::arg("x"), py::arg("t"), py::arg("axes") = py::dict(),
           py::arg("cond") = py::none(), py::arg("cond_given") = py::none())
      .def("profile", &NativeEngine::profile, py::arg("on"))
      .def("profile_rows", &NativeEngine::profile_rows)
      .def("resolve_sampler", &NativeEngine::resolve_sampler, py::arg("sampler") = py::none())
      .def("sampler_table", &NativeEngine::sampler_table, py::arg("sampler") = py::none());
  add_functions(m);
  m.attr("__version__") = gc_version();
  m.attr("abi_version") = gc_abi_version();
}

}  // namespace gaitcrafter_python
