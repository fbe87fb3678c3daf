#include "reader/cache_files.h"

#include "core/error.h"
#include "model/json_fields.h"
#include "model/mapped_file.h"
#include "model/sha256.h"

namespace gaitcrafter {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxMetaBytes = 64u << 20, kMaxChecksumBytes = 64u << 10;
constexpr size_t kMaxValues = 1u << 23;
constexpr int kMaxDepth = 16;
constexpr int64_t kMaxClips = int64_t{1} << 32;

[[noreturn]] void refuse(const std::string& message) { throw Error(Status::kDataFormat, message); }

const json& field(const json& object, const std::string& name, const std::string& source) {
  const auto it = object.find(name);
  if (it == object.end()) refuse(source + ": no field " + name);
  return *it;
}

int64_t whole(const json& object, const std::string& name, int64_t low, int64_t high, const std::string& source) {
  const json& value = field(object, name, source);
  if (!integer_in(value, low, high)) {
    refuse(source + ": " + name + " must be an integer from " + std::to_string(low) + " to " + std::to_string(high) +
           " (got " + brief(value) + ")");
  }
  return value.get<int64_t>();
}

std::vector<std::string> texts(const json& object, const std::string& name, const std::string& source) {
  const json& list = field(object, name, source);
  if (!list.is_array()) refuse(source + ": " + name + " must be a list");
  std::vector<std::string> out;
  out.reserve(list.size());
  for (const json& entry : list) {
    if (!entry.is_string()) refuse(source + ": " + name + " must be a list of texts (got " + brief(entry) + ")");
    out.push_back(entry.get<std::string>());
  }
  return out;
}

json parse(const MappedFile& file, const std::string& source) {
  json root = parse_json(file.text(), source, kMaxDepth, kMaxValues);
  if (!root.is_object()) refuse(source + ": must be an object");
  return root;
}

void check_version(const json& root, const std::string& source) {
  const json& format = field(root, "format", source);
  if (!format.is_string() || format.get_ref<const std::string&>() != "gaitcrafter-cache")
    refuse(source + ": not the document of a clip cache");
  const json& version = field(root, "format_version", source);
  if (version.is_number_integer() && !integer_in(version, INT64_MIN, 1)) {
    throw Error(Status::kUnsupportedVersion, source + ": format_version " + brief(version) +
                                                 " is newer than 1, the newest this release reads; upgrade "
                                                 "gaitcrafter-rt");
  }
  whole(root, "format_version", 1, 1, source);
}

CacheMeta read(const std::string& folder) {
  const MappedFile sums_file(folder + "/checksums.json", kMaxChecksumBytes);
  const json sums = parse(sums_file, sums_file.path());
  const json& wanted = field(sums, "sha256", sums_file.path());
  const auto sum = [&](const char* name) {
    const json& value = field(wanted, name, sums_file.path());
    if (!value.is_string()) refuse(sums_file.path() + ": the sha256 of " + name + " must be a text");
    return value.get<std::string>();
  };

  const MappedFile file(folder + "/cache.json", kMaxMetaBytes);
  const std::string& source = file.path();
  const json root = parse(file, source);
  check_version(root, source);
  if (sha256_hex(file.bytes()) != sum("cache.json"))
    refuse(source + ": its SHA-256 is not that of checksums.json; the file was changed or damaged");

  CacheMeta meta;
  meta.clips = static_cast<uint64_t>(whole(root, "clips", 1, kMaxClips, source));
  meta.frames = static_cast<int32_t>(whole(root, "frames", 1, 512, source));
  meta.height = static_cast<int32_t>(whole(root, "height", 4, 512, source));
  meta.width = static_cast<int32_t>(whole(root, "width", 4, 512, source));
  const auto bytes = static_cast<int64_t>((meta.pixels() + 7) / 8);
  meta.clip_bytes = static_cast<uint64_t>(whole(root, "clip_bytes", bytes, bytes, source));
  const json& labels = field(root, "labels", source);
  for (int a = 0; a < kAxes; ++a)
    meta.labels[static_cast<size_t>(a)] = texts(labels, std::string(kAxisNames[static_cast<size_t>(a)]), source);
  const json& origins = field(root, "origins", source);
  if (!origins.is_array() || origins.empty()) refuse(source + ": origins must be a list that is not empty");
  meta.origins = origins.size();
  meta.chunk_clips = static_cast<uint64_t>(whole(root, "chunk_clips", 1, kMaxClips, source));
  meta.chunks_sha256 = texts(root, "chunks_sha256", source);
  if (meta.chunks_sha256.size() != (meta.clips + meta.chunk_clips - 1) / meta.chunk_clips) {
    refuse(source + ": " + std::to_string(meta.chunks_sha256.size()) + " chunk hashes for " +
           std::to_string(meta.clips) + " clips in chunks of " + std::to_string(meta.chunk_clips));
  }
  meta.index_sha256 = sum("index.bin");
  return meta;
}

}  // namespace

CacheMeta read_cache_meta(const std::string& folder) {
  try {
    return read(folder);
  } catch (const Error& e) {
    // The shared helpers speak of models.
    if (e.status() != Status::kModelFormat) throw;
    throw Error(Status::kDataFormat, e.what());
  }
}

}  // namespace gaitcrafter
