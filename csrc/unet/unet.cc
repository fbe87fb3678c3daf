#include "unet/unet.h"

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "unet/conditions.h"
#include "unet/executor.h"
#include "unet/node_info.h"
#include "unet/packed_plan.h"

namespace gaitcrafter {
namespace {

// What runs read of a model once its weights are packed.
class KeptTensors final : public ModelPackage {
 public:
  KeptTensors(const ModelConfig& config, const std::string& sha256, const std::vector<KeptTensor>& kept)
      : config_(config), sha256_(sha256) {
    for (const KeptTensor& t : kept) tensors_.emplace(t.name, t.view);
  }

  const ModelConfig& config() const override { return config_; }
  const std::string& sha256() const override { return sha256_; }
  bool has(std::string_view name) const override { return tensors_.find(name) != tensors_.end(); }
  TensorView tensor(std::string_view name) const override {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) throw Error(Status::kInternal, "tensor " + std::string(name) + " was not kept");
    return found->second;
  }

 private:
  ModelConfig config_;
  std::string sha256_;
  std::map<std::string, TensorView, std::less<>> tensors_;
};

class NativeUNet final : public UNet {
 public:
  NativeUNet(const ModelConfig& config, const std::string& sha256, PackedPlan packed, Isa isa, Precision precision)
      : isa_(isa),
        precision_(precision),
        ops_(op_table(isa, precision)),
        fp32_(op_table(isa, Precision::kFp32)),
        weights_(std::move(packed.weights)),
        from_(packed.from),
        plan_(std::move(packed.plan)),
        package_(std::make_unique<const KeptTensors>(config, sha256, plan_.kept)),
        map_floats_(input_map_floats(config)) {}

  const ModelConfig& config() const override { return package_->config(); }
  Isa isa() const override { return isa_; }
  Precision precision() const override { return precision_; }
  WeightsFrom weights_from() const override { return from_; }

  std::shared_ptr<const TimeTables> prepare_time(std::span<const int32_t> timesteps) const override {
    return std::make_shared<FilmTimeTables>(*package_, plan_, timesteps);
  }

  size_t condition_floats() const override { return map_floats_ + plan_.film_floats; }

  void prepare_conditions(const ClipConditions& conditions, float* state) const override {
    write_conditions(*package_, plan_, conditions, state);
  }

  size_t scratch_bytes() const override { return plan_.scratch_bytes; }

  Placement place(size_t own) const override { return place_buffers(plan_.buffers, own); }

  std::vector<NodeInfo> nodes() const override { return node_infos(plan_, ops_); }

  void forward(const float* x, const TimeTables& time, int step, const float* condition_state, float* out,
               const ForwardMemory& memory, Team& team, NodeTimes* times) const override {
    ForwardInputs inputs;
    inputs.clip = x;
    inputs.input_map = map_floats_ > 0 ? condition_state : nullptr;
    inputs.film_time = static_cast<const FilmTimeTables&>(time).step(step);
    inputs.film_condition = condition_state + map_floats_;
    inputs.out = out;
    run_plan(plan_, ops_, fp32_, inputs, memory, team, times);
  }

  void rest() const override { weights_.pages().rest(); }

  double flops() const override { return plan_.flops; }

 private:
  Isa isa_;
  Precision precision_;
  const OpTable &ops_, &fp32_;
  WeightStore weights_;
  WeightsFrom from_;
  Plan plan_;
  std::unique_ptr<const ModelPackage> package_;
  size_t map_floats_;
};

void check_precision(const ModelConfig& config, Precision precision) {
  if (!widths_suit(config.unet, precision)) {
    throw Error(Status::kCapability, "precision " + std::string(precision_name(precision)) +
                                         " takes even dim, init_dim and head widths; this model has an odd one; "
                                         "use precision fp32");
  }
  if (precision == Precision::kInt8 && config.quantisation.layers.empty()) {
    throw Error(Status::kCapability,
                "precision int8 needs calibrated ranges, and this model has none; make a calibrated copy with "
                "gaitcrafter-rt quantise MODEL OUT, or use precision bf16");
  }
}

}  // namespace

bool widths_suit(const UNetConfig& u, Precision precision) {
  const int widths = u.dim | u.init_dim | u.attention_dim_head | u.linear_dim_head;
  const bool pairs = precision == Precision::kBf16 || precision == Precision::kInt8;
  return !pairs || widths % 2 == 0;
}

double network_flops(const ModelConfig& config) {
  ArrayLayout layout;
  WeightStore measuring = WeightStore::measuring(layout);
  const OpTable& fp32 = op_table(Isa::kPortable, Precision::kFp32);
  return build_plan(*shapes_only(config, ""), Precision::kFp32, fp32, fp32, measuring).flops;
}

std::shared_ptr<const UNet> UNet::create(const std::shared_ptr<const ModelPackage>& package, Isa isa,
                                         Precision precision) {
  check_precision(package->config(), precision);
  return std::make_shared<NativeUNet>(package->config(), package->sha256(), pack_plan(*package, isa, precision), isa,
                                      precision);
}

std::shared_ptr<const UNet> UNet::create(WeightsSource& source, Isa isa, Precision precision) {
  const ModelFolder& model = source.folder();
  check_precision(model.config(), precision);
  return std::make_shared<NativeUNet>(model.config(), model.sha256(), cached_plan(source, isa, precision), isa,
                                      precision);
}

}  // namespace gaitcrafter
