#include "model/safetensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "testing/packages.h"
#include "testing/throws.h"

namespace gaitcrafter {
namespace {

using testing::RawTensor;
using testing::safetensors;
using testing::with_header;

const std::vector<TensorSpec> kTwo = {{"a", {2, 3}}, {"b", {4}}};

std::string floats(std::initializer_list<float> values) {
  return {reinterpret_cast<const char*>(values.begin()), values.size() * sizeof(float)};
}

std::vector<RawTensor> two() {
  return {{"a", "F32", "[2,3]", floats({1, 2, 3, 4, 5, 6})}, {"b", "F32", "[4]", floats({7, 8, 9, 10})}};
}

class Safetensors : public ::testing::Test {
 protected:
  WeightsFile open(const std::string& bytes) {
    const auto path = folder_.path() / "model.safetensors";
    testing::write_file(path, bytes);
    return WeightsFile(std::make_shared<const MappedFile>(path.string(), 1 << 30), kTwo);
  }

  // A header for tensors a and b with these offsets, over 40 bytes of data.
  std::string offsets(const std::string& a, const std::string& b) {
    return with_header(R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":)" + a +
                           R"(},"b":{"dtype":"F32","shape":[4],"data_offsets":)" + b + "}}",
                       std::string(40, '\0'));
  }

  testing::TempFolder folder_;
};

TEST_F(Safetensors, ReadsFloat32InAnyOrder) {
  auto tensors = two();
  std::swap(tensors[0], tensors[1]);
  const WeightsFile file = open(safetensors(tensors, R"({"format":"pt","made by":"x"})"));
  EXPECT_EQ(file.values(0)[5], 6.0f);
  EXPECT_EQ(file.values(1)[0], 7.0f);
}

TEST_F(Safetensors, ReadsUnalignedData) {
  std::string header =
      R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"F32","shape":[4],"data_offsets":[24,40]}})";
  while (header.size() % 4 != 1) header += ' ';
  const WeightsFile file = open(with_header(header, two()[0].data + two()[1].data));
  EXPECT_EQ(file.values(0)[0], 1.0f);
  EXPECT_EQ(file.values(1)[3], 10.0f);
}

TEST_F(Safetensors, ConvertsHalfTypes) {
  const uint16_t half[] = {0x3C00, 0xC000, 0x0001, 0x7BFF, 0x8000, 0x03FF}, brain[] = {0x3F80, 0xC000, 0x0080, 0x7F7F};
  auto tensors = two();
  tensors[0] = {"a", "F16", "[2,3]", std::string(reinterpret_cast<const char*>(half), sizeof half)};
  tensors[1] = {"b", "BF16", "[4]", std::string(reinterpret_cast<const char*>(brain), sizeof brain)};
  const WeightsFile file = open(safetensors(tensors));
  const float a[] = {1.0f, -2.0f, 0x1p-24f, 65504.0f, -0.0f, 1023 * 0x1p-24f};
  EXPECT_EQ(std::memcmp(file.values(0), a, sizeof a), 0);
  EXPECT_EQ(file.values(1)[1], -2.0f);
  EXPECT_EQ(file.values(1)[2], std::numeric_limits<float>::min());
}

// The compiler's own conversion judges all 65,536 values.
TEST(HalfToFloat, Exhaustive) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const uint16_t h = static_cast<uint16_t>(bits);
    _Float16 value;
    std::memcpy(&value, &h, sizeof h);
    const float want = static_cast<float>(value), got = half_to_float(h);
    if (std::isnan(want)) {
      EXPECT_TRUE(std::isnan(got)) << bits;
    } else {
      EXPECT_EQ(std::memcmp(&want, &got, sizeof got), 0) << bits;
    }
  }
}

TEST_F(Safetensors, RefusesOtherFiles) {
  EXPECT_ERROR(open(""), kModelFormat, "too short");
  EXPECT_ERROR(open("1234567"), kModelFormat, "too short");
  EXPECT_ERROR(open(std::string(100, '\xFF')), kModelFormat, "cut short");
  EXPECT_ERROR(open(std::string(8, '\0')), kModelFormat, "does not start with {");
  EXPECT_ERROR(open("PK\x03\x04 zip archive of torch.save"), kModelFormat, "gaitcrafter-rt convert");
  EXPECT_ERROR(open("\x80\x02}q\x01(X\x05 old pickle"), kModelFormat, "gaitcrafter-rt convert");
  const std::string good = safetensors(two());
  EXPECT_ERROR(open(good.substr(0, good.size() - 1)), kModelFormat, "cut short");
  EXPECT_ERROR(open(good + "x"), kModelFormat, "belong to no tensor");
}

TEST_F(Safetensors, RefusesHeaderLengthsBeyondTheFile) {
  std::string bytes = safetensors(two());
  for (const uint64_t n : {uint64_t{1} << 20, uint64_t{1} << 63, UINT64_MAX, UINT64_MAX - 7, uint64_t{100'000'001}}) {
    std::memcpy(bytes.data(), &n, 8);
    EXPECT_ERROR(open(bytes), kModelFormat, "a header of");
  }
}

