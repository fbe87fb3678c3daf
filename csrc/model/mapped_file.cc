#include "model/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace gaitcrafter {

namespace {

struct Descriptor {
  int fd = -1;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  throw Error(Status::kModelFormat, path + ": " + why);
}

FileIdentity identity_of(const struct stat& info) {
  const auto nanoseconds = [](const timespec& t) { return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec; };
  return {static_cast<uint64_t>(info.st_dev), static_cast<uint64_t>(info.st_ino), static_cast<uint64_t>(info.st_size),
          nanoseconds(info.st_mtim), nanoseconds(info.st_ctim)};
}

}  // namespace

FileIdentity file_identity(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 ? identity_of(info) : FileIdentity{};
}

MappedFile::MappedFile(const std::string& path, uint64_t max_bytes) : path_(path) {
  // Non-blocking: a FIFO in a hostile folder must not hang the open.
  Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0)
    refuse(path, errno == ENOENT ? "no such file" : std::string("cannot be read: ") + std::strerror(errno));
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) refuse(path, std::string("cannot be read: ") + std::strerror(errno));
  if (!S_ISREG(info.st_mode)) refuse(path, "not a regular file");
  if (static_cast<uint64_t>(info.st_size) > max_bytes) {
    refuse(path, std::to_string(info.st_size) + " bytes; at most " + std::to_string(max_bytes) + " are allowed");
  }
  identity_ = identity_of(info);
  size_ = static_cast<size_t>(info.st_size);
  if (size_ == 0) return;
  void* data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (data == MAP_FAILED) {
    throw Error(errno == ENOMEM ? Status::kOutOfMemory : Status::kModelFormat,
                path + ": cannot map " + std::to_string(size_) + " bytes: " + std::strerror(errno));
  }
  data_ = data;
}

void MappedFile::release_pages() const {
  if (data_ != nullptr) ::madvise(data_, size_, MADV_DONTNEED);  // advice: nothing is lost if it is not taken
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

}  // namespace gaitcrafter
