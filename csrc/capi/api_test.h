// What the tests of the C interface and of the C++ layer above it share. Includes public headers alone.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "gaitcrafter/gaitcrafter.hpp"

// The call returns `status` and leaves a message that says `part`.
#define EXPECT_STATUS(call, status, part)             \
  EXPECT_EQ(call, status) << gc_last_error_message(); \
  EXPECT_NE(std::string(gc_last_error_message()).find(part), std::string::npos) << gc_last_error_message()

// The error that `work` throws.
template <typename Work>
gaitcrafter::Error thrown_by(Work work) {
  try {
    work();
  } catch (const gaitcrafter::Error& e) {
    return e;
  }
  return gaitcrafter::Error(GC_OK, "nothing was thrown");
}
