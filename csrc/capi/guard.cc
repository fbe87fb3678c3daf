#include "capi/guard.h"

#include <algorithm>
#include <cstring>

namespace gaitcrafter {
namespace {

// Fixed size: reporting that memory ran out may not need memory.
thread_local char last_message[1024] = "";

}  // namespace

gc_status fail(Status status, const char* message) noexcept {
  const size_t n = std::min(std::strlen(message), sizeof last_message - 1);
  std::memcpy(last_message, message, n);
  last_message[n] = '\0';
  return static_cast<gc_status>(status);
}

const char* last_error() noexcept { return last_message; }

int checked_axis(int32_t axis) {
  if (axis < 0 || axis >= GC_AXES) {
    refuse("axis is " + std::to_string(axis) + "; allowed are 0 (dataset), 1 (identity), 2 (view) and 3 (covariate)");
  }
  return axis;
}

Isa isa_named(const char* name) {
  for (const Isa isa : kIsas) {
    if (isa_name(isa) == name) return isa;
  }
  refuse("isa is \"" + std::string(name).substr(0, 64) + "\"; allowed are " + std::string(kIsaChoices));
}

}  // namespace gaitcrafter
