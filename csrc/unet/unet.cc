#include "unet/unet.h"

#include <string>
#include <utility>

#include "core/error.h"
#include "unet/conditions.h"
#include "unet/executor.h"

namespace gaitcrafter {
namespace {

class NativeUNet final : public UNet {
 public:
  NativeUNet(std::shared_ptr<const ModelPackage> package, Isa isa, Precision precision)
      : package_(std::move(package)),
        isa_(isa),
        precision_(precision),
        ops_(op_table(isa, precision)),
        fp32_(op_table(isa, Precision::kFp32)),
        plan_(build_plan(*package_, precision, ops_, fp32_)),
        map_floats_(input_map_floats(package_->config())) {}

  const ModelConfig& config() const override { return package_->config(); }
  Isa isa() const override { return isa_; }
  Precision precision() const override { return precision_; }

  std::shared_ptr<const TimeTables> prepare_time(std::span<const int32_t> timesteps) const override {
    return std::make_shared<FilmTimeTables>(*package_, plan_, timesteps);
  }

  size_t condition_floats() const override { return map_floats_ + plan_.film_floats; }

  void prepare_conditions(const ClipConditions& conditions, float* state) const override {
    write_conditions(*package_, plan_, conditions, state);
  }

  size_t workspace_bytes() const override { return plan_.workspace_bytes(); }

  void forward(const float* x, const TimeTables& time, int step, const float* condition_state, float* out,
               std::byte* workspace) const override {
    ForwardInputs inputs;
    inputs.clip = x;
    inputs.input_map = map_floats_ > 0 ? condition_state : nullptr;
    inputs.film_time = static_cast<const FilmTimeTables&>(time).step(step);
    inputs.film_condition = condition_state + map_floats_;
    inputs.out = out;
    run_plan(plan_, ops_, fp32_, inputs, workspace);
  }

  double flops() const override { return plan_.flops; }

 private:
  std::shared_ptr<const ModelPackage> package_;
  Isa isa_;
  Precision precision_;
  const OpTable &ops_, &fp32_;
  Plan plan_;
  size_t map_floats_;
};

}  // namespace

bool widths_suit(const UNetConfig& u, Precision precision) {
  const int widths = u.dim | u.init_dim | u.attention_dim_head | u.linear_dim_head;
  const bool pairs = precision == Precision::kBf16 || precision == Precision::kInt8;
  return !pairs || widths % 2 == 0;
}

std::shared_ptr<const UNet> UNet::create(std::shared_ptr<const ModelPackage> package, Isa isa, Precision precision) {
  if (!widths_suit(package->config().unet, precision)) {
    throw Error(Status::kCapability, "precision " + std::string(precision_name(precision)) +
                                         " takes even dim, init_dim and head widths; this model has an odd one; "
                                         "use precision fp32");
  }
  if (precision == Precision::kInt8 && package->config().quantisation.layers.empty()) {
    throw Error(Status::kCapability,
                "precision int8 needs calibrated ranges, and this model has none; make a calibrated copy with "
                "gaitcrafter-rt quantise MODEL OUT, or use precision bf16");
  }
  return std::make_shared<NativeUNet>(std::move(package), isa, precision);
}

}  // namespace gaitcrafter
