#include "unet/packed_plan.h"

namespace gaitcrafter {

PackedPlan pack_plan(const ModelPackage& package, Isa isa, Precision precision) {
  PackedPlan out;
  out.plan = build_plan(package, precision, op_table(isa, precision), op_table(isa, Precision::kFp32), out.weights);
  return out;
}

// A plan is built up to three times: to see which arrays there are, to fill them in one piece of memory, and to take
// them from the file. Only the second costs anything.
PackedPlan cached_plan(WeightsSource& source, Isa isa, Precision precision) {
  const OpTable &ops = op_table(isa, precision), &fp32 = op_table(isa, Precision::kFp32);
  const PackedCache& cache = source.cache();
  if (!cache.usable()) return pack_plan(*source.package(), isa, precision);

  source.check();
  const ModelFolder& model = source.folder();
  const auto shapes = shapes_only(model.config(), model.sha256());
  ArrayLayout layout;
  WeightStore measuring = WeightStore::measuring(layout);
  build_plan(*shapes, precision, ops, fp32, measuring);

  const std::string key = packed_key(model, isa, precision);
  PackedPlan out;
  Pages pages = cache.find(key, layout);
  if (pages) {
    out.from = WeightsFrom::kCache;
  } else {
    WeightStore filling(Pages::anonymous(kPackedHeaderBytes + layout.bytes()), kPackedHeaderBytes, layout, false);
    build_plan(*source.package(), precision, ops, fp32, filling);
    source.folder().weights_file().release_pages();
    pages = std::move(filling).take_pages();
    if (source.unchanged()) {
      if (Pages file = cache.keep(key, layout, pages)) {
        out.from = WeightsFrom::kWritten;
        pages = std::move(file);
      }
    }
  }
  out.weights = WeightStore(std::move(pages), kPackedHeaderBytes, layout, true);
  out.plan = build_plan(*shapes, precision, ops, fp32, out.weights);
  return out;
}

}  // namespace gaitcrafter
