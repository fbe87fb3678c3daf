#include "convert.h"

#include <algorithm>

namespace gaitcrafter_python {

namespace {

constexpr std::array<const char*, GC_AXES> kAxisNames = {"dataset", "identity", "view", "covariate"};
constexpr std::array<const char*, 5> kKinds = {"ddpm", "ddim", "dpmpp_2m", "dpmpp_3m", "unipc"};
constexpr std::array<const char*, 3> kSpacings = {"leading", "trailing", "linspace"};
constexpr std::array<const char*, 3> kThresholdings = {"none", "clip", "dynamic"};

template <size_t N>
int32_t index_of(const std::array<const char*, N>& names, const std::string& name, const char* what) {
  std::string list;
  for (size_t i = 0; i < N; ++i) {
    if (name == names[i]) return static_cast<int32_t>(i);
    list += (i == 0 ? "'" : ", '") + std::string(names[i]) + "'";
  }
  raise(GC_INVALID_REQUEST, std::string(what) + " is '" + name.substr(0, 64) + "'; allowed are " + list);
}

// A field of the right Python type; bool is no number here.
template <typename T>
T field(const py::handle& value, const char* name) {
  const bool is_bool = py::isinstance<py::bool_>(value);
  const bool wants_bool = std::is_same_v<T, bool>;
  try {
    if (is_bool == wants_bool) return value.cast<T>();
  } catch (const py::cast_error&) {
  }
  raise(GC_INVALID_REQUEST, std::string("sampler ") + name +
                                " has the wrong type or size: " + py::repr(value).cast<std::string>().substr(0, 80));
}

double not_negative(double value, const char* name) {
  // Below zero would mean the model's default in the C interface; here that is said by leaving the field out.
  if (value < 0)
    raise(GC_INVALID_REQUEST, std::string(name) + " is " + std::to_string(value) + "; it cannot be negative");
  return value;
}

uint32_t axes_mask(const py::handle& names) {
  if (py::isinstance<py::str>(names)) raise(GC_INVALID_REQUEST, "null_axes must be a list of axis names");
  uint32_t mask = 0;
  for (const py::handle name : names) mask |= 1u << axis_from(field<std::string>(name, "null_axes"));
  if (mask == 0) raise(GC_INVALID_REQUEST, "null_axes is empty; name at least one axis, or leave it out for all");
  return mask;
}

}  // namespace

void raise(gc_status status, const std::string& message) {
  const py::object error =
      py::module_::import("gaitcrafter_rt.errors").attr("error_for_code")(static_cast<int>(status), message);
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
  throw py::error_already_set();
}

void check(gc_status status) {
  if (status != GC_OK) {
    // Messages quote untrusted bytes; what is not UTF-8 is replaced, not a second error.
    const char* text = gc_last_error_message();
    const auto decoded = py::reinterpret_steal<py::str>(
        PyUnicode_DecodeUTF8(text, Py_ssize_t(std::char_traits<char>::length(text)), "replace"));
    raise(status, decoded.cast<std::string>());
  }
}

int axis_from(const std::string& name) { return index_of(kAxisNames, name, "axis"); }

gc_sampler to_sampler(const py::object& sampler) {
  gc_sampler s = gc_sampler_default();
  if (sampler.is_none()) return s;
  for (const auto& [key, value] : sampler.cast<py::dict>()) {
    const std::string name = key.cast<std::string>();
    if (name == "kind") {
      s.kind = index_of(kKinds, field<std::string>(value, "kind"), "sampler");
    } else if (name == "steps") {
      s.steps = field<int32_t>(value, "steps");
      if (s.steps == 0) raise(GC_INVALID_REQUEST, "steps is 0; at least 1 is needed");
    } else if (name == "eta") {
      s.eta = not_negative(field<double>(value, "eta"), "eta");
    } else if (name == "spacing") {
      s.spacing = index_of(kSpacings, field<std::string>(value, "spacing"), "spacing");
    } else if (name == "thresholding") {
      s.thresholding = index_of(kThresholdings, field<std::string>(value, "thresholding"), "thresholding");
    } else if (name == "dynamic_percentile") {
      s.dynamic_percentile = not_negative(field<double>(value, "dynamic_percentile"), "dynamic_percentile");
    } else if (name == "rederive_eps") {
      s.rederive_eps = field<bool>(value, "rederive_eps") ? 1 : 0;
    } else if (name == "guidance") {
      s.guidance = not_negative(field<double>(value, "guidance"), "guidance");
    } else if (name == "null_axes") {
      s.null_axes = axes_mask(value);
    } else {
      raise(GC_INVALID_REQUEST, "a sampler has no field '" + name.substr(0, 64) + "'");
    }
  }
  return s;
}

py::dict from_sampler(const gc_sampler& s) {
  py::dict d;
  d["kind"] = kKinds.at(static_cast<size_t>(s.kind));
  d["steps"] = s.steps;
  d["eta"] = s.eta;
  d["spacing"] = kSpacings.at(static_cast<size_t>(s.spacing));
  d["thresholding"] = kThresholdings.at(static_cast<size_t>(s.thresholding));
  d["dynamic_percentile"] = s.dynamic_percentile;
  d["rederive_eps"] = s.rederive_eps != 0;
  d["guidance"] = s.guidance;
  py::list null_axes;
  for (int a = 0; a < GC_AXES; ++a) {
    if (s.null_axes >> a & 1) null_axes.append(kAxisNames[static_cast<size_t>(a)]);
  }
  d["null_axes"] = null_axes;
  return d;
}

Conditions::Conditions(size_t count, size_t cond_dim, const py::dict& axes, const py::object& cond,
                       const py::object& cond_given) {
  for (const auto& [key, value] : axes) {
    const size_t a = static_cast<size_t>(axis_from(key.cast<std::string>()));
    const auto parts = value.cast<py::tuple>();
    if (parts.size() != 3) raise(GC_INVALID_REQUEST, "an axis needs (offsets, labels, weights)");
    offsets_[a] = parts[0].cast<Array<uint64_t>>();
    labels_[a] = parts[1].cast<Array<int32_t>>();
    weights_[a] = parts[2].cast<Array<float>>();
    const auto offsets = offsets_[a].unchecked<1>();
    const size_t entries = static_cast<size_t>(labels_[a].size());
    bool fits = static_cast<size_t>(offsets.size()) == count + 1 && static_cast<size_t>(weights_[a].size()) == entries;
    for (py::ssize_t i = 0; fits && i < offsets.size(); ++i) fits = offsets(i) <= entries;
    if (!fits) raise(GC_INVALID_REQUEST, "offsets, labels and weights of an axis do not fit the number of clips");
    view.axes[a] = {offsets_[a].data(), labels_[a].data(), weights_[a].data()};
  }
  if (cond.is_none()) return;
  cond_ = cond.cast<Array<float>>();
  if (cond_.ndim() != 2 || static_cast<size_t>(cond_.shape(0)) != count ||
      static_cast<size_t>(cond_.shape(1)) != cond_dim) {
    raise(GC_INVALID_REQUEST, "cond must have shape (" + std::to_string(count) + ", " + std::to_string(cond_dim) + ")");
  }
  view.cond = cond_.data();
  if (cond_given.is_none()) return;
  given_ = cond_given.cast<Array<uint8_t>>();
  if (static_cast<size_t>(given_.size()) != count) raise(GC_INVALID_REQUEST, "cond_given needs one flag per clip");
  view.cond_given = given_.data();
}

}  // namespace gaitcrafter_python
