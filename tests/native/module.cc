// A raw forward of the native U-Net, without engine or sampler.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>

#include "arrays.h"
#include "core/error.h"
#include "unet/unet.h"

namespace gaitcrafter::testing {
namespace {

namespace py = pybind11;
using Entries = std::vector<std::pair<int32_t, float>>;

class RawUNet {
 public:
  RawUNet(const std::string& folder, const std::string& isa, const std::string& precision)
      : unet_(UNet::create(ModelPackage::open(folder), isa_named(isa), precision_named(precision).value())),
        placement_(unet_->place()),
        activations_(placement_.bytes),
        scratch_(unet_->scratch_bytes()) {}

  // x [C, F, H, W]; `labels` per axis name a list of (index, weight); `cond` [cond_dim].
  Array forward(const Array& x, int timestep, const std::map<std::string, Entries>& labels, const MaybeArray& cond) {
    std::array<std::vector<LabelWeight>, kAxes> entries;
    ClipConditions conditions;
    for (size_t axis = 0; axis < kAxes; ++axis) {
      const auto found = labels.find(std::string(kAxisNames[axis]));
      if (found == labels.end()) continue;
      for (const auto& [index, weight] : found->second) entries[axis].push_back({index, weight});
      conditions.axes[axis] = entries[axis];
    }
    if (cond) conditions.cond = cond->data();
    std::vector<float> state(unet_->condition_floats());
    unet_->prepare_conditions(conditions, state.data());
    const auto time = time_tables(timestep);
    Array out(std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim()));
    float* to = out.mutable_data();
    {
      const py::gil_scoped_release release;
      Team team(scratch_.data());
      unet_->forward(x.data(), *time, 0, state.data(), to, {&placement_, activations_.data(), nullptr}, team);
    }
    return out;
  }

  // Kept, so that a benchmark that calls again times the network alone.
  std::shared_ptr<const TimeTables> time_tables(int32_t timestep) {
    auto& kept = time_[timestep];
    if (kept == nullptr) kept = unet_->prepare_time({&timestep, 1});
    return kept;
  }

  double flops() const { return unet_->flops(); }
  size_t workspace_bytes() const { return placement_.bytes + unet_->scratch_bytes(); }

 private:
  std::shared_ptr<const UNet> unet_;
  std::map<int32_t, std::shared_ptr<const TimeTables>> time_;
  Placement placement_;
  AlignedBytes activations_, scratch_;
};

}  // namespace
}  // namespace gaitcrafter::testing

PYBIND11_MODULE(_gc_test, m) {
  using gaitcrafter::testing::RawUNet;
  namespace py = pybind11;
  py::register_exception<gaitcrafter::Error>(m, "Error");
  m.def("isa_supported",
        [](const std::string& name) { return gaitcrafter::isa_supported(gaitcrafter::testing::isa_named(name)); });
  m.def("precision_supported", [](const std::string& precision, const std::string& isa) {
    return gaitcrafter::precision_supported(gaitcrafter::precision_named(precision).value(),
                                            gaitcrafter::testing::isa_named(isa));
  });
  gaitcrafter::testing::bind_ops(m);
  gaitcrafter::testing::bind_cubin(m);
  py::class_<RawUNet>(m, "UNet")
      .def(py::init<const std::string&, const std::string&, const std::string&>(), py::arg("folder"), py::arg("isa"),
           py::arg("precision") = "fp32")
      .def("forward", &RawUNet::forward, py::arg("x"), py::arg("timestep"),
           py::arg("labels") = std::map<std::string, std::vector<std::pair<int32_t, float>>>{},
           py::arg("cond") = py::none())
      .def_property_readonly("flops", &RawUNet::flops)
      .def_property_readonly("workspace_bytes", &RawUNet::workspace_bytes);
}
