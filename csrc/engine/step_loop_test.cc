// A lane takes its memory once: between the first step of a clip and its packed bits nothing is allocated.
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "engine/cpu_backend.h"
#include "ops/aligned.h"
#include "sampler/pack.h"
#include "testing/allocations.h"
#include "testing/packages.h"

namespace gaitcrafter {
namespace {

// Runs one clip and returns how many allocations its loop made, helpers included.
long allocations_of(const Denoiser& denoiser, const SamplerTable& table, int helpers) {
  const auto time = denoiser.unet().prepare_time(table.timesteps());
  SharedWorkspace shared(denoiser.shared_bytes());
  AlignedBytes scratch(denoiser.scratch_bytes()), helpers_scratch(denoiser.scratch_bytes());
  Team team(scratch.data(), helpers);
  CpuBackend backend({denoiser, table, *time, shared}, team, scratch.data());
  std::vector<uint8_t> packed(packed_bytes(denoiser.clip_floats()));
  std::thread helper;
  if (helpers > 0) {
    helper = std::thread([&] { team.help(helpers_scratch.data(), [] { return false; }); });
    while (team.helpers() == 0) std::this_thread::yield();
  }
  const uint64_t seed = 1, clip = 2;
  const ClipConditions nobody{};
  backend.prepare(table, BatchView{1, &seed, &clip, &nobody});
  const long before = testing::allocations;
  for (int row = 0; row < table.size(); ++row) {
    backend.eval(row);
    backend.step(row);
  }
  const size_t bad = backend.finish(0.5f, packed.data());
  const long made = testing::allocations - before;
  EXPECT_EQ(bad, 0u);
  team.dismiss();
  if (helper.joinable()) helper.join();
  return made;
}

TEST(StepLoop, AllocatesNothing) {
  if (!testing::kCounting) GTEST_SKIP() << "the sanitizer owns operator new";
  for (const char* name : {"tiny-walker", "trained-eps"}) {
    const auto package = ModelPackage::open(testing::fixture(name));
    const auto unet = UNet::create(package, choose_isa());
    for (const SamplerKind kind :
         {SamplerKind::kDdpm, SamplerKind::kDdim, SamplerKind::kDpmpp2m, SamplerKind::kUniPc}) {
      SamplerSettings settings;
      settings.kind = kind;
      settings.steps = 4;
      settings.eta = kind == SamplerKind::kDdim ? 0.5 : 0.0;
      settings.thresholding = kind == SamplerKind::kDdim ? Thresholding::kDynamic : Thresholding::kClip;
      const SamplerTable table = compile_table(settings, package->config().diffusion);
      for (const double scale : {1.0, 2.0}) {
        if (scale != 1.0 && !package->config().conditioning.guidance_trained) continue;
        Guidance guidance;
        guidance.scale = scale;
        const Denoiser denoiser(unet, guidance);
        for (const int helpers : {0, 1})
          EXPECT_EQ(allocations_of(denoiser, table, helpers), 0)
              << name << ", sampler " << static_cast<int>(kind) << ", guidance " << scale << ", helpers " << helpers;
      }
    }
  }
}

}  // namespace
}  // namespace gaitcrafter
