// A clip cache as strangers may hand it over: tests/fixtures/cache-version-1, copied and tampered with.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <sstream>

#include "model/sha256.h"
#include "reader/clip_reader.h"
#include "sampler/pack.h"
#include "testing/throws.h"

namespace gaitcrafter {
namespace {

namespace fs = std::filesystem;

const fs::path kFixture = fs::path(GAITCRAFTER_SOURCE_DIR) / "tests/fixtures/cache-version-1";

std::string slurp(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void spill(const fs::path& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary);
  out << text;
}

std::string sum(const std::string& text) { return sha256_hex(std::as_bytes(std::span(text.data(), text.size()))); }

// A copy of the fixture whose checksums fit whatever was changed: what a hostile maker would hand over.
class Tampered : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::temp_directory_path() / (std::string("gc-reader-") + test->name() + std::to_string(::getpid()));
    fs::remove_all(folder_);
    fs::copy(kFixture, folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  void replace(const std::string& file, const std::string& from, const std::string& to) {
    std::string text = slurp(folder_ / file);
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    spill(folder_ / file, text);
    reseal();
  }
  void reseal() const {
    spill(folder_ / "checksums.json", R"({"format_version": 1, "sha256": {"cache.json": ")" +
                                          sum(slurp(folder_ / "cache.json")) + R"(", "index.bin": ")" +
                                          sum(slurp(folder_ / "index.bin")) + "\"}}");
  }
  void edit(const std::string& file, const std::function<void(std::string&)>& change) const {
    std::string data = slurp(folder_ / file);
    change(data);
    spill(folder_ / file, data);
    reseal();
  }
  ClipReader open() const { return ClipReader(folder_.string(), Isa::kPortable); }

