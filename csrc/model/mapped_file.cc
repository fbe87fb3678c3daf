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

}  // namespace

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
  size_ = static_cast<size_t>(info.st_size);
  if (size_ == 0) return;
  void* data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (data == MAP_FAILED) {
    throw Error(errno == ENOMEM ? Status::kOutOfMemory : Status::kModelFormat,
                path + ": cannot map " + std::to_string(size_) + " bytes: " + std::strerror(errno));
  }
  data_ = data;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

}  // namespace gaitcrafter
