// Which build of the engine this is.
#pragma once

#include <string>

namespace gaitcrafter {

// The linker's hash (GNU build id, hex) of the library or program that holds this code; "" if it was linked without.
// Any change of our code changes it.
const std::string& build_id();

}  // namespace gaitcrafter
