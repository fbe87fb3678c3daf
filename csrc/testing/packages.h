// Small model packages for the C++ tests, and folders that vanish.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "model/config.h"

namespace gaitcrafter::testing {

class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

void write_file(const std::filesystem::path& path, const std::string& bytes);
std::string read_file(const std::filesystem::path& path);

// A config of a few thousand weights; `fields` (",\"name\": ...") is added to the top object.
std::string tiny_config(const std::string& fields = "");

struct RawTensor {
  std::string name, dtype, shape;  // shape as JSON
  std::string data;
};

// Every tensor of a config, fp32, small pseudo-random values.
std::vector<RawTensor> tensors_of(const ModelConfig& config);

// 8-byte length, header, data.
std::string safetensors(const std::vector<RawTensor>& tensors, const std::string& metadata = "");
std::string with_header(const std::string& header, const std::string& data);

// config.json, model.safetensors and checksums.json that fit each other.
void write_package(const std::filesystem::path& folder, const std::string& config, const std::string& weights);
void write_checksums(const std::filesystem::path& folder);

std::string fixture(const std::string& name);  // tests/fixtures/NAME

}  // namespace gaitcrafter::testing
