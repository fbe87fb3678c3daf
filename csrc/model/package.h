// A model package opened from an untrusted folder: config and weights, checked before use.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "model/mapped_file.h"

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

// A model folder of which everything is read and checked but the weights.
class ModelFolder : public std::enable_shared_from_this<ModelFolder> {
 public:
  // Throws kModelFormat or kUnsupportedVersion.
  static std::shared_ptr<const ModelFolder> open(const std::string& folder);

  virtual ~ModelFolder() = default;
  virtual const ModelConfig& config() const = 0;
  virtual std::span<const TensorSpec> tensors() const = 0;
  virtual const std::string& config_sha256() const = 0;  // hex, compared
  virtual const std::string& sha256() const = 0;         // of model.safetensors, hex, as checksums.json has it
  virtual const MappedFile& weights_file() const = 0;    // mapped, not read

  // Reads and checks the weights as ModelPackage::open does. The package keeps the folder.
  virtual std::shared_ptr<const ModelPackage> read() const = 0;
};

// Tensors of a config without their values: views have a shape and no data.
std::shared_ptr<const ModelPackage> shapes_only(const ModelConfig& config, const std::string& sha256);

}  // namespace gaitcrafter
