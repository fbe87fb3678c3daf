#include "cache/packed_cache.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "cache/build_id.h"
#include "cache/damage_sum.h"
#include "cache/packed_cache_test.h"
#include "engine/engine.h"
#include "testing/packages.h"
#include "testing/throws.h"
#include "unet/packed_plan.h"

namespace gaitcrafter {
namespace {

std::vector<uint8_t> clips(const std::string& model, const std::string& precision, WeightsFrom from) {
  EngineOptions options;
  options.precision = precision;
  options.threads = 1;
  Engine engine(model, options);
  EXPECT_EQ(engine.weights_from(), from) << precision;
  GenerateRequest r;
  r.seed = 3;
  r.count = 2;
  r.sampler = engine.config().sampler;
  r.sampler.steps = 3;
  std::vector<uint8_t> packed(r.count * engine.packed_bytes());
  std::vector<float> x0(r.count * engine.clip_floats());
  engine.generate(r, {packed, x0});
  const auto* bytes = reinterpret_cast<const uint8_t*>(x0.data());
  packed.insert(packed.end(), bytes, bytes + x0.size() * sizeof(float));
  return packed;
}

// x_0's floats too, so that a difference which the threshold hides shows.
TEST_F(Cache, GivesTheBitsOfPackingInEveryTier) {
  const std::string quantised = make_model(
      R"(, "format_version": 2, "quantisation": {"layers": ["ups.1.blocks.0.conv1", "mid_block1.conv2"], "clips": 3})");
  for (const Precision precision : kPrecisions) {
    if (!precision_supported(precision, choose_isa())) continue;
    const std::string name(precision_name(precision));
    for (const std::string& model : {quantised, testing::fixture("tiny-paper"), testing::fixture("tiny-walker"),
                                     testing::fixture("tiny-maps"), testing::fixture("tiny-paper-rms")}) {
      if (precision == Precision::kInt8 && model != quantised) continue;
      fs::remove_all(root_);
      ::setenv("GAITCRAFTER_CACHE", "off", 1);
      const auto want = clips(model, name, WeightsFrom::kMemory);
      ::setenv("GAITCRAFTER_CACHE", root_.c_str(), 1);
      EXPECT_EQ(clips(model, name, WeightsFrom::kWritten), want) << model << " " << name;
      EXPECT_EQ(clips(model, name, WeightsFrom::kCache), want) << model << " " << name;
    }
  }
}

TEST_F(Cache, EveryTierAndModelHasItsOwnFile) {
  const std::string model = make_model();
  EXPECT_EQ(open(model), WeightsFrom::kWritten);
  EXPECT_EQ(open(model, Precision::kFp32Winograd), WeightsFrom::kWritten);
  EXPECT_EQ(open(testing::fixture("tiny-walker")), WeightsFrom::kWritten);
  size_t expected = 3;
  if (isa_supported(Isa::kAvx2)) {
    EXPECT_EQ(open(model, Precision::kFp32, Isa::kAvx2), WeightsFrom::kWritten);
    ++expected;
  }
  EXPECT_EQ(files(".packed").size(), expected);
  // Another config beside the same weights.
  std::string config = testing::tiny_config();
  config.replace(config.find("\"name\": \"tiny\""), 14, "\"name\": \"tony\"");
  write_file(fs::path(model) / "config.json", config);
  testing::write_checksums(model);
  EXPECT_EQ(open(model), WeightsFrom::kWritten);
  EXPECT_EQ(report_cache(ModelFolder::open(model)->sha256()).entries, expected) << "tiny-walker is not of this model";
  EXPECT_EQ(report_cache("").entries, expected + 1);
  EXPECT_FALSE(build_id().empty());
}

TEST_F(Cache, FolderAndFilesAreTheUsersAlone) {
  open(make_model());
  struct stat info {};
  ASSERT_EQ(::stat(packed_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0700u);
  ASSERT_EQ(::stat(only_file().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600u);
}

TEST_F(Cache, AFolderThatCannotBeUsed) {
  const std::string model = make_model();
  const auto unusable = [&](const char* why) {
    EXPECT_EQ(open(model), WeightsFrom::kMemory) << why;
    EXPECT_NE(report_cache("").problem.find(why), std::string::npos) << report_cache("").problem;
  };
  write_file(root_, "a file");
  unusable("Not a directory");
  fs::remove(root_);
  fs::create_directories(packed_);
  fs::permissions(packed_, fs::perms(0777));
  unusable("may be written by others");
  ::setenv("GAITCRAFTER_CACHE", "relative/path", 1);
  unusable("give a path from / on");
  ::setenv("GAITCRAFTER_CACHE", "off", 1);
  unusable("switched off");
  ::setenv("GAITCRAFTER_CACHE", "/proc/no/such", 1);
  EXPECT_EQ(open(model), WeightsFrom::kMemory);
  if (::geteuid() == 0) return;  // root writes everywhere
  ::setenv("GAITCRAFTER_CACHE", root_.c_str(), 1);
  fs::permissions(packed_, fs::perms(0500));
  unusable("cannot be written");
}

TEST_F(Cache, WhereItIs) {
  const auto at = [] { return report_cache("").folder; };
  EXPECT_EQ(at(), packed_);
  ::unsetenv("GAITCRAFTER_CACHE");
  const std::string home = std::getenv("HOME") == nullptr ? "" : std::getenv("HOME");
  ::setenv("XDG_CACHE_HOME", "/x", 1);
  EXPECT_EQ(at(), "/x/gaitcrafter-rt/packed");
  ::setenv("XDG_CACHE_HOME", "not/absolute", 1);
  ::setenv("HOME", "/h", 1);
  EXPECT_EQ(at(), "/h/.cache/gaitcrafter-rt/packed");
  ::unsetenv("XDG_CACHE_HOME");
  ::unsetenv("HOME");
  EXPECT_EQ(at(), "");
  EXPECT_NE(report_cache("").problem, "");
  if (!home.empty()) ::setenv("HOME", home.c_str(), 1);
  EXPECT_FALSE(fs::exists(packed_)) << "looking makes nothing";
}

// A full disk and a quota look alike: the write falls short.
TEST_F(Cache, AFileSizeLimitMeansMemory) {
  const std::string model = make_model();
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit limit{2000, 2000};
    ::setrlimit(RLIMIT_FSIZE, &limit);  // the signal that comes with it ends a process by default
    ::_exit(open(model) == WeightsFrom::kMemory ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_TRUE(files(".packed").empty());
}

TEST_F(Cache, ProcessesMayWriteAtOnce) {
  const std::string model = make_model();
  int gate[2];
  ASSERT_EQ(::pipe(gate), 0);
  std::vector<pid_t> children;
  for (int i = 0; i < 6; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::close(gate[1]);
      char byte;
      (void)!::read(gate[0], &byte, 1);  // all begin when the writing end closes
      for (int k = 0; k < 5; ++k) open(model);
      ::_exit(open(model) == WeightsFrom::kCache ? 0 : 1);
    }
    children.push_back(child);
  }
  ::close(gate[0]);
  ::close(gate[1]);
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }
  only_file();
  EXPECT_EQ(open(model), WeightsFrom::kCache);
  EXPECT_EQ(leftovers(), 0);
}

TEST_F(Cache, AMappedFileOutlivesItsRemoval) {
  const std::string model = make_model();
  open(model);
  WeightsSource source(ModelFolder::open(model));
  const auto unet = UNet::create(source, Isa::kPortable, Precision::kFp32);
  ASSERT_EQ(unet->weights_from(), WeightsFrom::kCache);
  fs::remove_all(root_);
  EXPECT_NE(unet->prepare_time(std::vector<int32_t>{5}), nullptr);
}

// What a note trusts: the state of the file that was read, and nothing else.
TEST_F(Cache, AChangedModelIsReadAgain) {
  const std::string model = make_model();
  const fs::path weights = fs::path(model) / "model.safetensors";
  const auto noted = [&] { return PackedCache().verified(*ModelFolder::open(model)); };
  EXPECT_EQ(open(model), WeightsFrom::kWritten);
  EXPECT_FALSE(noted()) << "written a moment ago: another change could hide within the clock's grain";
  std::this_thread::sleep_for(std::chrono::milliseconds(2100));
  EXPECT_EQ(open(model), WeightsFrom::kCache);
  EXPECT_TRUE(noted());

  // The same bytes at another time: read again, still the same packed weights.
  const std::string good = read_file(weights);
  fs::last_write_time(weights, fs::last_write_time(weights) - std::chrono::hours(1));
  EXPECT_FALSE(noted());
  EXPECT_EQ(open(model), WeightsFrom::kCache);

  // Other bytes of the same size and with the old time: ctime gives it away.
  const auto time = fs::last_write_time(weights);
  std::string bad = good;
  bad[bad.size() - 2] ^= 1;
  write_file(weights, bad);
  fs::last_write_time(weights, time);
  EXPECT_FALSE(noted());
  EXPECT_ERROR(open(model), kModelFormat, "SHA-256 is");
  // And with checksums that fit it is another model.
  testing::write_checksums(model);
  EXPECT_EQ(open(model), WeightsFrom::kWritten);
}

TEST_F(Cache, AForgedOrDamagedNoteCountsForNothing) {
  const std::string model = testing::fixture("tiny-walker");
  const auto noted = [&] { return PackedCache().verified(*ModelFolder::open(model)); };
  open(model);
  ASSERT_TRUE(noted()) << "fixtures are older than two seconds";
  const fs::path note = files(".verified").at(0);
  const std::string text = read_file(note);
  for (size_t i = 0; i < text.size(); i += 3) {
    std::string changed = text;
    changed[i] ^= 1;
    write_file(note, changed);
    EXPECT_FALSE(noted()) << i;
    write_file(note, text.substr(0, i));
    EXPECT_FALSE(noted()) << i;
  }
  write_file(note, text + "\n");
  EXPECT_FALSE(noted());
  EXPECT_EQ(open(model), WeightsFrom::kCache);
  EXPECT_TRUE(noted());
}

TEST_F(Cache, RemovesTheLeastRecentlyUsedAndLeftovers) {
  const auto put = [&](const std::string& name, size_t bytes, int hours) {
    write_file(packed_ / name, std::string(bytes, 'x'));
    fs::last_write_time(packed_ / name, fs::file_time_type::clock::now() - std::chrono::hours(hours));
  };
  const CacheFolder folder = CacheFolder::open();
  put("a.packed", 1000, 3), put("b.packed", 1000, 5), put("c.packed", 1000, 1), put("new.packed", 1500, 9);
  put(".new-1-2", 10, 2), put(".new-3-4", 10, 0);
  put("old.verified", 10, 91 * 24), put("young.verified", 10, 89 * 24), put("stranger", 10, 9999);
  const auto names = [&] {
    std::string all;
    std::vector<CacheFolder::Entry> list = folder.list();
    std::sort(list.begin(), list.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    for (const auto& e : list) all += e.name + " ";
    return all;
  };
  folder.prune(10000, "new.packed");
  EXPECT_EQ(names(), ".new-3-4 a.packed b.packed c.packed new.packed stranger young.verified ");
  folder.prune(3000, "new.packed");
  EXPECT_EQ(names(), ".new-3-4 c.packed new.packed stranger young.verified ");
  folder.prune(0, "new.packed");
  EXPECT_EQ(names(), ".new-3-4 new.packed stranger young.verified ");
}

TEST_F(Cache, AUseIsNoted) {
  const std::string model = make_model();
  open(model);
  const auto old = fs::file_time_type::clock::now() - std::chrono::hours(50);
  fs::last_write_time(only_file(), old);
  EXPECT_EQ(open(model), WeightsFrom::kCache);
  EXPECT_GT(fs::last_write_time(only_file()), old + std::chrono::hours(49));
}

TEST(DamageSum, SeesEveryChangedByteAndLength) {
  std::string data(777, '\0');
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 7);
  const auto sum = [](const std::string& s) { return damage_sum(std::as_bytes(std::span(s))); };
  const uint64_t want = sum(data);
  for (size_t i = 0; i < data.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string changed = data;
      changed[i] = static_cast<char>(changed[i] ^ 1 << bit);
      EXPECT_NE(sum(changed), want) << i;
    }
    EXPECT_NE(sum(data.substr(0, i)), want) << i;
  }
  EXPECT_NE(sum(data + '\0'), want);
  std::string swapped = data;
  std::swap_ranges(swapped.begin(), swapped.begin() + 64, swapped.begin() + 64);
  EXPECT_NE(sum(swapped), want);
}

}  // namespace
}  // namespace gaitcrafter
