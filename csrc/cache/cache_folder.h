// The folder of packed weights: where it is, that nobody else can write it, and how large it may become.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace gaitcrafter {

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd = -1) : fd_(fd) {}
  ~FileDescriptor();
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_;
};

// $GAITCRAFTER_CACHE, $XDG_CACHE_HOME/gaitcrafter-rt or ~/.cache/gaitcrafter-rt, and "packed" in it.
// GAITCRAFTER_CACHE=off is no folder. Nothing here throws: a cache that cannot be used is one that is not there, and
// problem() says why.
class CacheFolder {
 public:
  // Makes the folder, with mode 0700, if it is not there.
  static CacheFolder open();
  // Looks only; `below` names a folder beside "packed".
  static CacheFolder look(const std::string& below = kPacked);

  bool usable() const { return problem_.empty(); }
  const std::string& path() const { return path_; }  // "" if there can be none
  const std::string& problem() const { return problem_; }

  struct Entry {
    std::string name;
    int64_t used = 0;  // seconds since 1970
    uint64_t bytes = 0;
  };
  // The regular files in it.
  std::vector<Entry> list() const;

  // A regular file of this user that nobody else may write. `size`, if wanted, is its size now.
  FileDescriptor open_file(const std::string& name, uint64_t* size = nullptr) const;

  // Writes a new file and puts it under its name in one step, in place of what is there. The file is on the disk then,
  // and stays open for reading; nothing if any of that failed.
  FileDescriptor publish(const std::string& name, const void* data, size_t bytes) const;

  // Says that a file was used: the least recently used ones are removed first.
  static void touch(const FileDescriptor& file);

  // Removes what runs that were killed left behind, notes that nobody used for 90 days, and packed weights until no
  // more than `limit` bytes are left; not `spared`.
  void prune(uint64_t limit, const std::string& spared) const;

 private:
  CacheFolder(bool make, const std::string& below);
  static constexpr const char* kPacked = "packed";

  std::string path_, problem_;
  FileDescriptor folder_;
};

inline constexpr const char *kPackedSuffix = ".packed", *kVerifiedSuffix = ".verified";

}  // namespace gaitcrafter