  fs::path folder_;
};

TEST(Decode, EveryInstructionSetGivesTheBitsOfUnpack) {
  std::mt19937 random(7);
  for (const size_t pixels : {1u, 7u, 8u, 9u, 63u, 64u, 65u, 127u, 500u, 4096u, 30u * 64 * 64}) {
    std::vector<uint8_t> packed((pixels + 7) / 8), mask(pixels);
    for (auto& byte : packed) byte = static_cast<uint8_t>(random());
    unpack_clip(packed.data(), pixels, mask.data());
    for (const Isa isa : kIsas) {
      if (!isa_supported(isa)) continue;
      // One byte more than needed, so that a write past the end is seen.
      std::vector<uint8_t> bytes(pixels + 1, 77);
      std::vector<float> floats(pixels + 1, 77.0f);
      decode_table(isa).to_uint8(packed.data(), pixels, 255, bytes.data());
      decode_table(isa).to_float(packed.data(), pixels, 0.5f, floats.data());
      for (size_t i = 0; i < pixels; ++i) {
        ASSERT_EQ(bytes[i], mask[i] != 0 ? 255 : 0) << isa_name(isa) << " pixel " << i << " of " << pixels;
        ASSERT_EQ(floats[i], mask[i] != 0 ? 0.5f : 0.0f) << isa_name(isa) << " pixel " << i << " of " << pixels;
      }
      EXPECT_EQ(bytes[pixels], 77);
      EXPECT_EQ(floats[pixels], 77.0f);
    }
  }
}

TEST(Reader, ReadsTheFixtureInAnyOrder) {
  const ClipReader reader(kFixture.string(), Isa::kPortable);
  const std::string silhouettes = slurp(kFixture / "silhouettes.bin");
  const uint64_t each = reader.meta().clip_bytes, pixels = reader.meta().pixels();
  ASSERT_EQ(silhouettes.size(), reader.clips() * each);
  reader.verify();
  const std::vector<uint64_t> order = {reader.clips() - 1, 0, 2, 2};
  std::vector<std::byte> packed(order.size() * each), bytes(order.size() * pixels);
  reader.read(order, PixelType::kPacked, 1, packed);
  reader.read(order, PixelType::kUint8, 1, bytes);
  for (size_t k = 0; k < order.size(); ++k) {
    const auto* bits = reinterpret_cast<const uint8_t*>(silhouettes.data()) + order[k] * each;
    EXPECT_EQ(std::memcmp(packed.data() + k * each, bits, each), 0);
    std::vector<uint8_t> mask(pixels);
    unpack_clip(bits, pixels, mask.data());
    EXPECT_EQ(std::memcmp(bytes.data() + k * pixels, mask.data(), pixels), 0);
  }
  EXPECT_EQ(reader.records(0, reader.clips()).size(), reader.clips());
  const auto& views = reader.meta().labels[2];
  ASSERT_FALSE(views.empty());
  EXPECT_EQ(reader.find_label(2, views.back()), static_cast<int32_t>(views.size()) - 1);
}

TEST(Reader, RefusesWhatIsOutsideBeforeItWrites) {
  const ClipReader reader(kFixture.string(), Isa::kPortable);
  const uint64_t n = reader.clips(), pixels = reader.meta().pixels();
  std::vector<std::byte> out(2 * pixels, std::byte{9});
  const std::vector<uint64_t> beyond = {0, n}, two = {0, 1}, huge = {0, UINT64_MAX};
  EXPECT_ERROR(reader.read(beyond, PixelType::kUint8, 255, out), kInvalidRequest, "is outside 0..");
  EXPECT_ERROR(reader.read(huge, PixelType::kUint8, 255, out), kInvalidRequest, "is outside 0..");
  EXPECT_ERROR(reader.read(two, PixelType::kUint8, 255, std::span(out).first(out.size() - 1)), kInvalidRequest,
               "exactly");
  EXPECT_ERROR(reader.read(two, PixelType::kUint8, 0, out), kInvalidRequest, "1 to 255");
  EXPECT_ERROR(reader.read(two, PixelType::kUint8, 1.5, out), kInvalidRequest, "1 to 255");
  std::vector<std::byte> floats(2 * pixels * 4 + 1);
  EXPECT_ERROR(reader.read(two, PixelType::kFloat, NAN, std::span(floats).first(2 * pixels * 4)), kInvalidRequest,
               "finite");
  EXPECT_ERROR(reader.read(two, PixelType::kFloat, 1, std::span(floats).subspan(1)), kInvalidRequest, "aligned");
  EXPECT_ERROR(reader.packed(n), kInvalidRequest, "is outside 0..");
  EXPECT_ERROR(reader.records(1, n), kInvalidRequest, "the cache holds clips");
  EXPECT_ERROR(reader.records(UINT64_MAX, 2), kInvalidRequest, "the cache holds clips");
  EXPECT_ERROR(reader.find_label(1, "nobody"), kInvalidRequest, "\"nobody\" is not one");
  for (const std::byte b : out) ASSERT_EQ(b, std::byte{9});
}

TEST_F(Tampered, DocumentsAreReadStrictly) {
  replace("cache.json", "\"format_version\": 1", "\"format_version\": 2");
  EXPECT_ERROR(open(), kUnsupportedVersion, "format_version 2 is newer");
  replace("cache.json", "\"format_version\": 2", "\"format_version\": true");
  EXPECT_ERROR(open(), kDataFormat, "format_version must be");
  replace("cache.json", "\"format_version\": true", "\"format_version\": 1");
  open();
  const std::string good = slurp(folder_ / "cache.json");
  const std::pair<const char*, const char*> changes[] = {
      {"gaitcrafter-cache", "gaitcrafter-model"},
      {"\"clips\":", "\"clips\": 0, \"klips\":"},
      {"\"clips\":", "\"clips\": 4294967297, \"x\":"},
      {"\"frames\":", "\"frames\": 513, \"x\":"},
      {"\"height\":", "\"height\": -1, \"x\":"},
      {"\"width\":", "\"width\": 1.5, \"x\":"},
      {"\"clip_bytes\":", "\"clip_bytes\": 1, \"x\":"},
      {"\"chunk_clips\":", "\"chunk_clips\": 1, \"x\":"},
      {"\"origins\": [", "\"origins\": [], \"x\": ["},
      {"\"labels\": {", "\"labels\": {\"x\": 1}, \"y\": {"},
      {"\"view\": [", "\"view\": [3,"},
      {"\"chunks_sha256\": [", "\"chunks_sha256\": 3, \"x\": ["},
  };
  for (const auto& [from, to] : changes) {
    spill(folder_ / "cache.json", good);
    std::string text = good;
    // The last one counts, as of a key that is given twice: the plan of an origin has some of these names too.
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    text.replace(at, std::string(from).size(), to);
    spill(folder_ / "cache.json", text);
    reseal();
    try {
      open();
      ADD_FAILURE() << to;
    } catch (const Error& e) {
      EXPECT_EQ(e.status(), Status::kDataFormat) << to << ": " << e.what();
    }
  }
  spill(folder_ / "cache.json", std::string(100, '['));
  reseal();
  EXPECT_ERROR(open(), kDataFormat, "nested deeper");
  spill(folder_ / "cache.json", "");
  reseal();
  EXPECT_ERROR(open(), kDataFormat, "not JSON");
}

TEST_F(Tampered, ChecksumsAndSizes) {
  std::string index = slurp(folder_ / "index.bin");
  index[3] = static_cast<char>(index[3] ^ 1);
  spill(folder_ / "index.bin", index);
  EXPECT_ERROR(open(), kDataFormat, "index.bin: its SHA-256");
  reseal();
  open();  // a clip index may be any number
  edit("index.bin", [](std::string& d) { d.pop_back(); });
  EXPECT_ERROR(open(), kDataFormat, "bytes there; cache.json promises");
  fs::remove(folder_ / "index.bin");
  EXPECT_ERROR(open(), kDataFormat, "no such file");
  fs::copy(kFixture / "index.bin", folder_ / "index.bin");
  std::string cache = slurp(folder_ / "cache.json");
  cache += " ";
  spill(folder_ / "cache.json", cache);
  EXPECT_ERROR(open(), kDataFormat, "cache.json: its SHA-256");
}

TEST_F(Tampered, NumbersOfTheIndexMustBeInRange) {
  const auto with = [&](size_t at, uint32_t value) {
    fs::copy(kFixture / "index.bin", folder_ / "index.bin", fs::copy_options::overwrite_existing);
    edit("index.bin", [&](std::string& d) { std::memcpy(d.data() + 40 + at, &value, sizeof value); });
  };
  for (const size_t label : {16u, 20u, 24u, 28u}) {
    with(label, 1u << 30);
    EXPECT_ERROR(open(), kDataFormat, "clip 1 has the");
    with(label, static_cast<uint32_t>(-2));
    EXPECT_ERROR(open(), kDataFormat, "clip 1 has the");
  }
  with(32, 7);
  EXPECT_ERROR(open(), kDataFormat, "is of origin 7");
}

TEST_F(Tampered, VerifyFindsEveryFlippedBit) {
  const std::string good = slurp(folder_ / "silhouettes.bin");
  for (size_t at = 0; at < good.size(); at += 37) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ (1 << at % 8));
    spill(folder_ / "silhouettes.bin", bad);
    const ClipReader reader = open();
    EXPECT_ERROR(reader.verify(), kDataFormat, "do not fit their SHA-256");
  }
}

