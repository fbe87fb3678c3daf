// reader.hpp and stream.hpp and the C interface below them, compiled as C++17 and linked with libgaitcrafter alone.
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>

#include "api_test.h"
#include "gaitcrafter/reader.hpp"
#include "gaitcrafter/stream.hpp"

namespace {

using gaitcrafter::Axis;
using gaitcrafter::ClipReader;
using gaitcrafter::ClipStream;
using gaitcrafter::Condition;
using gaitcrafter::Engine;
using gaitcrafter::Error;

const std::string kFixtures = GAITCRAFTER_SOURCE_DIR "/tests/fixtures/";
const std::string kCache = kFixtures + "cache-version-1";

TEST(ReaderApi, ReadsClipsAndLabels) {
  const ClipReader clips(kCache, true);
  EXPECT_EQ(clips.size(), 4u);
  EXPECT_EQ(clips.info().frames, 4);
  EXPECT_EQ(clips.pixels(), 4u * 16 * 16);
  EXPECT_EQ(clips.packed_bytes(), 128u);
  EXPECT_EQ(clips.labels(Axis::kView), (std::vector<std::string>{"000", "090"}));
  EXPECT_EQ(clips.labels(Axis::kCovariate).size(), 0u);
  EXPECT_EQ(clips.find_label(Axis::kIdentity, "001=0.3+002=0.7"), 1);
  const auto records = clips.records();
  ASSERT_EQ(records.size(), 4u);
  EXPECT_EQ(records[3].clip_index, 103u);
  EXPECT_EQ(records[3].seed, 3u);
  EXPECT_EQ(records[3].labels[GC_AXIS_IDENTITY], 1);
  EXPECT_EQ(records[3].labels[GC_AXIS_VIEW], 1);
  EXPECT_EQ(records[3].labels[GC_AXIS_COVARIATE], -1);

  std::ifstream file(kCache + "/silhouettes.bin", std::ios::binary);
  const std::vector<char> bits{std::istreambuf_iterator<char>(file), {}};
  std::vector<uint8_t> pixels(2 * clips.pixels()), packed(2 * clips.packed_bytes());
  std::vector<float> floats(pixels.size());
  clips.read({3, 1}, pixels.data(), pixels.size());
  clips.read({3, 1}, floats.data(), floats.size());
  clips.read_packed({3, 1}, packed.data(), packed.size());
  EXPECT_EQ(std::memcmp(packed.data(), bits.data() + 3 * 128, 128), 0);
  EXPECT_EQ(std::memcmp(packed.data() + 128, bits.data() + 128, 128), 0);
  EXPECT_EQ(std::memcmp(clips.packed(3), packed.data(), 128), 0);
  for (size_t i = 0; i < pixels.size(); ++i) {
    const int bit = packed[i / 8] >> (7 - i % 8) & 1;
    ASSERT_EQ(pixels[i], bit * 255);
    ASSERT_EQ(floats[i], static_cast<float>(bit));
  }
}

TEST(ReaderApi, ErrorsAreTyped) {
  EXPECT_EQ(thrown_by([] { ClipReader("/no/such"); }).status(), GC_DATA_FORMAT);
  const ClipReader clips(kCache);
  std::vector<uint8_t> out(clips.pixels());
  EXPECT_EQ(thrown_by([&] { clips.read({4}, out.data(), out.size()); }).status(), GC_INVALID_REQUEST);
  EXPECT_EQ(thrown_by([&] { clips.read({0, 1}, out.data(), out.size()); }).status(), GC_INVALID_REQUEST);
  EXPECT_EQ(thrown_by([&] { clips.packed(1u << 30); }).status(), GC_INVALID_REQUEST);
  EXPECT_EQ(thrown_by([&] { clips.find_label(Axis::kView, "045"); }).status(), GC_INVALID_REQUEST);
}

TEST(ReaderApi, NullsAndStructsAreChecked) {
  gc_reader* reader = nullptr;
  EXPECT_STATUS(gc_reader_open(nullptr, nullptr, &reader), GC_INVALID_REQUEST, "path is NULL");
  EXPECT_STATUS(gc_reader_open("x", nullptr, nullptr), GC_INVALID_REQUEST, "reader is NULL");
  gc_reader_options zeroed = {};
  EXPECT_STATUS(gc_reader_open(kCache.c_str(), &zeroed, &reader), GC_INVALID_REQUEST, "gc_reader_options says size");
  gc_reader_options wrong = gc_reader_options_default();
  wrong.isa = "mmx";
  EXPECT_STATUS(gc_reader_open(kCache.c_str(), &wrong, &reader), GC_INVALID_REQUEST, "isa is \"mmx\"");
  ASSERT_EQ(gc_reader_open(kCache.c_str(), nullptr, &reader), GC_OK) << gc_last_error_message();
  const uint64_t clip = 0;
  uint8_t out[1024];
  gc_pixels pixels = gc_pixels_default();
  pixels.version = GC_ABI_VERSION + 1;
  EXPECT_STATUS(gc_reader_read(reader, &clip, 1, &pixels, out, sizeof out), GC_UNSUPPORTED_VERSION, "gc_pixels");
  pixels = gc_pixels_default();
  pixels.type = 3;
  EXPECT_STATUS(gc_reader_read(reader, &clip, 1, &pixels, out, sizeof out), GC_INVALID_REQUEST, "pixel type is 3");
  EXPECT_STATUS(gc_reader_read(reader, nullptr, 1, nullptr, out, sizeof out), GC_INVALID_REQUEST, "clips is NULL");
  EXPECT_STATUS(gc_reader_read(reader, &clip, 1, nullptr, nullptr, sizeof out), GC_INVALID_REQUEST, "out is NULL");
  EXPECT_STATUS(gc_reader_records(reader, 0, 1, nullptr), GC_INVALID_REQUEST, "records is NULL");
  EXPECT_STATUS(gc_reader_info(nullptr, nullptr), GC_INVALID_REQUEST, "reader is NULL");
  EXPECT_STATUS(gc_reader_info(reader, nullptr), GC_INVALID_REQUEST, "gc_cache_info is NULL");
  const char* text = nullptr;
  size_t length = 0;
  EXPECT_STATUS(gc_reader_label(reader, 4, 0, &text, &length), GC_INVALID_REQUEST, "axis is 4");
  EXPECT_STATUS(gc_reader_label(reader, 2, 9, &text, &length), GC_INVALID_REQUEST, "view index 9");
  EXPECT_EQ(gc_reader_read(reader, &clip, 1, nullptr, out, sizeof out), GC_OK);
  EXPECT_EQ(gc_reader_read(reader, nullptr, 0, nullptr, nullptr, 0), GC_OK);
  gc_reader_close(reader);
  gc_reader_close(nullptr);
  const uint8_t packed[3] = {0xff, 0x00, 0xa0};
  const uint64_t rows[2] = {2, 0};
  EXPECT_STATUS(gc_decode_rows(packed, 3, nullptr, 2, 8, nullptr, out, 16), GC_INVALID_REQUEST, "rows is NULL");
  EXPECT_STATUS(gc_decode_rows(nullptr, 3, rows, 2, 8, nullptr, out, 16), GC_INVALID_REQUEST, "packed is NULL");
  EXPECT_STATUS(gc_decode_rows(packed, 2, rows, 2, 8, nullptr, out, 16), GC_INVALID_REQUEST, "clip 2 is outside 0..1");
  ASSERT_EQ(gc_decode_rows(packed, 3, rows, 2, 8, nullptr, out, 16), GC_OK) << gc_last_error_message();
  const uint8_t want[16] = {255, 0, 255, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255};
  EXPECT_TRUE(std::equal(want, want + 16, out));
}

TEST(StreamApi, GivesTheClipsOfGenerate) {
  gaitcrafter::Options two;
  two.threads = 2;
  const Engine engine(kFixtures + "tiny-walker", two);
  gaitcrafter::StreamOptions options;
  options.seed = 5;
  options.capacity = 2;
  options.sampler.steps = 2;
  ClipStream stream(engine, options);
  std::vector<Condition> conditions(5);
  for (size_t i = 0; i < conditions.size(); ++i) conditions[i].label(Axis::kIdentity, i % 2 == 0 ? "001" : "003");
  std::vector<gaitcrafter::ClipFuture> futures;
  for (size_t i = 0; i < conditions.size(); ++i) futures.push_back(stream.submit(i, conditions[i]));
  std::vector<uint8_t> packed;
  for (const auto& future : futures) {
    const auto clip = future.get();
    EXPECT_TRUE(future.ready());
    packed.insert(packed.end(), clip.begin(), clip.end());
  }
  gaitcrafter::Request request;
  request.seed = 5;
  request.sampler.steps = 2;
  EXPECT_EQ(packed, engine.generate(conditions, request).packed);
}

TEST(StreamApi, FullQueuesAndCancellation) {
  const Engine engine(kFixtures + "tiny-walker");
  gaitcrafter::StreamOptions options;
  options.capacity = options.batch = 1;
  options.sampler.steps = 1000;
  ClipStream stream(engine, options);
  auto first = stream.submit(0, Condition());
  auto second = stream.submit(1, Condition());
  EXPECT_FALSE(stream.try_submit(2, Condition(), std::chrono::milliseconds(5)).has_value());
  EXPECT_FALSE(second.ready());
  second.cancel();
  EXPECT_EQ(thrown_by([&] { second.get(); }).status(), GC_CANCELLED);
  stream.cancel();
  EXPECT_EQ(thrown_by([&] { first.get(); }).status(), GC_CANCELLED);
  EXPECT_EQ(thrown_by([&] { stream.submit(3, Condition()); }).status(), GC_CANCELLED);
  Condition nobody;
  nobody.label(Axis::kView, "045");
  EXPECT_EQ(thrown_by([&] { stream.submit(3, nobody); }).status(), GC_INVALID_REQUEST);
}

TEST(StreamApi, FuturesOutliveTheirStreamAndNullsAreChecked) {
  const Engine engine(kFixtures + "tiny-walker");
  gc_stream* stream = nullptr;
  EXPECT_STATUS(gc_stream_open(nullptr, nullptr, &stream), GC_INVALID_REQUEST, "engine is NULL");
  gc_stream_options zeroed = {};
  EXPECT_STATUS(gc_stream_open(engine.get(), &zeroed, &stream), GC_INVALID_REQUEST, "gc_stream_options says size");
  ASSERT_EQ(gc_stream_open(engine.get(), nullptr, &stream), GC_OK);
  gc_future* future = nullptr;
  EXPECT_STATUS(gc_stream_submit(nullptr, 0, nullptr, -1, &future), GC_INVALID_REQUEST, "stream is NULL");
  EXPECT_STATUS(gc_stream_submit(stream, 0, nullptr, -1, nullptr), GC_INVALID_REQUEST, "future is NULL");
  ASSERT_EQ(gc_stream_submit(stream, 0, nullptr, -1, &future), GC_OK) << gc_last_error_message();
  int ready = 0;
  ASSERT_EQ(gc_future_wait(future, -1, &ready), GC_OK);
  EXPECT_EQ(ready, 1);
  gc_stream_close(stream);
  uint8_t clip[768], small[1];
  EXPECT_STATUS(gc_future_get(future, small, sizeof small), GC_INVALID_REQUEST, "exactly 768");
  EXPECT_EQ(gc_future_get(future, clip, sizeof clip), GC_OK);
  EXPECT_STATUS(gc_future_get(nullptr, clip, sizeof clip), GC_INVALID_REQUEST, "future is NULL");
  EXPECT_STATUS(gc_future_wait(future, 0, nullptr), GC_INVALID_REQUEST, "ready is NULL");
  EXPECT_STATUS(gc_future_cancel(nullptr), GC_INVALID_REQUEST, "future is NULL");
  gc_future_release(future);
  gc_future_release(nullptr);
  gc_stream_close(nullptr);
}

}  // namespace
