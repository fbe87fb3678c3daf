// What every function of the C interface is wrapped in: exceptions to statuses, NULL refused.
#pragma once

#include <exception>
#include <new>
#include <string>

#include "core/error.h"
#include "core/isa.h"
#include "gaitcrafter/gaitcrafter.h"

namespace gaitcrafter {

// Keeps the message for gc_last_error_message() of this thread; returns the status.
gc_status fail(Status status, const char* message) noexcept;
const char* last_error() noexcept;

template <typename Work>
gc_status guarded(Work work) noexcept {
  try {
    work();
    return GC_OK;
  } catch (const Error& e) {
    return fail(e.status(), e.what());
  } catch (const std::bad_alloc&) {
    return fail(Status::kOutOfMemory, "out of memory; ask for fewer clips or threads at a time");
  } catch (const std::exception& e) {
    return fail(Status::kInternal, e.what());
  } catch (...) {
    return fail(Status::kInternal, "an exception of unknown type reached the C interface");
  }
}

[[noreturn]] inline void refuse(const std::string& message) { throw Error(Status::kInvalidRequest, message); }

template <typename T>
T& given(T* pointer, const char* name) {
  if (pointer == nullptr) refuse(std::string(name) + " is NULL");
  return *pointer;
}

int checked_axis(int32_t axis);
Isa isa_named(const char* name);

// Both are string literals, so data() ends with a NUL.
inline const char* literal(Isa isa) { return isa_name(isa).data(); }

}  // namespace gaitcrafter
