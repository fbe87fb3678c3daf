// libonnxruntime, opened at run time: one binary serves every version from kOldest on, and needs none to be installed.
#pragma once

#include <string>
#include <vector>

// With this the C++ wrappers take the functions from what was opened; nothing is linked.
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

namespace gaitcrafter {

class OrtLibrary {
 public:
  // Opens `path`; if empty, the environment variable GAITCRAFTER_ONNXRUNTIME, else libonnxruntime.so.1 as the loader
  // finds it. Stays open, and a process has one: a second path is refused. Throws kMissingExtra if it does not open,
  // kCapability if it is no ONNX Runtime or an older one than 1.20, kInvalidRequest for a second path.
  static const OrtLibrary& open(const std::string& path);

  const std::string& version() const { return version_; }
  std::vector<std::string> providers() const;
  // Made by the first call.
  Ort::Env& environment() const;

 private:
  explicit OrtLibrary(std::string path);

  std::string path_, version_;
};

}  // namespace gaitcrafter
