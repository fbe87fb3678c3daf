// How an engine is opened.
#pragma once

#include <string>

namespace gaitcrafter {

inline constexpr int kMaxThreads = 256;
inline constexpr int kMaxBatch = 256;

struct EngineOptions {
  std::string device = "cpu", precision = "auto";
  std::string isa;  // empty: choose_isa()
  int threads = 0;  // 0: available_processors()
  std::string backend = "native";
  int batch = 0;        // clips per call of other backends; 0: the backend's choice
  std::string library;  // the backend's shared library; empty: where the backend looks by itself
  std::string plan;     // what the backend runs in place of what is in the model folder (TensorRT: the built engine)
};

}  // namespace gaitcrafter
