// Python arguments to structs of the C interface, which the returned objects keep alive.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <array>
#include <string>

#include "gaitcrafter/gaitcrafter.h"

namespace gaitcrafter_python {

namespace py = pybind11;

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

// Throws the class of gaitcrafter_rt/errors.py for a status other than GC_OK.
void check(gc_status status);
[[noreturn]] void raise(gc_status status, const std::string& message);

// None or a dict with any of the fields of gc_sampler; kind, spacing and thresholding by name, null_axes as a list of
// axis names.
gc_sampler to_sampler(const py::object& sampler);
py::dict from_sampler(const gc_sampler& sampler);

// {axis name: (offsets uint64, labels int32, weights float32)} plus raw vectors [count, cond_dim] and flags.
struct Conditions {
  Conditions(size_t count, size_t cond_dim, const py::dict& axes, const py::object& cond, const py::object& cond_given);
  gc_conditions view = gc_conditions_default();

 private:
  std::array<Array<uint64_t>, GC_AXES> offsets_;
  std::array<Array<int32_t>, GC_AXES> labels_;
  std::array<Array<float>, GC_AXES> weights_;
  Array<float> cond_;
  Array<uint8_t> given_;
};

int axis_from(const std::string& name);

}  // namespace gaitcrafter_python
