// Where the time of an engine's clips went, part by part.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/stopwatch.h"
#include "denoiser/denoiser.h"

namespace gaitcrafter {

// Times of runs, each as its leader saw it: with a clip per thread the threads' times are added.
struct RunTimes {
  // `exact` may be null.
  RunTimes(const UNet& network, const UNet* exact);

  DenoiserTimes denoiser;
  PartTime tables, conditions, noise, sampler, pack;
};

// One op at one resolution. `stage` is "network", "network in fp32" (calls that an eps-model makes in fp32 whatever the
// precision) or "clip" (everything else); `arithmetic` and `operations` as in NodeInfo, the latter of all calls.
struct ProfileRow {
  std::string_view stage, op, arithmetic;
  int height = 0, width = 0;
  uint64_t calls = 0;
  double seconds = 0, operations = 0;
};

// Rows in the order in which the parts run first.
std::vector<ProfileRow> profile_rows(const RunTimes& times, const UNet& network, const UNet* exact);

}  // namespace gaitcrafter