TEST_F(Tampered, FilesThatAreNone) {
  fs::remove(folder_ / "silhouettes.bin");
  fs::create_directory(folder_ / "silhouettes.bin");
  EXPECT_ERROR(open(), kDataFormat, "not a regular file");
  EXPECT_ERROR(ClipReader("/no/such/folder", Isa::kPortable), kDataFormat, "no such file");
}

// Random damage of every document, with checksums that fit: never a crash, never another kind of error.
TEST_F(Tampered, RandomDamageIsRefusedOrHarmless) {
  std::mt19937 random(11);
  for (const char* name : {"cache.json", "index.bin"}) {
    const std::string good = slurp(kFixture / name);
    for (int round = 0; round < 300; ++round) {
      std::string bad = good;
      for (int k = 0; k < 3; ++k) bad[random() % bad.size()] = static_cast<char>(random());
      if (round % 5 == 0) bad.resize(random() % bad.size());
      spill(folder_ / name, bad);
      reseal();
      try {
        const ClipReader reader = open();
        std::vector<std::byte> out(reader.meta().pixels());
        const std::vector<uint64_t> last = {reader.clips() - 1};
        reader.read(last, PixelType::kUint8, 255, out);
      } catch (const Error& e) {
        EXPECT_TRUE(e.status() == Status::kDataFormat || e.status() == Status::kUnsupportedVersion) << e.what();
      }
    }
    spill(folder_ / name, good);
  }
}

TEST(DecodeClips, SizesMustFit) {
  std::vector<uint8_t> packed(4);
  std::vector<std::byte> out(20);
  const DecodeTable& table = decode_table(Isa::kPortable);
  decode_clips(table, packed, 2, 10, PixelType::kUint8, 255, out);
  EXPECT_ERROR(decode_clips(table, packed, 3, 10, PixelType::kUint8, 255, out), kInvalidRequest, "packed bytes");
  EXPECT_ERROR(decode_clips(table, packed, 2, 10, PixelType::kUint8, 255, std::span(out).first(19)), kInvalidRequest,
               "exactly");
  EXPECT_ERROR(decode_clips(table, packed, 2, 0, PixelType::kUint8, 255, out), kInvalidRequest, "0 pixels");
}

TEST(DecodeRows, TakesClipsInTheOrderAskedFor) {
  const std::vector<uint8_t> packed = {0xff, 0xc0, 0x00, 0x40, 0x80, 0x00};  // three clips of ten pixels
  const DecodeTable& table = decode_table(Isa::kPortable);
  const std::vector<uint64_t> rows = {2, 0, 2};
  std::vector<std::byte> out(30, std::byte{9}), want(30, std::byte{0});
  want[0] = want[20] = std::byte{7};
  std::fill_n(want.begin() + 10, 10, std::byte{7});
  decode_rows(table, packed, rows, 10, PixelType::kUint8, 7, out);
  EXPECT_EQ(out, want);
  const std::vector<uint64_t> outside = {0, 1, 3}, negative = {0, 1, static_cast<uint64_t>(-1)};
  std::fill(out.begin(), out.end(), std::byte{9});
  EXPECT_ERROR(decode_rows(table, packed, outside, 10, PixelType::kUint8, 7, out), kInvalidRequest,
               "clip 3 is outside 0..2");
  EXPECT_ERROR(decode_rows(table, packed, negative, 10, PixelType::kUint8, 7, out), kInvalidRequest, "outside 0..2");
  EXPECT_ERROR(decode_rows(table, std::span(packed).first(5), rows, 10, PixelType::kUint8, 7, out), kInvalidRequest,
               "no whole number of clips");
  EXPECT_ERROR(decode_rows(table, packed, rows, 10, PixelType::kUint8, 7, std::span(out).first(29)), kInvalidRequest,
               "exactly");
  EXPECT_ERROR(decode_rows(table, packed, rows, 10, PixelType::kUint8, 0, out), kInvalidRequest, "1 to 255");
  for (const std::byte b : out) ASSERT_EQ(b, std::byte{9});
}

}  // namespace
}  // namespace gaitcrafter
