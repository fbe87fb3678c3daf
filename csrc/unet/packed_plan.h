// A plan with its packed weights: packed now, or from the cache (cache/packed_cache.h).
#pragma once

#include "cache/packed_cache.h"
#include "unet/plan.h"
#include "unet/unet.h"

namespace gaitcrafter {

struct PackedPlan {
  WeightStore weights;
  Plan plan;
  WeightsFrom from = WeightsFrom::kMemory;
};

// Packs in memory.
PackedPlan pack_plan(const ModelPackage& package, Isa isa, Precision precision);

// From the cache if it is there, else packed and written to it; in memory if there is no usable cache. The bits are the
// same. Throws what reading the model throws, and std::bad_alloc.
PackedPlan cached_plan(WeightsSource& source, Isa isa, Precision precision);

}  // namespace gaitcrafter
