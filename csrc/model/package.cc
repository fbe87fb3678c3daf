#include "model/package.h"

#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <unordered_map>

#include "core/error.h"
#include "model/json_fields.h"
#include "model/mapped_file.h"
#include "model/safetensors.h"
#include "model/sha256.h"
#include "model/tensors.h"

namespace gaitcrafter {

int64_t TensorView::size() const {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}

namespace {

constexpr uint64_t kMaxConfigBytes = 16u << 20, kMaxChecksumBytes = 64u << 10;
constexpr uint64_t kMaxWeightsBytes = kMaxTensorBytes + 100'000'008;

[[noreturn]] void refuse(const std::string& message) { throw Error(Status::kModelFormat, message); }

// Says what a path is that should have been a folder; reads its first bytes only.
[[noreturn]] void refuse_non_folder(const std::string& path) {
  const MappedFile file(path, INT64_MAX);
  const auto bytes = file.bytes();
  if (looks_like_pickle(bytes)) refuse(path + ": a PyTorch pickle; run `gaitcrafter-rt convert`");
  if (bytes.size() > 8 && std::to_integer<char>(bytes[8]) == '{') {
    refuse(path + ": a safetensors file by itself; give the model folder, which holds config.json beside it");
  }
  refuse(path + ": a file; a model package is a folder that holds config.json and model.safetensors");
}

void check_folder(const std::string& folder) {
  struct stat info {};
  if (folder.empty() || ::stat(folder.c_str(), &info) != 0) refuse("\"" + folder + "\": no such model folder");
  if (!S_ISDIR(info.st_mode)) refuse_non_folder(folder);
  for (const char* name : {"config.json", "model.safetensors", "checksums.json"}) {
    if (::stat((folder + "/" + name).c_str(), &info) != 0) {
      refuse(folder + ": no " + name +
             " there; a model package holds config.json, model.safetensors and checksums.json");
    }
  }
}

// checksums.json: {"format_version": 1, "sha256": {file: hex}}.
std::map<std::string, std::string> read_checksums(const std::string& path) {
  const MappedFile file(path, kMaxChecksumBytes);
  const nlohmann::json root = parse_json(file.text(), path, 4, 1000);
  JsonFields top(root, path);
  const nlohmann::json* version = top.find("format_version");
  if (version != nullptr && version->is_number_integer() && !integer_in(*version, INT64_MIN, 1)) {
    throw Error(Status::kUnsupportedVersion,
                path + ": format_version " + brief(*version) +
                    " is newer than 1, the newest this release reads; upgrade gaitcrafter-rt");
  }
  if (version == nullptr || !integer_in(*version, 1, 1)) refuse(path + ": format_version must be 1");
  const nlohmann::json* sums = top.find("sha256");
  top.finish();
  if (sums == nullptr) refuse(path + ": no sha256 there");
  JsonFields files(*sums, top.where("sha256"));
  std::map<std::string, std::string> out;
  for (const char* name : {"config.json", "model.safetensors"}) {
    files.read(name, out[name], 64, 64);
    if (out[name].empty()) refuse(files.where(name) + " is missing");
  }
  files.finish();
  return out;
}

void check_sum(const MappedFile& file, const std::string& expected, const std::string& actual) {
  if (expected != actual) {
    refuse(file.path() + ": SHA-256 is " + actual + ", checksums.json says " + expected.substr(0, 64) +
           "; the file was changed or damaged after the package was written");
  }
}

// Zero padding and SiLU's zero must be exact in eight bits, hence 0 inside; low < high makes the step positive.
void check_ranges(const ModelPackage& package, const std::string& path) {
  for (const std::string& layer : package.config().quantisation.layers) {
    const TensorView low = package.tensor(layer + ".input_low"), high = package.tensor(layer + ".input_high");
    for (int64_t i = 0; i < low.size(); ++i) {
      if (low.data[i] <= 0 && high.data[i] >= 0 && low.data[i] < high.data[i]) continue;
      refuse(path + ": " + layer + ": the range of input channel " + std::to_string(i) + " is " +
             std::to_string(low.data[i]) + " to " + std::to_string(high.data[i]) +
             "; it must contain 0 and not be empty, run `gaitcrafter-rt quantise` again");
    }
  }
}

class OpenedPackage final : public ModelPackage {
 public:
  explicit OpenedPackage(const std::string& folder) {
    check_folder(folder);
    const MappedFile config(folder + "/config.json", kMaxConfigBytes);
    config_ = parse_config(config.text(), config.path());
    specs_ = expected_tensors(config_);
    total_fp32_bytes(specs_, config.path());
    const auto sums = read_checksums(folder + "/checksums.json");
    check_sum(config, sums.at("config.json"), sha256_hex(config.bytes()));

    const auto file = std::make_shared<const MappedFile>(folder + "/model.safetensors", kMaxWeightsBytes);
    if (looks_like_pickle(file->bytes())) refuse(file->path() + ": a PyTorch pickle; run `gaitcrafter-rt convert`");
    sha256_ = sha256_hex(file->bytes());
    check_sum(*file, sums.at("model.safetensors"), sha256_);
    weights_ = std::make_unique<WeightsFile>(file, specs_);
    for (size_t i = 0; i < specs_.size(); ++i) index_.emplace(specs_[i].name, i);
    check_ranges(*this, file->path());
  }

  const ModelConfig& config() const override { return config_; }
  const std::string& sha256() const override { return sha256_; }
  bool has(std::string_view name) const override { return index_.contains(name); }

  TensorView tensor(std::string_view name) const override {
    const auto it = index_.find(name);
    if (it == index_.end()) refuse("model has no tensor " + std::string(name));
    return {weights_->values(it->second), specs_[it->second].shape};
  }

 private:
  ModelConfig config_;
  std::vector<TensorSpec> specs_;
  std::unordered_map<std::string_view, size_t> index_;  // keys point into specs_
  std::unique_ptr<WeightsFile> weights_;
  std::string sha256_;
};

}  // namespace

std::shared_ptr<const ModelPackage> ModelPackage::open(const std::string& folder) {
  return std::make_shared<const OpenedPackage>(folder);
}

}  // namespace gaitcrafter
