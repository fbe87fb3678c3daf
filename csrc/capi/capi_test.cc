// The C interface as a program sees it: linked with libgaitcrafter alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "api_test.h"
#include "gaitcrafter/gaitcrafter.h"

namespace {

const std::string kFixtures = GAITCRAFTER_SOURCE_DIR "/tests/fixtures/";

class CApi : public ::testing::Test {
 protected:
  void SetUp() override {
    gc_options options = gc_options_default();
    options.threads = 2;
    ASSERT_EQ(gc_engine_open((kFixtures + "tiny-walker").c_str(), &options, &engine_), GC_OK)
        << gc_last_error_message();
    ASSERT_EQ(gc_engine_info(engine_, &info_), GC_OK);
    sampler_.steps = 2;
    request_.sampler = &sampler_;
    packed_.resize(info_.packed_bytes);
    output_.packed = packed_.data();
    output_.packed_size = packed_.size();
  }
  void TearDown() override { gc_engine_close(engine_); }

  gc_engine* engine_ = nullptr;
  gc_info info_ = gc_info_default();
  gc_sampler sampler_ = gc_sampler_default();
  gc_request request_ = gc_request_default();
  gc_output output_ = gc_output_default();
  std::vector<uint8_t> packed_;
};

TEST_F(CApi, InfoSaysWhatTheModelIs) {
  EXPECT_EQ(info_.frames, 6);
  EXPECT_EQ(info_.height, 32);
  EXPECT_EQ(info_.width, 32);
  EXPECT_EQ(info_.clip_floats, 6u * 32 * 32);
  EXPECT_EQ(info_.packed_bytes, 6u * 32 * 32 / 8);
  EXPECT_EQ(info_.threads, 2);
  EXPECT_EQ(info_.label_count[GC_AXIS_IDENTITY], 3);
  EXPECT_EQ(info_.label_count[GC_AXIS_DATASET], 0);
  EXPECT_EQ(info_.label_usable[GC_AXIS_VIEW], 1);
  EXPECT_EQ(info_.sampler.kind, GC_SAMPLER_DDIM);
  EXPECT_EQ(info_.sampler.steps, 4);
  EXPECT_GT(info_.flops_per_call, 1e6);
  EXPECT_STREQ(info_.name, "tiny-walker");
  EXPECT_EQ(std::string(info_.model_sha256).size(), 64u);
  EXPECT_STREQ(info_.training_data, "none: random weights");
  EXPECT_STREQ(gc_version(), GAITCRAFTER_VERSION);
  EXPECT_EQ(gc_abi_version(), GC_ABI_VERSION);
}

TEST_F(CApi, TheCacheOfPackedWeights) {
  const char* from = nullptr;
  ASSERT_EQ(gc_engine_weights_from(engine_, &from), GC_OK);
  EXPECT_TRUE(std::string(from) == "memory" || std::string(from) == "written" || std::string(from) == "cache") << from;
  EXPECT_STATUS(gc_engine_weights_from(nullptr, &from), GC_INVALID_REQUEST, "engine is NULL");
  EXPECT_STATUS(gc_engine_weights_from(engine_, nullptr), GC_INVALID_REQUEST, "text is NULL");
  gc_cache cache = gc_cache_default();
  ASSERT_EQ(gc_cache_look(nullptr, &cache), GC_OK);
  EXPECT_NE(cache.folder, nullptr);
  EXPECT_TRUE(*cache.folder != 0 || *cache.problem != 0) << "a cache that has no place says why";
  ASSERT_EQ(gc_cache_look(std::string(64, '0').c_str(), &cache), GC_OK);
  EXPECT_EQ(cache.entries, 0u);
  cache.struct_size = 4;
  EXPECT_STATUS(gc_cache_look(nullptr, &cache), GC_INVALID_REQUEST, "gc_cache");
  cache = gc_cache_default();
  cache.version = 99;
  EXPECT_STATUS(gc_cache_look(nullptr, &cache), GC_UNSUPPORTED_VERSION, "gc_cache");
}

TEST_F(CApi, Labels) {
  const char* text = nullptr;
  size_t length = 0;
  ASSERT_EQ(gc_engine_label(engine_, GC_AXIS_VIEW, 1, &text, &length), GC_OK);
  EXPECT_EQ(std::string(text, length), "090");
  EXPECT_STATUS(gc_engine_label(engine_, GC_AXIS_VIEW, 2, &text, &length), GC_INVALID_REQUEST, "2 labels: 000, 090");
  EXPECT_STATUS(gc_engine_label(engine_, 4, 0, &text, &length), GC_INVALID_REQUEST, "axis is 4");
  EXPECT_STATUS(gc_engine_label(engine_, -1, 0, &text, &length), GC_INVALID_REQUEST, "axis is -1");
  int32_t index = -1;
  ASSERT_EQ(gc_engine_find_label(engine_, GC_AXIS_COVARIATE, "bgxx", 2, &index), GC_OK);
  EXPECT_EQ(index, 1);
  EXPECT_STATUS(gc_engine_find_label(engine_, GC_AXIS_COVARIATE, "zz", 2, &index), GC_INVALID_REQUEST,
                "\"zz\" is unknown");
}

TEST_F(CApi, Generates) {
  std::vector<float> x0(info_.clip_floats);
  output_.x0 = x0.data();
  output_.x0_size = x0.size();
  ASSERT_EQ(gc_generate(engine_, &request_, &output_), GC_OK) << gc_last_error_message();
  std::vector<uint8_t> again(packed_.size()), mask(info_.clip_floats);
  ASSERT_EQ(gc_pack(x0.data(), x0.size(), 0.5f, again.data()), GC_OK);
  EXPECT_EQ(again, packed_);
  ASSERT_EQ(gc_unpack(packed_.data(), mask.size(), mask.data()), GC_OK);
  for (size_t i = 0; i < mask.size(); ++i) ASSERT_EQ(mask[i], x0[i] > 0 ? 1 : 0) << i;
}

TEST_F(CApi, NullPointersAreNamed) {
  gc_engine* opened = nullptr;
  EXPECT_STATUS(gc_engine_open(nullptr, nullptr, &opened), GC_INVALID_REQUEST, "path is NULL");
  EXPECT_STATUS(gc_engine_open("x", nullptr, nullptr), GC_INVALID_REQUEST, "engine is NULL");
  EXPECT_STATUS(gc_engine_info(nullptr, &info_), GC_INVALID_REQUEST, "engine is NULL");
  EXPECT_STATUS(gc_engine_info(engine_, nullptr), GC_INVALID_REQUEST, "gc_info is NULL");
  EXPECT_STATUS(gc_generate(nullptr, &request_, &output_), GC_INVALID_REQUEST, "engine is NULL");
  EXPECT_STATUS(gc_generate(engine_, nullptr, &output_), GC_INVALID_REQUEST, "gc_request is NULL");
  EXPECT_STATUS(gc_generate(engine_, &request_, nullptr), GC_INVALID_REQUEST, "gc_output is NULL");
  EXPECT_STATUS(gc_unet_forward(engine_, 1, nullptr, nullptr, nullptr, nullptr), GC_INVALID_REQUEST, "x is NULL");
  EXPECT_STATUS(gc_sampler_table(engine_, nullptr, nullptr, 0, nullptr), GC_INVALID_REQUEST, "count is NULL");
  EXPECT_STATUS(gc_noise_fill(0, 0, 0, nullptr, 4), GC_INVALID_REQUEST, "out is NULL");
  EXPECT_STATUS(gc_config_check(nullptr, 0, nullptr), GC_INVALID_REQUEST, "text is NULL");
  EXPECT_STATUS(gc_isa(nullptr), GC_INVALID_REQUEST, "name is NULL");
  output_.packed = nullptr;
  EXPECT_STATUS(gc_generate(engine_, &request_, &output_), GC_INVALID_REQUEST, "packed is NULL");
  gc_engine_close(nullptr);
}

TEST_F(CApi, StructsCarrySizeAndVersion) {
  gc_request small = request_;
  small.struct_size -= 8;
  EXPECT_STATUS(gc_generate(engine_, &small, &output_), GC_INVALID_REQUEST, "gc_request says size");
  gc_request newer = request_;
  newer.version = GC_ABI_VERSION + 1;
  EXPECT_STATUS(gc_generate(engine_, &newer, &output_), GC_UNSUPPORTED_VERSION,
                "gc_request is of version " + std::to_string(GC_ABI_VERSION + 1));
  gc_request older = request_;  // as a program has it that was built with the first header
  older.version = 1;
  older.struct_size = static_cast<uint32_t>(offsetof(gc_request, mode));
  older.mode = 77;
  EXPECT_EQ(gc_generate(engine_, &older, &output_), GC_OK);
  gc_request zeroed = {};
  EXPECT_STATUS(gc_generate(engine_, &zeroed, &output_), GC_INVALID_REQUEST, "gc_request_default()");
  gc_sampler sampler = {};
  request_.sampler = &sampler;
  EXPECT_STATUS(gc_generate(engine_, &request_, &output_), GC_INVALID_REQUEST, "gc_sampler says size");
  request_.sampler = &sampler_;
  gc_conditions conditions = {};
  request_.conditions = &conditions;
  EXPECT_STATUS(gc_generate(engine_, &request_, &output_), GC_INVALID_REQUEST, "gc_conditions says size");
  gc_options options = {};
  gc_engine* opened = engine_;
  EXPECT_STATUS(gc_engine_open((kFixtures + "tiny-walker").c_str(), &options, &opened), GC_INVALID_REQUEST,
                "gc_options");
  EXPECT_EQ(opened, nullptr);
}

TEST_F(CApi, BackendsAreChosenByName) {
  gc_backend who = gc_backend_default();
  ASSERT_EQ(gc_engine_backend(engine_, &who), GC_OK) << gc_last_error_message();
  EXPECT_STREQ(who.name, "native");
  EXPECT_EQ(who.batch, 1);
  EXPECT_STREQ(who.sha256, info_.model_sha256);
  EXPECT_STATUS(gc_engine_backend(engine_, nullptr), GC_INVALID_REQUEST, "gc_backend is NULL");

  const std::string folder = kFixtures + "tiny-walker";
  gc_options options = gc_options_default();
  gc_engine* opened = nullptr;
  options.backend = "warp";
  EXPECT_STATUS(gc_engine_open(folder.c_str(), &options, &opened), GC_INVALID_REQUEST, "allowed are \"native\"");
  options.backend = "native";
  options.batch = 4;
  EXPECT_STATUS(gc_engine_open(folder.c_str(), &options, &opened), GC_INVALID_REQUEST, "for other backends");
  options.batch = 257;
  EXPECT_STATUS(gc_engine_open(folder.c_str(), &options, &opened), GC_INVALID_REQUEST, "1 to 256");

  options = gc_options_default();  // as a program has it that was built with the first header
  options.version = 2;
  options.struct_size = static_cast<uint32_t>(offsetof(gc_options, backend));
  options.backend = "warp";
  ASSERT_EQ(gc_engine_open(folder.c_str(), &options, &opened), GC_OK) << gc_last_error_message();
  gc_engine_close(opened);
}

TEST_F(CApi, AModelIsDescribedWithoutBeingRun) {
  gc_options options = gc_options_default();
  options.backend = "none";
  gc_engine* described = nullptr;
  ASSERT_EQ(gc_engine_open((kFixtures + "tiny-walker").c_str(), &options, &described), GC_OK)
      << gc_last_error_message();
  gc_info info = gc_info_default();
  ASSERT_EQ(gc_engine_info(described, &info), GC_OK);
  EXPECT_EQ(info.clip_floats, info_.clip_floats);
  EXPECT_EQ(info.flops_per_call, info_.flops_per_call);
  EXPECT_STREQ(info.model_sha256, info_.model_sha256);
  gc_sampler resolved = gc_sampler_default();
  EXPECT_EQ(gc_sampler_resolve(described, &sampler_, &resolved), GC_OK);
  EXPECT_EQ(resolved.steps, 2);
  EXPECT_STATUS(gc_generate(described, &request_, &output_), GC_CAPABILITY, "only says what a model is");
  EXPECT_STATUS(gc_profile(described, 1), GC_CAPABILITY, "for backend \"native\"");
  gc_engine_close(described);
}

TEST_F(CApi, ModesMakeTheSameBits) {
  ASSERT_EQ(gc_generate(engine_, &request_, &output_), GC_OK);
  const std::vector<uint8_t> want(output_.packed, output_.packed + output_.packed_size);
  for (const int32_t mode : {GC_MODE_AUTO, GC_MODE_THROUGHPUT, GC_MODE_LATENCY}) {
    request_.mode = mode;
    std::fill_n(output_.packed, output_.packed_size, uint8_t{0});
    ASSERT_EQ(gc_generate(engine_, &request_, &output_), GC_OK);
    EXPECT_TRUE(std::equal(want.begin(), want.end(), output_.packed)) << mode;
  }
  request_.mode = 3;
  EXPECT_STATUS(gc_generate(engine_, &request_, &output_), GC_INVALID_REQUEST, "mode is 3; allowed are 0 (auto)");
}

TEST_F(CApi, ProfilesWhatItIsAskedTo) {
  size_t count = 99;
  ASSERT_EQ(gc_profile_rows(engine_, nullptr, 0, &count), GC_OK);
  EXPECT_EQ(count, 0u);
  ASSERT_EQ(gc_profile(engine_, 1), GC_OK);
  for (int k = 0; k < 2; ++k) ASSERT_EQ(gc_generate(engine_, &request_, &output_), GC_OK);
  ASSERT_EQ(gc_profile_rows(engine_, nullptr, 0, &count), GC_OK);
  std::vector<gc_profile_row> rows(count);
  ASSERT_EQ(gc_profile_rows(engine_, rows.data(), rows.size(), &count), GC_OK);
  gc_info info = gc_info_default();
  ASSERT_EQ(gc_engine_info(engine_, &info), GC_OK);
  double operations = 0, steps = 0;
  for (const gc_profile_row& r : rows) {
    EXPECT_GT(r.calls, 0u);
    operations += r.operations;
    if (std::string(r.op) == "sampler step") steps = static_cast<double>(r.calls);
  }
  EXPECT_DOUBLE_EQ(operations, steps * info.flops_per_call);
  EXPECT_STATUS(gc_profile(engine_, 2), GC_INVALID_REQUEST, "on is 2");
  ASSERT_EQ(gc_profile(engine_, 0), GC_OK);
  ASSERT_EQ(gc_profile_rows(engine_, nullptr, 0, &count), GC_OK);
  EXPECT_EQ(count, 0u);
}

TEST_F(CApi, RefusesBadRequests) {
  const auto generate = [&](auto change) {
    gc_request r = request_;
    gc_sampler s = sampler_;
    r.sampler = &s;
    change(r, s);
    return gc_generate(engine_, &r, &output_);
  };
  EXPECT_STATUS(generate([](auto& r, auto&) { r.count = 0; }), GC_INVALID_REQUEST, "count is 0");
  EXPECT_STATUS(generate([](auto& r, auto&) { r.count = 1u << 21; }), GC_INVALID_REQUEST, "1 to 1048576");
  EXPECT_STATUS(generate([](auto& r, auto&) { r.threshold = 1.5f; }), GC_INVALID_REQUEST, "threshold");
  EXPECT_STATUS(generate([](auto&, auto& s) { s.kind = 5; }), GC_INVALID_REQUEST, "sampler kind is 5");
  EXPECT_STATUS(generate([](auto&, auto& s) { s.steps = -4; }), GC_INVALID_REQUEST, "steps is -4");
  EXPECT_STATUS(generate([](auto&, auto& s) { s.steps = 1001; }), GC_INVALID_REQUEST, "steps is 1001");
  EXPECT_STATUS(generate([](auto&, auto& s) { s.eta = NAN; }), GC_INVALID_REQUEST, "eta is not a number");
  EXPECT_STATUS(generate([](auto&, auto& s) { s.eta = 2; }), GC_INVALID_REQUEST, "eta is 2");
  EXPECT_STATUS(generate([](auto&, auto& s) { s.spacing = -2; }), GC_INVALID_REQUEST, "spacing is -2");
  EXPECT_STATUS(generate([](auto&, auto& s) { s.thresholding = 9; }), GC_INVALID_REQUEST, "thresholding is 9");
  EXPECT_STATUS(generate([](auto&, auto& s) { s.rederive_eps = 2; }), GC_INVALID_REQUEST, "rederive_eps is 2");
  EXPECT_STATUS(generate([](auto&, auto& s) { s.thresholding = GC_THRESHOLDING_DYNAMIC, s.dynamic_percentile = 1; }),
                GC_INVALID_REQUEST, "dynamic_percentile");
  EXPECT_STATUS(generate([](auto&, auto& s) { s.guidance = 101; }), GC_INVALID_REQUEST, "guidance is 101");
  EXPECT_STATUS(generate([](auto&, auto& s) { s.null_axes = 16; }), GC_INVALID_REQUEST, "null_axes 16");
  float x0 = 0;
  output_.x0 = &x0;
  EXPECT_STATUS(generate([](auto&, auto&) {}), GC_INVALID_REQUEST, "x0_size is 0");
  output_.x0_size = 1;
  EXPECT_STATUS(generate([](auto&, auto&) {}), GC_INVALID_REQUEST, "x0 buffer has 1 floats");
  output_.x0 = nullptr;
  EXPECT_STATUS(generate([](auto&, auto&) {}), GC_INVALID_REQUEST, "x0 is NULL");
  output_.x0_size = 0;
  output_.packed_size -= 1;
  EXPECT_STATUS(generate([](auto&, auto&) {}), GC_INVALID_REQUEST, "packed buffer has 767 bytes");
}

TEST_F(CApi, SamplerTableAndDefaults) {
  size_t count = 0;
  gc_sampler_row rows[3] = {};
  sampler_.steps = 5;
  ASSERT_EQ(gc_sampler_table(engine_, &sampler_, rows, 2, &count), GC_OK);
  EXPECT_EQ(count, 5u);
  EXPECT_EQ(rows[0].timestep, 999);
  EXPECT_EQ(rows[2].timestep, 0) << "beyond the capacity";
  gc_sampler resolved = gc_sampler_default();
  sampler_.kind = GC_SAMPLER_DPMPP_2M;
  ASSERT_EQ(gc_sampler_resolve(engine_, &sampler_, &resolved), GC_OK);
  EXPECT_EQ(resolved.kind, GC_SAMPLER_DPMPP_2M);
  EXPECT_EQ(resolved.steps, 5);
  EXPECT_EQ(resolved.eta, 0);
  EXPECT_EQ(resolved.thresholding, GC_THRESHOLDING_CLIP);
  EXPECT_EQ(resolved.guidance, 1);
  EXPECT_EQ(resolved.null_axes, 15u);
}

TEST_F(CApi, ForwardChecksItsArguments) {
  std::vector<float> x(info_.clip_floats), out(info_.clip_floats);
  int32_t t = 1000;
  EXPECT_STATUS(gc_unet_forward(engine_, 1, x.data(), &t, nullptr, out.data()), GC_INVALID_REQUEST,
                "timestep 1000 is outside 0..999");
  t = -1;
  EXPECT_STATUS(gc_unet_forward(engine_, 1, x.data(), &t, nullptr, out.data()), GC_INVALID_REQUEST, "timestep -1");
  EXPECT_STATUS(gc_unet_forward(engine_, 0, x.data(), &t, nullptr, out.data()), GC_INVALID_REQUEST, "count is 0");
  t = 0;
  EXPECT_EQ(gc_unet_forward(engine_, 1, x.data(), &t, nullptr, out.data()), GC_OK);
}

TEST_F(CApi, CallbackCancels) {
  request_.progress = [](void* user, const gc_progress* p) {
    EXPECT_EQ(p->steps_total, 2u);
    ++*static_cast<int*>(user);
    return 1;
  };
  int calls = 0;
  request_.progress_user = &calls;
  EXPECT_STATUS(gc_generate(engine_, &request_, &output_), GC_CANCELLED, "cancelled by the progress callback");
  EXPECT_EQ(calls, 1);
}

TEST_F(CApi, ErrorMessagesAreOfTheirThread) {
  EXPECT_EQ(gc_engine_info(nullptr, &info_), GC_INVALID_REQUEST);
  std::thread([] { EXPECT_STREQ(gc_last_error_message(), ""); }).join();
  EXPECT_STRNE(gc_last_error_message(), "");
}

TEST(CApiFree, OpenSaysWhatIsWrong) {
  gc_engine* engine = nullptr;
  EXPECT_STATUS(gc_engine_open("/no/such", nullptr, &engine), GC_MODEL_FORMAT, "no such model folder");
  const std::string weights = kFixtures + "tiny-walker/model.safetensors";
  EXPECT_STATUS(gc_engine_open(weights.c_str(), nullptr, &engine), GC_MODEL_FORMAT, "safetensors file by itself");
  gc_options options = gc_options_default();
  options.device = "tpu";
  EXPECT_STATUS(gc_engine_open((kFixtures + "tiny-walker").c_str(), &options, &engine), GC_CAPABILITY,
                "device \"tpu\"");
  // A long path may not overrun the message.
  EXPECT_EQ(gc_engine_open(std::string(100000, 'p').c_str(), nullptr, &engine), GC_MODEL_FORMAT);
  EXPECT_LT(std::string(gc_last_error_message()).size(), 1024u);
}

TEST(CApiFree, PackingIsNumpys) {
  const float x[] = {1, -1, 0.1f, 0, -0.1f, 1, 1, 1, 0.5f, -1};
  uint8_t packed[2] = {0xFF, 0xFF}, mask[10];
  ASSERT_EQ(gc_pack(x, 10, 0.5f, packed), GC_OK);
  EXPECT_EQ(packed[0], 0b10100111);
  EXPECT_EQ(packed[1], 0b10000000);
  ASSERT_EQ(gc_unpack(packed, 10, mask), GC_OK);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(mask[i], x[i] > 0 ? 1 : 0);
  const float bad[] = {NAN};
  EXPECT_STATUS(gc_pack(bad, 1, 0.5f, packed), GC_INVALID_REQUEST, "not finite");
  EXPECT_STATUS(gc_pack(x, 10, 2.0f, packed), GC_INVALID_REQUEST, "threshold");
}

TEST(CApiFree, NoiseDependsOnItsKeyAlone) {
  std::vector<float> a(1001), b(10);
  ASSERT_EQ(gc_noise_fill(7, 3, 2, a.data(), a.size()), GC_OK);
  ASSERT_EQ(gc_noise_fill(7, 3, 2, b.data(), b.size()), GC_OK);
  EXPECT_TRUE(std::equal(b.begin(), b.end(), a.begin()));
  ASSERT_EQ(gc_noise_fill(7, 4, 2, b.data(), b.size()), GC_OK);
  EXPECT_FALSE(std::equal(b.begin(), b.end(), a.begin()));
}

TEST(CApiFree, ConfigAndIsa) {
  const std::string good = R"({"format": "gaitcrafter-model"})",
                    newer = R"({"format": "gaitcrafter-model", "format_version": 3})";
  EXPECT_EQ(gc_config_check(good.data(), good.size(), nullptr), GC_OK);
  EXPECT_STATUS(gc_config_check(newer.data(), newer.size(), "x.json"), GC_UNSUPPORTED_VERSION, "x.json");
  EXPECT_STATUS(gc_config_check(good.data(), 5, "x.json"), GC_MODEL_FORMAT, "x.json: not JSON");
  const char* name = nullptr;
  ASSERT_EQ(gc_isa(&name), GC_OK);
  int supported = 0;
  ASSERT_EQ(gc_isa_supported(name, &supported), GC_OK);
  EXPECT_EQ(supported, 1);
  ASSERT_EQ(gc_isa_supported("portable", &supported), GC_OK);
  EXPECT_EQ(supported, 1);
  EXPECT_STATUS(gc_isa_supported("sse9", &supported), GC_INVALID_REQUEST, "sse9");
  double rate = 0;
  ASSERT_EQ(gc_processor_rate("fp32", nullptr, &rate), GC_OK);
  EXPECT_GT(rate, 1e8);
  EXPECT_STATUS(gc_processor_rate("bf16", "portable", &rate), GC_CAPABILITY, "no bf16 products");
  EXPECT_STATUS(gc_processor_rate("fp64", nullptr, &rate), GC_INVALID_REQUEST, "arithmetic is \"fp64\"");
  ASSERT_EQ(gc_precision_supported("fp32", &supported), GC_OK);
  EXPECT_EQ(supported, 1);
  EXPECT_STATUS(gc_precision_supported("fp8", &supported), GC_INVALID_REQUEST, "fp8");
}

}  // namespace
