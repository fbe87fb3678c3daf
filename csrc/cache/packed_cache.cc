#include "cache/packed_cache.h"

#include <gnu/libc-version.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <ctime>

#include "cache/build_id.h"
#include "cache/damage_sum.h"
#include "model/sha256.h"

namespace gaitcrafter {
namespace {

constexpr char kMagic[8] = {'G', 'C', 'P', 'A', 'C', 'K', '1', '\n'};
constexpr int64_t kClockGrain = 2'000'000'000;  // nanoseconds: FAT's, the coarsest there is

struct Header {
  char magic[8];
  uint64_t header_sum;  // of the header with zero here
  uint64_t file_bytes, arrays, sizes_sum, arrays_sum, key_bytes;
  char key[kPackedHeaderBytes - 56];
};
static_assert(sizeof(Header) == kPackedHeaderBytes);

std::span<const std::byte> raw(const Header& header) { return std::as_bytes(std::span(&header, 1)); }

constexpr const char* kNoBuildId = "the engine was linked without a build id (-Wl,--build-id)";

std::string key_start(const std::string& model_sha256) {
  return "layout 1\nbuild " + build_id() + "\nmodel " + model_sha256 + "\n";
}

// By its header alone, unchecked: for a report.
bool is_of(const CacheFolder& folder, const CacheFolder::Entry& entry, const std::string& model_sha256) {
  const FileDescriptor file = folder.open_file(entry.name);
  Header there;
  const std::string start = key_start(model_sha256);
  return entry.name.ends_with(kPackedSuffix) && file &&
         ::pread(file.get(), &there, sizeof there, 0) == static_cast<ssize_t>(sizeof there) &&
         std::string_view(there.key, sizeof there.key).starts_with(start);
}

std::string hashed_name(const std::string& text) { return sha256_hex(std::as_bytes(std::span(text))).substr(0, 40); }

Header header_of(const std::string& key, const ArrayLayout& layout, std::span<const std::byte> arrays) {
  Header h{};
  std::copy_n(kMagic, sizeof kMagic, h.magic);
  h.file_bytes = kPackedHeaderBytes + layout.bytes();
  h.arrays = layout.count();
  h.sizes_sum = damage_sum(std::as_bytes(std::span(layout.sizes())));
  h.arrays_sum = damage_sum(arrays);
  h.key_bytes = key.size();
  std::copy_n(key.data(), std::min(key.size(), sizeof h.key), h.key);
  h.header_sum = damage_sum(raw(h));
  return h;
}

int64_t now_ns() {
  timespec t{};
  ::clock_gettime(CLOCK_REALTIME, &t);
  return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

// Where a state of a weights file is noted, and the note's whole text.
std::string note_name(const FileIdentity& id) {
  return hashed_name(std::to_string(id.device) + ":" + std::to_string(id.inode)) + kVerifiedSuffix;
}

std::string note_text(const ModelFolder& model) {
  const FileIdentity& id = model.weights_file().identity();
  std::string text = "gaitcrafter verified 1\nbuild " + build_id() + "\nfile";
  for (const uint64_t n : {id.device, id.inode, id.size}) text += " " + std::to_string(n);
  for (const int64_t n : {id.modified_ns, id.changed_ns}) text += " " + std::to_string(n);
  return text + "\nmodel " + model.sha256() + "\nconfig " + model.config_sha256() + "\n";
}

}  // namespace

// The processor's widest instruction set and the C library stand for the mathematical functions behind a few tables.
std::string packed_key(const ModelFolder& model, Isa isa, Precision precision) {
  std::string_view widest;
  for (const Isa i : kIsas)
    if (isa_supported(i)) widest = isa_name(i);
  return key_start(model.sha256()) + "config " + model.config_sha256() + "\nprecision " +
         std::string(precision_name(precision)) + "\nisa " + std::string(isa_name(isa)) + "\nmachine " +
         std::string(widest) + ", libc " + ::gnu_get_libc_version() + "\n";
}

std::string packed_name(const std::string& key) { return hashed_name(key) + kPackedSuffix; }

bool PackedCache::usable() const { return folder_.usable() && !build_id().empty(); }

Pages PackedCache::find(const std::string& key, const ArrayLayout& layout) const {
  uint64_t size = 0;
  const FileDescriptor file = folder_.open_file(packed_name(key), &size);
  if (!file || size != kPackedHeaderBytes + layout.bytes()) return {};
  Header there;
  if (::pread(file.get(), &there, sizeof there, 0) != static_cast<ssize_t>(sizeof there)) return {};
  const uint64_t arrays_sum = there.arrays_sum;
  // Judged before the arrays are read: all but their sum is known beforehand.
  Header expected = header_of(key, layout, {});
  expected.arrays_sum = arrays_sum;
  expected.header_sum = 0;
  expected.header_sum = damage_sum(raw(expected));
  if (std::memcmp(&there, &expected, sizeof there) != 0) return {};
  Pages pages = Pages::of_file(file.get(), size);
  if (!pages || damage_sum(pages.bytes().subspan(kPackedHeaderBytes)) != arrays_sum) return {};
  CacheFolder::touch(file);
  return pages;
}

Pages PackedCache::keep(const std::string& key, const ArrayLayout& layout, const Pages& pages) const {
  const std::span<std::byte> bytes = pages.bytes();
  const Header header = header_of(key, layout, bytes.subspan(kPackedHeaderBytes));
  std::memcpy(bytes.data(), &header, sizeof header);
  const std::string name = packed_name(key);
  const FileDescriptor file = folder_.publish(name, bytes.data(), bytes.size());
  if (!file) return {};
  folder_.prune(kPackedLimit, name);
  return Pages::of_file(file.get(), bytes.size());
}

bool PackedCache::verified(const ModelFolder& model) const {
  uint64_t size = 0;
  const FileDescriptor file = folder_.open_file(note_name(model.weights_file().identity()), &size);
  const std::string expected = note_text(model);
  std::string there(expected.size(), '\0');
  if (!file || size != there.size()) return false;
  if (::pread(file.get(), there.data(), size, 0) != static_cast<ssize_t>(size) || there != expected) return false;
  CacheFolder::touch(file);
  return true;
}

void PackedCache::note_verified(const ModelFolder& model, int64_t began) const {
  const FileIdentity& id = model.weights_file().identity();
  if (std::max(id.modified_ns, id.changed_ns) > began - kClockGrain) return;
  const std::string text = note_text(model);
  folder_.publish(note_name(id), text.data(), text.size());
}

CacheReport report_cache(const std::string& model_sha256) {
  const CacheFolder folder = CacheFolder::look();
  CacheReport out{folder.path(), folder.problem(), 0, 0};
  if (out.problem.empty() && build_id().empty()) out.problem = kNoBuildId;
  for (const CacheFolder::Entry& entry : folder.list()) {
    if (!model_sha256.empty() && !is_of(folder, entry, model_sha256)) continue;
    out.entries += entry.name.ends_with(kPackedSuffix) ? 1 : 0;
    out.bytes += entry.bytes;
  }
  return out;
}

void WeightsSource::check() {
  if (!cache_.verified(*folder_)) package();
}

const std::shared_ptr<const ModelPackage>& WeightsSource::package() {
  if (!package_) {
    const int64_t began = now_ns();
    package_ = folder_->read();
    if (cache_.usable() && unchanged()) cache_.note_verified(*folder_, began);
  }
  return package_;
}

bool WeightsSource::unchanged() const {
  const MappedFile& file = folder_->weights_file();
  return file_identity(file.path()) == file.identity();
}

}  // namespace gaitcrafter
