// A regular file mapped read-only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace gaitcrafter {

// What a file system says of one state of a file. Writing changes a time that a program cannot set back (`changed`), so
// equal identities mean equal bytes, except for changes within the clock's grain (csrc/cache/packed_cache.h).
struct FileIdentity {
  uint64_t device = 0, inode = 0, size = 0;
  int64_t modified_ns = 0, changed_ns = 0;
  bool operator==(const FileIdentity&) const = default;
};

// Of what lies at `path` now; all zero if that cannot be said.
FileIdentity file_identity(const std::string& path);

class MappedFile {
 public:
  // Throws kModelFormat if `path` is absent, unreadable, no regular file, or larger than `max_bytes`.
  MappedFile(const std::string& path, uint64_t max_bytes);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }
  std::string_view text() const { return {static_cast<const char*>(data_), size_}; }
  const std::string& path() const { return path_; }
  const FileIdentity& identity() const { return identity_; }  // when it was opened

  // Gives back the memory of the pages that were read; the next access reads them again.
  void release_pages() const;

 private:
  std::string path_;
  FileIdentity identity_;
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace gaitcrafter
