// Files in the cache that somebody damaged, forged or put there.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "cache/packed_cache_test.h"
#include "testing/packages.h"
#include "unet/packed_plan.h"

namespace gaitcrafter {
namespace {

// The file of a measured plan, and what the cache finds of it.
class Hostile : public Cache {
 protected:
  Hostile() {
    WeightStore measuring = WeightStore::measuring(layout_);
    const OpTable& ops = op_table(Isa::kPortable, Precision::kFp32);
    build_plan(*shapes_only(folder()->config(), ""), Precision::kFp32, ops, ops, measuring);
    open(model_);
    file_ = only_file();
    bytes_ = read_file(file_);
    key_ = packed_key(*folder(), Isa::kPortable, Precision::kFp32);
  }
  std::shared_ptr<const ModelFolder> folder() const { return ModelFolder::open(model_); }
  bool found() const { return static_cast<bool>(PackedCache().find(key_, layout_)); }
  bool found_as(const std::string& bytes) const {
    write_file(file_, bytes);
    return found();
  }
  // The user's run goes on, and the next one finds a good file again.
  void expect_replaced() const {
    EXPECT_EQ(open(model_), WeightsFrom::kWritten);
    EXPECT_EQ(open(model_), WeightsFrom::kCache);
    EXPECT_EQ(read_file(file_), bytes_);
  }

  const std::string model_ = make_model();
  ArrayLayout layout_;
  fs::path file_;
  std::string bytes_, key_;
};

TEST_F(Hostile, AnyByteOfTheHeader) {
  ASSERT_TRUE(found_as(bytes_));
  const int fd = ::open(file_.c_str(), O_WRONLY);
  for (size_t i = 0; i < kPackedHeaderBytes; ++i) {
    for (const char flip : {'\x01', '\x80'}) {
      const char byte = static_cast<char>(bytes_[i] ^ flip);
      ASSERT_EQ(::pwrite(fd, &byte, 1, static_cast<off_t>(i)), 1);
      EXPECT_FALSE(found()) << i;
    }
    ASSERT_EQ(::pwrite(fd, &bytes_[i], 1, static_cast<off_t>(i)), 1);
  }
  ::close(fd);
  EXPECT_TRUE(found());
}

TEST_F(Hostile, AnyByteOfTheArrays) {
  std::string changed = bytes_;
  for (size_t i = kPackedHeaderBytes; i < bytes_.size(); i += 211) {
    changed[i] = static_cast<char>(changed[i] ^ 4);
    EXPECT_FALSE(found_as(changed)) << i;
    changed[i] = bytes_[i];
  }
  changed[changed.size() - 1] ^= 1;
  write_file(file_, changed);
  expect_replaced();
}

TEST_F(Hostile, TruncatedOrLonger) {
  for (size_t size = 0; size < bytes_.size(); size += size < 200 ? 1 : 509)
    EXPECT_FALSE(found_as(bytes_.substr(0, size))) << size;
  EXPECT_FALSE(found_as(bytes_.substr(0, bytes_.size() - 1)));
  EXPECT_FALSE(found_as(bytes_ + '\0'));
  EXPECT_FALSE(found_as(bytes_ + bytes_));
  EXPECT_FALSE(found_as(std::string(bytes_.size(), '\0')));
  expect_replaced();
}

TEST_F(Hostile, TheFileOfAnotherKey) {
  open(model_, Precision::kFp32Winograd);
  for (const fs::path& other : files(".packed")) {
    if (other == file_) continue;
    EXPECT_FALSE(found_as(read_file(other)));
  }
  expect_replaced();
}

TEST_F(Hostile, OtherArraysThanTheFileHas) {
  ArrayLayout same_bytes;
  for (const size_t size : layout_.sizes()) same_bytes.add(size > 64 ? size - 1 : size);
  ASSERT_EQ(same_bytes.bytes(), layout_.bytes());
  EXPECT_FALSE(PackedCache().find(key_, same_bytes));
  layout_.add(64);
  EXPECT_FALSE(found());
}

TEST_F(Hostile, SymlinkIsReplacedAndItsTargetLeftAlone) {
  const fs::path target = folder_.path() / "elsewhere";
  fs::rename(file_, target);
  fs::create_symlink(target, file_);
  EXPECT_FALSE(found());
  expect_replaced();
  EXPECT_FALSE(fs::is_symlink(file_));
  EXPECT_EQ(read_file(target), bytes_);
}

TEST_F(Hostile, FifoDoesNotHang) {
  fs::remove(file_);
  ASSERT_EQ(::mkfifo(file_.c_str(), 0600), 0);
  EXPECT_FALSE(found());
  expect_replaced();
}

TEST_F(Hostile, FolderInItsPlaceMeansMemory) {
  fs::remove(file_);
  fs::create_directories(file_ / "x");
  EXPECT_EQ(open(model_), WeightsFrom::kMemory);
  EXPECT_EQ(leftovers(), 0);
}

TEST_F(Hostile, FilesThatOthersMayWrite) {
  fs::permissions(file_, fs::perms(0620));
  EXPECT_FALSE(found());
  expect_replaced();
  if (::geteuid() != 0) GTEST_SKIP() << "giving a file to another user takes root";
  ASSERT_EQ(::chown(file_.c_str(), 12345, static_cast<gid_t>(-1)), 0);
  EXPECT_FALSE(found());
  expect_replaced();
}

// Never an error for the run.
}  // namespace
}  // namespace gaitcrafter
