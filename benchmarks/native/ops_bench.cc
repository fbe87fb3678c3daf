// Every op at every shape that the two networks run it at, in every precision, alone and on one thread. The list of
// shapes is the plans themselves: the paper's preset and the model that ships, with random weights.
//
//   ops_bench --benchmark_filter='paper/bf16' --benchmark_min_time=0.1
//
// Names are NETWORK/PRECISION/OP/HEIGHTxWIDTH/CHANNELS/NODE. "operations" is 2 x multiply-adds of one call,
// convolutions counted as direct ones; the context has the core's limits, GFLOP/s by arithmetic. benchmarks/ops.py
// makes the table.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "core/processor_rate.h"
#include "model/tensors.h"
#include "ops/aligned.h"
#include "testing/packages.h"
#include "unet/executor.h"
#include "unet/node_info.h"
#include "unet/packed_plan.h"

namespace gaitcrafter {
namespace {

using testing::TempFolder;

constexpr const char* kNetworks[] = {"paper", "walker"};

// Every 3x3 convolution of a ResNet block, as calibration would name them.
std::vector<std::string> quantised_layers(const ModelConfig& config) {
  std::vector<std::string> layers;
  for (const TensorSpec& spec : expected_tensors(config)) {
    for (const std::string end : {".conv1.weight", ".conv2.weight"})
      if (spec.name.ends_with(end)) layers.push_back(spec.name.substr(0, spec.name.size() - 7));
  }
  return layers;
}

// A package with random weights and ranges, opened; its files are gone with `folder`.
std::shared_ptr<const ModelPackage> random_package(const std::string& network, const TempFolder& folder) {
  nlohmann::json config = nlohmann::json::parse(
      network == "walker" ? testing::read_file(GAITCRAFTER_SOURCE_DIR "/gaitcrafter_rt/models/walker/config.json")
                          : R"({"format": "gaitcrafter-model", "name": "paper", "conditioning": {"cond_dim": 74},
                                "clip": {"frames": 30, "height": 64, "width": 64}, "unet": {}})");
  config.erase("quantisation");
  config["format_version"] = 2;
  const std::vector<std::string> layers = quantised_layers(parse_config(config.dump(), network));
  config["quantisation"] = {{"layers", layers}, {"clips", 1}, {"method", "random"}};
  const ModelConfig parsed = parse_config(config.dump(), network);
  testing::write_package(folder.path() / network, config.dump(), testing::safetensors(testing::tensors_of(parsed)));
  return ModelPackage::open((folder.path() / network).string());
}

// One network in one precision. Nodes run in their order once, so that every one reads what it would read.
class Subject {
 public:
  Subject(const ModelPackage& package, Isa isa, Precision precision)
      : ops_(op_table(isa, precision)),
        fp32_(op_table(isa, Precision::kFp32)),
        packed_(pack_plan(package, isa, precision)),
        placement_(place_buffers(packed_.plan.buffers)),
        activations_(placement_.bytes),
        scratch_(packed_.plan.scratch_bytes),
        team_(scratch_.data()),
        film_(std::max<size_t>(packed_.plan.film_floats, 1)) {
    const ModelConfig& c = package.config();
    const size_t values = static_cast<size_t>(c.unet.channels) * c.clip.frames * c.clip.height * c.clip.width;
    clip_.resize(values);
    out_.resize(values);
    for (size_t i = 0; i < values; ++i) clip_[i] = std::sin(0.7f * static_cast<float>(i));
    inputs_ = {clip_.data(), nullptr, film_.data(), film_.data(), out_.data()};
  }

  std::vector<NodeInfo> nodes() const { return node_infos(packed_.plan, ops_); }

  void run(size_t node) {
    for (; done_ < node; ++done_) run_one(done_);
    run_one(node);
  }

 private:
  void run_one(size_t node) {
    run_node(packed_.plan, ops_, fp32_, inputs_, {&placement_, activations_.data(), nullptr}, team_, node);
  }

  const OpTable &ops_, &fp32_;
  PackedPlan packed_;
  Placement placement_;
  AlignedBytes activations_, scratch_;
  Team team_;
  std::vector<float> film_, clip_, out_;
  ForwardInputs inputs_;
  size_t done_ = 0;
};

// The subject of the benchmark that runs; another one takes its place, so that memory holds one network.
Subject& subject(const ModelPackage& package, Isa isa, Precision precision) {
  static std::unique_ptr<Subject> current;
  static std::pair<const ModelPackage*, Precision> key;
  if (current == nullptr || key != std::pair(&package, precision)) {
    current.reset();
    current = std::make_unique<Subject>(package, isa, precision);
    key = {&package, precision};
  }
  return *current;
}

void add_benchmarks(const std::string& network, std::shared_ptr<const ModelPackage> package, Isa isa,
                    Precision precision) {
  const std::vector<NodeInfo> nodes = Subject(*package, isa, precision).nodes();
  std::set<std::tuple<std::string_view, std::string_view, int, int, int, double>> seen;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const NodeInfo& n = nodes[i];
    if (!seen.emplace(n.op, n.arithmetic, n.height, n.width, n.channels, n.operations).second) continue;
    const std::string name = network + "/" + std::string(precision_name(precision)) + "/" + std::string(n.op) + "/" +
                             std::to_string(n.height) + "x" + std::to_string(n.width) + "/" +
                             std::to_string(n.channels) + "/" + std::to_string(i);
    const auto run = [package, isa, precision, i, n](benchmark::State& state) {
      Subject& s = subject(*package, isa, precision);
      s.run(i);
      for (auto _ : state) s.run(i);
      state.counters["operations"] = n.operations;
      state.SetLabel(std::string(n.arithmetic));
    };
    benchmark::RegisterBenchmark(name.c_str(), run);
  }
}

void add_limits(Isa isa) {
  constexpr std::pair<const char*, Arithmetic> kArithmetics[] = {
      {"fp32", Arithmetic::kFp32}, {"bf16", Arithmetic::kBf16}, {"int8", Arithmetic::kInt8}};
  for (const auto& [name, arithmetic] : kArithmetics) {
    if (!arithmetic_supported(arithmetic, isa)) continue;
    benchmark::AddCustomContext(std::string("limit_") + name, std::to_string(processor_rate(arithmetic, isa) * 1e-9));
  }
}

}  // namespace
}  // namespace gaitcrafter

int main(int argc, char** argv) {
  using namespace gaitcrafter;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  const Isa isa = choose_isa();
  std::vector<std::unique_ptr<TempFolder>> folders;
  for (const char* network : kNetworks) {
    folders.push_back(std::make_unique<TempFolder>());
    const std::shared_ptr<const ModelPackage> package = random_package(network, *folders.back());
    for (const Precision precision : kPrecisions)
      if (precision_supported(precision, isa)) add_benchmarks(network, package, isa, precision);
  }
  add_limits(isa);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
