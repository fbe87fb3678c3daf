// The functions of the module _native that need no engine.
#pragma once

#include <pybind11/pybind11.h>

namespace gaitcrafter_python {

void add_functions(pybind11::module_& m);

}  // namespace gaitcrafter_python
