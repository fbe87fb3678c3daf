// A kernel pack for FakeCuda, whose kernels a few lines of C++ stand in for, and the model package that it belongs to.
#pragma once

#include <filesystem>
#include <string>

#include "testing/fake_cuda.h"

namespace gaitcrafter::testing {

// What the fake kernels work with: two rows' worth of a tiny clip.
inline constexpr size_t kFakeFloats = 192, kFakeFilm = 144, kFakeMap = 64;

// Writes FOLDER and FOLDER/model. `manifest` may change the manifest's text before checksums are made.
void write_fake_pack(
    const std::filesystem::path& folder, const std::function<void(std::string&)>& manifest = [](std::string&) {});

// Runs a fake kernel: noise sets x to the clip's index; net and exact make out[lane] the first FiLM number of the lane
// plus the row's time term; step adds the outputs of all lanes of a clip to x; pack keeps the low byte of x.
void run_fake_kernel(const FakeLaunch& launch);

}  // namespace gaitcrafter::testing
