#include "cache/cache_folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <vector>

namespace gaitcrafter {
namespace {

constexpr const char* kTemporary = ".new-";
constexpr time_t kAbandoned = 3600;  // seconds after which nobody is writing a temporary file any more
constexpr time_t kFresh = 3600;      // a use is noted once in so many seconds
constexpr time_t kForgotten = 90 * 24 * 3600;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

struct Place {
  std::string path, problem;
};

// Folder `below` of the cache.
Place place(const std::string& below) {
  const std::string own = variable("GAITCRAFTER_CACHE"), shared = variable("XDG_CACHE_HOME"), home = variable("HOME");
  if (own == "off") return {"", "switched off by GAITCRAFTER_CACHE=off"};
  if (!own.empty()) {
    if (own[0] != '/') return {"", "GAITCRAFTER_CACHE is \"" + own + "\"; give a path from / on, or \"off\""};
    return {own + "/" + below, ""};
  }
  if (!shared.empty() && shared[0] == '/') return {shared + "/gaitcrafter-rt/" + below, ""};
  if (!home.empty() && home[0] == '/') return {home + "/.cache/gaitcrafter-rt/" + below, ""};
  return {"", "neither GAITCRAFTER_CACHE nor XDG_CACHE_HOME nor HOME names a folder"};
}

void make_folders(const std::string& path) {
  for (size_t at = path.find('/', 1); at != std::string::npos; at = path.find('/', at + 1))
    ::mkdir(path.substr(0, at).c_str(), 0700);  // whether it is there shows when it is opened
  ::mkdir(path.c_str(), 0700);
}

// Of a folder that is not there: whether the nearest one that is would take it.
bool may_be_made(std::string path) {
  while (path.size() > 1 && ::access(path.c_str(), F_OK) != 0) path.resize(std::max<size_t>(path.rfind('/'), 1));
  return ::faccessat(AT_FDCWD, path.c_str(), W_OK | X_OK, AT_EACCESS) == 0;
}

bool only_ours(const struct stat& info) { return info.st_uid == ::geteuid() && (info.st_mode & 022) == 0; }

bool write_all(int fd, const void* data, size_t bytes) {
  const char* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = ::write(fd, at, std::min<size_t>(bytes, size_t{1} << 30));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n;
    bytes -= static_cast<size_t>(n);
  }
  return true;
}

// A write beyond this limit would end the process with a signal.
bool allowed_size(size_t bytes) {
  rlimit limit{};
  return ::getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY || bytes <= limit.rlim_cur;
}

std::string temporary_name() {
  uint64_t random = 0;
  if (::getrandom(&random, sizeof random, 0) != sizeof random) random = static_cast<uint64_t>(::time(nullptr));
  return kTemporary + std::to_string(::getpid()) + "-" + std::to_string(random);
}

}  // namespace

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

CacheFolder::CacheFolder(bool make, const std::string& below) {
  Place at = place(below);
  path_ = std::move(at.path);
  problem_ = std::move(at.problem);
  if (path_.empty()) return;
  if (make) make_folders(path_);
  folder_ = FileDescriptor(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  struct stat info {};
  if (!folder_ || ::fstat(folder_.get(), &info) != 0) {
    const int why = errno;
    if (make || why != ENOENT || !may_be_made(path_))
      problem_ = path_ + " cannot be opened or made: " + std::strerror(why);
  } else if (!only_ours(info)) {
    problem_ = path_ + " belongs to another user or may be written by others; make it yours with mode 0700";
  } else if (::faccessat(folder_.get(), ".", W_OK, AT_EACCESS) != 0) {
    problem_ = path_ + " cannot be written: " + std::strerror(errno);
  }
}

CacheFolder CacheFolder::open() { return CacheFolder(true, kPacked); }
CacheFolder CacheFolder::look(const std::string& below) { return CacheFolder(false, below); }

std::vector<CacheFolder::Entry> CacheFolder::list() const {
  std::vector<Entry> out;
  const int again = folder_ ? ::openat(folder_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
  if (again < 0) return out;
  const std::unique_ptr<DIR, int (*)(DIR*)> reader(::fdopendir(again), &::closedir);
  if (!reader) {
    ::close(again);
    return out;
  }
  while (const dirent* item = ::readdir(reader.get())) {
    struct stat info {};
    if (::fstatat(folder_.get(), item->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(info.st_mode))
      out.push_back({item->d_name, info.st_mtime, static_cast<uint64_t>(info.st_size)});
  }
  return out;
}

FileDescriptor CacheFolder::open_file(const std::string& name, uint64_t* size) const {
  // Non-blocking, because a FIFO would wait for its writer.
  FileDescriptor file(::openat(folder_.get(), name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat info {};
  if (!file || ::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode) || !only_ours(info)) return FileDescriptor();
  if (size != nullptr) *size = static_cast<uint64_t>(info.st_size);
  return file;
}

FileDescriptor CacheFolder::publish(const std::string& name, const void* data, size_t bytes) const {
  if (!folder_ || !allowed_size(bytes)) return FileDescriptor();
  const std::string temporary = temporary_name();
  FileDescriptor file(
      ::openat(folder_.get(), temporary.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) return file;
  // Without fsync a page that could not be written later would turn into what was there before, under a running engine.
  if (write_all(file.get(), data, bytes) && ::fsync(file.get()) == 0 &&
      ::renameat(folder_.get(), temporary.c_str(), folder_.get(), name.c_str()) == 0)
    return file;
  ::unlinkat(folder_.get(), temporary.c_str(), 0);
  return FileDescriptor();
}

void CacheFolder::touch(const FileDescriptor& file) {
  struct stat info {};
  if (::fstat(file.get(), &info) == 0 && ::time(nullptr) - info.st_mtime > kFresh) ::futimens(file.get(), nullptr);
}

void CacheFolder::prune(uint64_t limit, const std::string& spared) const {
  if (!folder_) return;
  std::vector<Entry> packed;
  uint64_t total = 0;
  for (Entry& e : list()) {
    const int64_t age = ::time(nullptr) - e.used;
    if ((e.name.starts_with(kTemporary) && age > kAbandoned) || (e.name.ends_with(kVerifiedSuffix) && age > kForgotten))
      ::unlinkat(folder_.get(), e.name.c_str(), 0);
    if (!e.name.ends_with(kPackedSuffix)) continue;
    total += e.bytes;
    if (e.name != spared) packed.push_back(std::move(e));
  }
  std::sort(packed.begin(), packed.end(), [](const Entry& a, const Entry& b) { return a.used < b.used; });
  for (const Entry& e : packed) {
    if (total <= limit) break;
    if (::unlinkat(folder_.get(), e.name.c_str(), 0) == 0) total -= e.bytes;
  }
}

}  // namespace gaitcrafter
