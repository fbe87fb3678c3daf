// libnvinfer as nvinfer.cc opens it: absent, no TensorRT, too new, unable to start. None that works is to be had here.
#include <gtest/gtest.h>

#include <cstdlib>

#include "backends/tensorrt/runtime.h"
#include "testing/throws.h"

namespace gaitcrafter {
namespace {

const std::string kFakes = FAKES;

TEST(NvInfer, WhatIsNotTensorRtIsRefusedWithTheRemedy) {
  EXPECT_ERROR(open_nvinfer("/nowhere/libnvinfer.so.10"), kMissingExtra, "GAITCRAFTER_TENSORRT or as the option");
  EXPECT_ERROR(open_nvinfer("libpthread.so.0"), kCapability, "is no TensorRT");
  EXPECT_ERROR(open_nvinfer(kFakes + "libfake_nvinfer_new.so"), kCapability,
               "TensorRT 11.4.0; this build takes 10.14 to below 11");
  EXPECT_ERROR(open_nvinfer(kFakes + "libfake_nvinfer_stuck.so"), kCapability,
               "TensorRT 10.14.1 does not start: TensorRT gave no reason");
}

TEST(NvInfer, TheVariableNamesIt) {
  ::setenv("GAITCRAFTER_TENSORRT", "/nowhere/libnvinfer.so.10", 1);
  EXPECT_ERROR(open_nvinfer(""), kMissingExtra, "/nowhere/libnvinfer.so.10");
  ::unsetenv("GAITCRAFTER_TENSORRT");
}

TEST(NvInfer, VersionsAreThoseThatTheHeadersFit) {
  for (const int good : {101400, 101401, 109999}) check_trt_version(good, "lib");
  for (const int bad : {0, 80601, 101303, 110000, 110400})
    EXPECT_ERROR(check_trt_version(bad, "lib"), kCapability, "10.14 to below 11");
}

}  // namespace
}  // namespace gaitcrafter
