#include "testing/packages.h"

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <span>
#include <sstream>
#include <stdexcept>

#include "model/sha256.h"
#include "model/tensors.h"

namespace gaitcrafter::testing {

TempFolder::TempFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "gaitcrafter-test-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  path_ = name;
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void write_file(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!out.flush()) throw std::runtime_error("cannot write " + path.string());
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  if (!in) throw std::runtime_error("cannot read " + path.string());
  return text.str();
}

std::string tiny_config(const std::string& fields) {
  return R"({"format": "gaitcrafter-model", "name": "tiny",
 "clip": {"frames": 3, "height": 8, "width": 8},
 "unet": {"dim": 8, "init_dim": 8, "dim_mults": [1, 2], "blocks_per_level": 1, "init_kernel": 3, "norm_groups": 4,
          "attention_heads": 2, "attention_dim_head": 4, "linear_heads": 2, "linear_dim_head": 4,
          "spatial_linear_attention": [true, false], "temporal_attention": [false, true], "temporal_conv": [true, false],
          "rotary_dim": 4, "position_buckets": 8, "position_max_distance": 4},
 "labels": {"identity": ["001", "002"], "view": ["000", "090"]},
 "conditioning": {"identity": "block_table", "view": "input_map", "encoder_dim": 4},
 "sampler": {"steps": 4})" +
         fields + "}";
}

std::vector<RawTensor> tensors_of(const ModelConfig& config) {
  std::vector<RawTensor> out;
  uint32_t state = 1;
  for (const TensorSpec& spec : expected_tensors(config)) {
    std::string shape = "[";
    for (const int64_t d : spec.shape) shape += (shape.size() > 1 ? "," : "") + std::to_string(d);
    std::string data;
    for (uint64_t i = 0; i < element_count(spec.shape).value(); ++i) {
      state = state * 1664525u + 1013904223u;
      float value = (static_cast<float>(state >> 8) * 0x1p-24f - 0.5f) * 0.2f;
      if (spec.name.ends_with(".input_low")) value -= 0.2f;
      if (spec.name.ends_with(".input_high")) value += 0.2f;
      data.append(reinterpret_cast<const char*>(&value), sizeof value);
    }
    out.push_back({spec.name, "F32", shape + "]", std::move(data)});
  }
  return out;
}

std::string with_header(const std::string& header, const std::string& data) {
  std::string out;
  const uint64_t n = header.size();
  for (int i = 0; i < 8; ++i) out += static_cast<char>(n >> (8 * i) & 255);
  return out + header + data;
}

std::string safetensors(const std::vector<RawTensor>& tensors, const std::string& metadata) {
  std::string header = metadata.empty() ? "{" : "{\"__metadata__\":" + metadata;
  std::string data;
  for (const RawTensor& t : tensors) {
    header += (header.size() > 1 ? "," : "") + ("\"" + t.name) + "\":{\"dtype\":\"" + t.dtype +
              "\",\"shape\":" + t.shape + ",\"data_offsets\":[" + std::to_string(data.size()) + "," +
              std::to_string(data.size() + t.data.size()) + "]}";
    data += t.data;
  }
  header += "}";
  while (header.size() % 8 != 0) header += ' ';  // as the format's own writer does
  return with_header(header, data);
}

void write_checksums(const std::filesystem::path& folder) {
  const auto sum = [&](const char* name) {
    const std::string bytes = read_file(folder / name);
    return sha256_hex(std::as_bytes(std::span(bytes)));
  };
  write_file(folder / "checksums.json", "{\"format_version\": 1, \"sha256\": {\"config.json\": \"" +
                                            sum("config.json") + "\", \"model.safetensors\": \"" +
                                            sum("model.safetensors") + "\"}}\n");
}

void write_package(const std::filesystem::path& folder, const std::string& config, const std::string& weights) {
  std::filesystem::create_directories(folder);
  write_file(folder / "config.json", config);
  write_file(folder / "model.safetensors", weights);
  write_checksums(folder);
}

std::string fixture(const std::string& name) { return GAITCRAFTER_SOURCE_DIR "/tests/fixtures/" + name; }

}  // namespace gaitcrafter::testing
