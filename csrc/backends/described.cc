#include "backends/described.h"

#include "backends/exported.h"
#include "core/error.h"
#include "model/package.h"

namespace gaitcrafter {
namespace {

class Described final : public Network {
 public:
  Described(ModelConfig config, std::string sha256) : config_(std::move(config)), model_sha256_(std::move(sha256)) {
    identity_ = {"none", "none", "none", 1, model_sha256_, "none"};
  }
  const ModelConfig& config() const override { return config_; }
  const std::string& model_sha256() const override { return model_sha256_; }
  const NetworkIdentity& identity() const override { return identity_; }
  std::unique_ptr<BatchBackend> start(const SamplerTable& /*table*/, const Guidance& /*guidance*/) override {
    throw Error(Status::kCapability, "backend \"none\" only says what a model is; open it on another to make clips");
  }

 private:
  ModelConfig config_;
  std::string model_sha256_;
  NetworkIdentity identity_;
};

}  // namespace

std::unique_ptr<Network> open_described(const std::string& path, const EngineOptions& /*options*/) {
  if (is_export(path)) {
    Exported exported = read_export(path);
    return std::make_unique<Described>(std::move(exported.config), std::move(exported.model_sha256));
  }
  const auto folder = ModelFolder::open(path);
  return std::make_unique<Described>(folder->config(), folder->sha256());
}

}  // namespace gaitcrafter