TEST_F(Safetensors, RefusesBadHeaders) {
  const std::string data(40, '\0');
  const char* headers[] = {"",
                           "[]",
                           "{",
                           "{}x",
                           R"({"a":1})",
                           R"({"a":[]})",
                           R"({"a":{}})",
                           R"({"a":{"dtype":"F32"}})",
                           R"({"__metadata__":1})",
                           R"({"__metadata__":{"k":1}})",
                           R"({"__metadata__":{"k":{}}})",
                           R"({"a":{"shape":[2,3],"data_offsets":[0,24]}})",
                           R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0]}})",
                           R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24,40]}})",
                           R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[-1,24]}})",
                           R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24.0]}})",
                           R"({"a":{"dtype":"F32","shape":[2,[3]],"data_offsets":[0,24]}})",
                           R"({"a":{"dtype":"F32","shape":"23","data_offsets":[0,24]}})",
                           R"({"a":{"dtype":1,"shape":[2,3],"data_offsets":[0,24]}})",
                           R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24],"x":1}})",
                           R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,24]}})",
                           R"({"a":null})",
                           "{\"\xFF\":1}",
                           R"({"a":{"dtype":"F32","shape":[18446744073709551615,3],"data_offsets":[0,24]}})"};
  for (const char* header : headers) EXPECT_ERROR(open(with_header(header, data)), kModelFormat, "model.safetensors: ");
  EXPECT_ERROR(open(with_header(std::string(3'000'000, '['), data)), kModelFormat, "model.safetensors: ");
  EXPECT_ERROR(open(with_header("{\"a\":" + std::string(3'000'000, '{'), data)), kModelFormat, "model.safetensors: ");
  std::string nul = offsets("[0,24]", "[24,40]").substr(8);
  nul.insert(nul.size() - 40, 2, '\0');
  EXPECT_ERROR(open(with_header(nul.substr(0, nul.size() - 40), data)), kModelFormat, "NUL");
}

TEST_F(Safetensors, RefusesOtherTensors) {
  auto tensors = two();
  tensors.push_back({"c", "F32", "[1]", floats({1})});
  EXPECT_ERROR(open(safetensors(tensors)), kModelFormat, "does not have: \"c\"");
  EXPECT_ERROR(open(safetensors({two()[0]})), kModelFormat, "lacks the tensor b [4]");
  EXPECT_ERROR(open(safetensors({two()[0], two()[0], two()[1]})), kModelFormat, "twice");
  tensors = two();
  tensors[0].shape = "[3,2]";
  EXPECT_ERROR(open(safetensors(tensors)), kModelFormat, "a has shape [3, 2]; this config needs [2, 3]");
  for (const char* dtype : {"F64", "I32", "F8_E4M3", "f32", "BOOL"}) {
    tensors = two();
    tensors[0].dtype = dtype;
    EXPECT_ERROR(open(safetensors(tensors)), kModelFormat, "must be F32, F16 or BF16");
  }
}

TEST_F(Safetensors, RefusesOffsetsThatOverlapOrLeaveGaps) {
  EXPECT_NO_THROW(open(offsets("[0,24]", "[24,40]")));
  EXPECT_NO_THROW(open(offsets("[16,40]", "[0,16]")));
  EXPECT_ERROR(open(offsets("[0,24]", "[16,32]")), kModelFormat, "overlap");
  EXPECT_ERROR(open(offsets("[0,24]", "[0,16]")), kModelFormat, "overlap");
  EXPECT_ERROR(open(offsets("[8,32]", "[32,48]")), kModelFormat, "gaps");
  EXPECT_ERROR(open(offsets("[0,24]", "[28,44]")), kModelFormat, "gaps");
  EXPECT_ERROR(open(offsets("[0,20]", "[24,40]")), kModelFormat, "do not span the 24 bytes");
  EXPECT_ERROR(open(offsets("[24,0]", "[24,40]")), kModelFormat, "do not span");
  EXPECT_ERROR(open(offsets("[0,24]", "[9223372036854775791,9223372036854775807]")), kModelFormat, "gaps");
}

TEST_F(Safetensors, RefusesValuesThatAreNotFinite) {
  for (const float bad : {INFINITY, -INFINITY, NAN}) {
    auto tensors = two();
    tensors[1].data = floats({1, 2, bad, 4});
    EXPECT_ERROR(open(safetensors(tensors)), kModelFormat, "b[2] is not finite");
  }
  auto tensors = two();
  tensors[1] = {"b", "F16", "[4]", std::string("\x00\x3C\x00\x7C\x00\x3C\x00\x3C", 8)};
  EXPECT_ERROR(open(safetensors(tensors)), kModelFormat, "b[1] is not finite");
}

// Any single wrong byte of a header either changes nothing that counts or is refused; it never reads out of bounds
// (the sanitizer builds watch that).
TEST_F(Safetensors, SurvivesEverySingleByteChange) {
  const std::string good = safetensors(two());
  int refused = 0;
  for (size_t i = 0; i < good.size() - 40; ++i) {
    for (const char c : {'9', '"', '{', '\xFF'}) {
      std::string bytes = good;
      bytes[i] = c;
      try {
        const WeightsFile file = open(bytes);
        EXPECT_TRUE(std::isfinite(file.values(0)[5]));
      } catch (const Error& e) {
        EXPECT_EQ(static_cast<int>(e.status()), static_cast<int>(Status::kModelFormat));
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, 300);
}

}  // namespace
}  // namespace gaitcrafter
