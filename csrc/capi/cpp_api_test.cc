// The header-only C++ interface, compiled as C++17 and linked with libgaitcrafter alone.
#include <gtest/gtest.h>

#include "api_test.h"
#include "gaitcrafter/gaitcrafter.hpp"

namespace {

using gaitcrafter::Axis;
using gaitcrafter::Condition;
using gaitcrafter::Engine;
using gaitcrafter::Error;
using gaitcrafter::Request;

const std::string kFixtures = GAITCRAFTER_SOURCE_DIR "/tests/fixtures/";

gaitcrafter::Options threads(int n) {
  gaitcrafter::Options o;
  o.threads = n;
  return o;
}

Request quick() {
  Request r;
  r.seed = 11;
  r.sampler.steps = 2;
  return r;
}

TEST(CppApi, GeneratesByNameAndByIndexAlike) {
  const Engine engine(kFixtures + "tiny-walker", threads(2));
  EXPECT_EQ(engine.labels(Axis::kView), (std::vector<std::string>{"000", "090"}));
  EXPECT_FALSE(engine.weights_from().empty());
  Condition by_name, by_index;
  by_name.label(Axis::kIdentity, "003").label(Axis::kIdentity, "001", 0.5f).label(Axis::kView, "090");
  by_index.index(Axis::kIdentity, 2).index(Axis::kIdentity, 0, 0.5f).index(Axis::kView, 1);
  const auto a = engine.generate({by_name, Condition()}, quick());
  const auto b = engine.generate({by_index, Condition()}, quick());
  EXPECT_EQ(a.packed, b.packed);
  EXPECT_EQ(a.size(), 2u);
  EXPECT_EQ(a.clip_indices, (std::vector<uint64_t>{0, 1}));

  Request second = quick();
  second.start = 1;
  second.want_x0 = true;
  const auto c = engine.generate({Condition()}, second);
  EXPECT_EQ(c.unpack(0), a.unpack(1));
  ASSERT_EQ(c.x0.size(), c.pixels());
  for (size_t i = 0; i < c.pixels(); ++i) ASSERT_EQ(c.unpack(0)[i], c.x0[i] > 0 ? 1 : 0);
  EXPECT_THROW(c.unpack(1), std::out_of_range);
}

TEST(CppApi, RawVectors) {
  const Engine engine(kFixtures + "tiny-paper", threads(1));
  Condition raw, label;
  raw.raw({0, 1, 0, 0, 0, 0, 0, 0});
  label.label(Axis::kIdentity, "002");
  const auto batch = engine.generate({raw, label, Condition()}, quick());
  Request second = quick();
  second.clip_indices = {0, 1};
  EXPECT_EQ(engine.generate({label, raw}, second).packed,
            (std::vector<uint8_t>(batch.packed.begin(),
                                  batch.packed.begin() + static_cast<ptrdiff_t>(2 * batch.packed_bytes()))));
  Condition short_one;
  short_one.raw({1, 2});
  EXPECT_EQ(thrown_by([&] { engine.generate({short_one}, quick()); }).status(), GC_INVALID_REQUEST);
}

TEST(CppApi, ErrorsAreTyped) {
  const Error missing = thrown_by([] { Engine("/no/such"); });
  EXPECT_EQ(missing.status(), GC_MODEL_FORMAT);
  const Engine engine(kFixtures + "tiny-walker", threads(1));
  Condition who;
  who.label(Axis::kView, "045");
  const Error unknown = thrown_by([&] { engine.generate({who}, quick()); });
  EXPECT_EQ(unknown.status(), GC_INVALID_REQUEST);
  EXPECT_NE(std::string(unknown.what()).find("2 labels: 000, 090"), std::string::npos) << unknown.what();
  EXPECT_EQ(thrown_by([&] { engine.generate({}, quick()); }).status(), GC_INVALID_REQUEST);
}

TEST(CppApi, ACallbackMayCancelOrThrow) {
  const Engine engine(kFixtures + "tiny-walker", threads(1));
  Request r = quick();
  r.keep_going = [](const gc_progress&) { return false; };
  EXPECT_EQ(thrown_by([&] { engine.generate({Condition()}, r); }).status(), GC_CANCELLED);
  r.keep_going = [](const gc_progress&) -> bool { throw std::logic_error("mine"); };
  EXPECT_THROW(engine.generate({Condition()}, r), std::logic_error);
  uint64_t last = 0;
  r.keep_going = [&](const gc_progress& p) {
    last = p.steps_done;
    return true;
  };
  engine.generate({Condition()}, r);
  EXPECT_EQ(last, 2u);
}

TEST(CppApi, EnginesMove) {
  Engine a(kFixtures + "tiny-walker", threads(1));
  const Engine b = std::move(a);
  EXPECT_EQ(b.sampler_table().size(), 4u);
}

}  // namespace
