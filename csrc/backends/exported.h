// The folder that `gaitcrafter-rt export onnx` writes; gaitcrafter_rt/backends/exported.py says what lies in it.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "model/config.h"

namespace gaitcrafter {

struct Exported {
  ModelConfig config;
  std::string model_sha256, precision;
  std::string sha256;       // of export.json, which has the hashes of everything else
  int batch = 0;            // 0: any
  std::string graph;        // paths
  std::string exact_graph;  // in fp32, for calls that a sampler multiplies by much; empty: none
  std::vector<float> null_cond;
  std::map<std::string, std::string> files;  // name to sha256
};

// Whether a folder claims to be an export.
bool is_export(const std::string& folder);

// Opens an export and checks every file of it. Throws kModelFormat, kUnsupportedVersion.
Exported read_export(const std::string& folder);

// The batch that calls have: `asked`, else the graph's own, else `fallback`. Throws kInvalidRequest if the graph has
// another one.
int call_batch(const Exported& exported, int asked, int fallback);

// Throws kInvalidRequest unless `asked` is "auto" or what the graph was exported in.
void check_export_precision(const Exported& exported, const std::string& asked);

}  // namespace gaitcrafter
