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

// Tensors by name; `specs` outlive it.
class TensorIndex {
 public:
  explicit TensorIndex(std::span<const TensorSpec> specs) : specs_(specs) {
    for (size_t i = 0; i < specs.size(); ++i) index_.emplace(specs[i].name, i);
  }
  bool has(std::string_view name) const { return index_.contains(name); }
  size_t at(std::string_view name) const {
    const auto it = index_.find(name);
    if (it == index_.end()) refuse("model has no tensor " + std::string(name));
    return it->second;
  }
  const std::vector<int64_t>& shape(size_t i) const { return specs_[i].shape; }

 private:
  std::span<const TensorSpec> specs_;
  std::unordered_map<std::string_view, size_t> index_;  // keys point into specs_
};

class ReadPackage final : public ModelPackage {
 public:
  ReadPackage(std::shared_ptr<const ModelFolder> folder, const std::shared_ptr<const MappedFile>& file)
      : folder_(std::move(folder)), index_(folder_->tensors()) {
    if (looks_like_pickle(file->bytes())) refuse(file->path() + ": a PyTorch pickle; run `gaitcrafter-rt convert`");
    check_sum(*file, folder_->sha256(), sha256_hex(file->bytes()));
    weights_ = std::make_unique<WeightsFile>(file, folder_->tensors());
    check_ranges(*this, file->path());
    file->release_pages();
  }

  const ModelConfig& config() const override { return folder_->config(); }
  const std::string& sha256() const override { return folder_->sha256(); }
  bool has(std::string_view name) const override { return index_.has(name); }
  TensorView tensor(std::string_view name) const override {
    const size_t i = index_.at(name);
    return {weights_->values(i), index_.shape(i)};
  }

 private:
  std::shared_ptr<const ModelFolder> folder_;
  TensorIndex index_;
  std::unique_ptr<WeightsFile> weights_;
};

class CheckedFolder final : public ModelFolder {
 public:
  explicit CheckedFolder(const std::string& folder) {
    check_folder(folder);
    const MappedFile config(folder + "/config.json", kMaxConfigBytes);
    config_ = parse_config(config.text(), config.path());
    specs_ = expected_tensors(config_);
    total_fp32_bytes(specs_, config.path());
    auto sums = read_checksums(folder + "/checksums.json");
    config_sha256_ = sha256_hex(config.bytes());
    check_sum(config, sums.at("config.json"), config_sha256_);
    sha256_ = std::move(sums.at("model.safetensors"));
    file_ = std::make_shared<const MappedFile>(folder + "/model.safetensors", kMaxWeightsBytes);
  }

  const ModelConfig& config() const override { return config_; }
  std::span<const TensorSpec> tensors() const override { return specs_; }
  const std::string& config_sha256() const override { return config_sha256_; }
  const std::string& sha256() const override { return sha256_; }
  const MappedFile& weights_file() const override { return *file_; }
  std::shared_ptr<const ModelPackage> read() const override {
    return std::make_shared<const ReadPackage>(shared_from_this(), file_);
  }

 private:
  ModelConfig config_;
  std::vector<TensorSpec> specs_;
  std::string config_sha256_, sha256_;
  std::shared_ptr<const MappedFile> file_;
};

class ShapesOnly final : public ModelPackage {
 public:
  ShapesOnly(const ModelConfig& config, const std::string& sha256)
      : config_(config), sha256_(sha256), specs_(expected_tensors(config_)), index_(specs_) {}

  const ModelConfig& config() const override { return config_; }
  const std::string& sha256() const override { return sha256_; }
  bool has(std::string_view name) const override { return index_.has(name); }
  TensorView tensor(std::string_view name) const override { return {nullptr, index_.shape(index_.at(name))}; }

 private:
  ModelConfig config_;
  std::string sha256_;
  std::vector<TensorSpec> specs_;
  TensorIndex index_;
};

}  // namespace

std::shared_ptr<const ModelFolder> ModelFolder::open(const std::string& folder) {
  return std::make_shared<const CheckedFolder>(folder);
}

std::shared_ptr<const ModelPackage> ModelPackage::open(const std::string& folder) {
  return ModelFolder::open(folder)->read();
}

std::shared_ptr<const ModelPackage> shapes_only(const ModelConfig& config, const std::string& sha256) {
  return std::make_shared<const ShapesOnly>(config, sha256);
}

}  // namespace gaitcrafter
