#include "backends/tensorrt/engine_cache.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "cache/cache_folder.h"
#include "core/error.h"
#include "model/json_fields.h"
#include "model/sha256.h"

namespace gaitcrafter {
namespace {

constexpr std::string_view kMagic = "GCTRTENG", kSuffix = ".engine";
constexpr size_t kStart = 12;  // magic and the header's length
constexpr uint32_t kLargestHeader = 1u << 16;
constexpr const char* kAnew = "; remove it, and build it anew";

[[noreturn]] void damaged(const std::string& path, const std::string& why) {
  throw Error(Status::kDataFormat, path + why + kAnew);
}

std::string key_text(const EngineKey& key) {
  std::string out;
  for (const auto& [name, value] : key) out += name + " " + value + "\n";  // a map is in the order of names
  return out;
}

bool read_at(int fd, void* to, size_t bytes, size_t from) {
  auto* at = static_cast<char*>(to);
  while (bytes > 0) {
    const ssize_t n = ::pread(fd, at, bytes, static_cast<off_t>(from));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n;
    from += static_cast<size_t>(n);
    bytes -= static_cast<size_t>(n);
  }
  return true;
}

struct Header {
  EngineKey key;
  std::string sha256;
  uint64_t bytes = 0;
  size_t begin = 0;  // of the engine
};

Header read_header(int fd, uint64_t size, const std::string& path) {
  char start[kStart];
  if (size < kStart || !read_at(fd, start, kStart, 0) || std::memcmp(start, kMagic.data(), kMagic.size()) != 0)
    damaged(path, " is no engine of this package");
  uint32_t length = 0;
  std::memcpy(&length, start + kMagic.size(), sizeof length);
  std::string text(length <= kLargestHeader ? length : 0, '\0');
  if (length > kLargestHeader || length > size - kStart || !read_at(fd, text.data(), length, kStart))
    damaged(path, ": its header is said to have " + std::to_string(length) + " bytes");
  Header out;
  int version = 0;
  try {
    const nlohmann::json root = parse_json(text, path, 3, 64);
    version = root.at("format_version").get<int>();
    for (const auto& [name, value] : root.at("key").items()) out.key.emplace(name, value.get<std::string>());
    out.sha256 = root.at("sha256").get<std::string>();
    out.bytes = root.at("bytes").get<uint64_t>();
  } catch (const Error& e) {
    damaged(path, ": its header cannot be read (" + std::string(e.what()) + ")");
  } catch (const nlohmann::json::exception& e) {
    damaged(path, ": its header cannot be read (" + std::string(e.what()) + ")");
  }
  if (version != 1) damaged(path, ": format_version is " + std::to_string(version) + ", this release reads 1");
  out.begin = kStart + length;
  return out;
}

// Stricter than for packed weights, which nobody runs: others may not even look into the folder.
CacheFolder private_folder() {
  CacheFolder folder = CacheFolder::look("engines");
  if (!folder.usable()) throw Error(Status::kCapability, "there are no engines: " + folder.problem());
  struct stat info {};
  if (::lstat(folder.path().c_str(), &info) == 0 && (!S_ISDIR(info.st_mode) || (info.st_mode & 077) != 0)) {
    throw Error(Status::kCapability,
                folder.path() +
                    " is no folder of yours alone; engines are machine code, so none is read from there: chmod 700 it "
                    "if it is yours, or set GAITCRAFTER_CACHE to another");
  }
  return folder;
}

// What engines of the same graph there are: ", but for sm_89 ... with batch 8:8:8".
std::string others(const CacheFolder& folder, const EngineKey& key) {
  std::set<std::string> found;
  for (const CacheFolder::Entry& entry : folder.list()) {
    if (!entry.name.ends_with(kSuffix) || found.size() >= 8) continue;
    uint64_t size = 0;
    const FileDescriptor file = folder.open_file(entry.name, &size);
    if (!file) continue;
    try {
      EngineKey other = read_header(file.get(), size, entry.name).key;
      if (other["graph"] != key.at("graph")) continue;
      found.insert(other["gpu"] + " by " + other["library"] + " with batch " + other["profiles"]);
    } catch (const Error&) {  // damaged ones are none
    }
  }
  std::string out;
  for (const std::string& text : found) out += (out.empty() ? "; there are engines of it for " : ", for ") + text;
  return out;
}

}  // namespace

std::string engine_key_hash(const EngineKey& key) {
  const std::string text = key_text(key);
  return sha256_hex(std::as_bytes(std::span(text)));
}

CachedEngine find_engine(const EngineKey& key, const std::string& remedy) {
  const CacheFolder folder = private_folder();
  const std::string name = engine_key_hash(key) + std::string(kSuffix), path = folder.path() + "/" + name;
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) {
    throw Error(Status::kCapability, "no engine for this GPU (" + key.at("gpu") + ", " + key.at("library") +
                                         ", batch " + key.at("profiles") + ") in " + folder.path() +
                                         others(folder, key) + "; " + remedy);
  }
  uint64_t size = 0;
  const FileDescriptor file = folder.open_file(name, &size);
  if (!file) damaged(path, " is no file that you alone may write");
  const Header header = read_header(file.get(), size, path);
  if (header.key != key) damaged(path, " holds an engine for something else");
  CachedEngine out;
  if (header.bytes != size - header.begin) damaged(path, " is damaged: its size does not fit");
  out.bytes.resize(header.bytes);
  if (!read_at(file.get(), out.bytes.data(), out.bytes.size(), header.begin)) damaged(path, " cannot be read");
  out.sha256 = sha256_hex(out.bytes);
  if (out.sha256 != header.sha256) damaged(path, " is damaged: its checksum does not fit");
  return out;
}

}  // namespace gaitcrafter
