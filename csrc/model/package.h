// A model package opened from an untrusted folder: config and weights, checked before use.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"

namespace gaitcrafter {

// fp32 values of one tensor; valid as long as the package lives.
struct TensorView {
  const float* data = nullptr;
  std::vector<int64_t> shape;
  int64_t size() const;
};

class ModelPackage {
 public:
  // Throws kModelFormat or kUnsupportedVersion. Every name and shape that the config implies is present afterwards,
  // every value is finite, and the ranges of quantised layers contain 0 and are not empty.
  static std::shared_ptr<const ModelPackage> open(const std::string& folder);

  virtual ~ModelPackage() = default;
  virtual const ModelConfig& config() const = 0;
  virtual TensorView tensor(std::string_view name) const = 0;  // throws kModelFormat if absent
  virtual bool has(std::string_view name) const = 0;
  virtual const std::string& sha256() const = 0;  // of model.safetensors, hex
};

}  // namespace gaitcrafter
