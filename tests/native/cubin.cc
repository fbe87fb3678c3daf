// The cubin backend on a stand-in for CUDA whose launches Python executes.
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>

#include "arrays.h"
#include "backends/cuda/cubin_network.h"
#include "engine/batch_run.h"
#include "sampler/pack.h"
#include "testing/fake_cuda.h"

namespace gaitcrafter::testing {
namespace {

namespace py = pybind11;
using Entries = std::vector<std::pair<int32_t, float>>;
// (code, entry, grid, pointers, bytes from each pointer to the end of its memory)
using Execute = std::function<void(const std::string&, const std::string&, std::vector<unsigned>,
                                   std::vector<uintptr_t>, std::vector<size_t>)>;

class FakeCubin {
 public:
  FakeCubin(const std::string& pack, int batch, bool graphs, Execute execute) {
    cuda_.execute = [run = std::move(execute)](const FakeLaunch& launch) {
      std::vector<uintptr_t> pointers;
      for (void* const p : launch.pointers) pointers.push_back(reinterpret_cast<uintptr_t>(p));
      run(launch.code, launch.entry, {launch.grid.x, launch.grid.y, launch.grid.z}, pointers, launch.rooms);
    };
    EngineOptions options;
    options.device = "cuda";
    options.batch = batch;
    network_ = open_cubin(pack, options, cuda_.api(), graphs);
  }

  // Clips `first`, ... with one dictionary of labels each; (packed [n, bytes], x_0 [n, floats]). `sampler` holds kind,
  // steps, thresholding as numbers and eta, guidance. `row_by_row` goes through the sampler's loop.
  py::tuple generate(const std::vector<std::map<std::string, Entries>>& clips, uint64_t seed, uint64_t first,
                     const std::map<std::string, double>& sampler, float threshold, bool row_by_row) {
    const ModelConfig& config = network_->config();
    const size_t floats = size_t(config.unet.channels) * size_t(config.clip.frames) * size_t(config.clip.height) *
                          size_t(config.clip.width);
    GenerateRequest request;
    request.seed = seed;
    request.start = first;
    request.count = clips.size();
    request.threshold = threshold;
    request.sampler.kind = static_cast<SamplerKind>(static_cast<int>(sampler.at("kind")));
    request.sampler.steps = static_cast<int>(sampler.at("steps"));
    request.sampler.thresholding = static_cast<Thresholding>(static_cast<int>(sampler.at("thresholding")));
    request.sampler.eta = sampler.at("eta");
    request.sampler.guidance = sampler.at("guidance");
    std::vector<std::array<std::vector<LabelWeight>, kAxes>> entries(clips.size());
    std::vector<ClipConditions> conditions(clips.size());
    for (size_t i = 0; i < clips.size(); ++i) {
      for (size_t axis = 0; axis < kAxes; ++axis) {
        const auto found = clips[i].find(std::string(kAxisNames[axis]));
        if (found == clips[i].end()) continue;
        for (const auto& [index, weight] : found->second) entries[i][axis].push_back({index, weight});
        conditions[i].axes[axis] = entries[i][axis];
      }
    }
    py::array_t<uint8_t> packed({clips.size(), packed_bytes(floats)});
    Array x0(std::vector<size_t>{clips.size(), floats});
    const GenerateOutput output{{packed.mutable_data(), static_cast<size_t>(packed.size())},
                                {x0.mutable_data(), static_cast<size_t>(x0.size())}};
    const SamplerTable table = compile_table(request.sampler, config.diffusion);
    const Guidance guidance{request.sampler.guidance, {true, true, true, true}};
    if (row_by_row) {
      network_->Network::generate(request, output, conditions, table, guidance);
    } else {
      network_->generate(request, output, conditions, table, guidance);
    }
    return py::make_tuple(packed, x0);
  }

  std::vector<std::string> problems() const { return cuda_.problems; }
  std::vector<std::string> calls() const { return cuda_.calls; }

 private:
  FakeCuda cuda_;
  std::unique_ptr<Network> network_;  // after: goes first
};

}  // namespace

void bind_cubin(py::module_& m) {
  py::class_<FakeCubin>(m, "FakeCubin")
      .def(py::init<const std::string&, int, bool, Execute>(), py::arg("pack"), py::arg("batch"), py::arg("graphs"),
           py::arg("execute"))
      .def("generate", &FakeCubin::generate, py::arg("clips"), py::arg("seed"), py::arg("first"), py::arg("sampler"),
           py::arg("threshold") = 0.5f, py::arg("row_by_row") = false)
      .def_property_readonly("problems", &FakeCubin::problems)
      .def_property_readonly("calls", &FakeCubin::calls);
}

}  // namespace gaitcrafter::testing
