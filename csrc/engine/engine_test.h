// An engine on the small random-weight model, and calls of it.
#pragma once

#include <gtest/gtest.h>

#include "engine/engine.h"
#include "testing/packages.h"

namespace gaitcrafter {

class EngineTest : public ::testing::Test {
 protected:
  static EngineOptions threads(int n) {
    EngineOptions o;
    o.threads = n;
    return o;
  }

  static std::vector<uint8_t> generate(Engine& engine, GenerateRequest request, std::vector<float>* x0 = nullptr) {
    std::vector<uint8_t> packed(request.count * engine.packed_bytes());
    if (x0 != nullptr) x0->resize(request.count * engine.clip_floats());
    engine.generate(request, {packed, x0 == nullptr ? std::span<float>() : std::span<float>(*x0)});
    return packed;
  }

  static GenerateRequest request_of(const Engine& engine, uint64_t count) {
    GenerateRequest r;
    r.seed = 5;
    r.count = count;
    r.sampler = engine.config().sampler;
    r.sampler.steps = 3;
    return r;
  }

  const std::string path_ = testing::fixture("tiny-walker");
};

}  // namespace gaitcrafter
