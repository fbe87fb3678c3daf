// Packed weights kept in files, so that opening a model neither reads nor packs it again.
//
// A file is one page of header, then the arrays (array_layout.h), mapped by every process that uses them. Its name is a
// hash of its key: everything that the arrays depend on. The header holds the key, sums over the arrays' sizes and the
// arrays, and a sum over itself; a file of which anything does not fit is as good as absent, and is replaced.
//
// A small file beside them says that one state of a model.safetensors (FileIdentity) was read and found right, so that
// it need not be read again. It trusts what git's index trusts: that changing a file changes its size or one of its
// times, ctime among them. A file that changed less than two seconds before it was read is not noted, as another change
// could follow within the clock's grain.
#pragma once

#include <memory>
#include <string>

#include "cache/array_layout.h"
#include "cache/cache_folder.h"
#include "cache/pages.h"
#include "core/precision.h"
#include "model/package.h"

namespace gaitcrafter {

inline constexpr size_t kPackedHeaderBytes = 4096;
inline constexpr uint64_t kPackedLimit = uint64_t{4} << 30;

// What packed weights of a model depend on, a line each.
std::string packed_key(const ModelFolder& model, Isa isa, Precision precision);
std::string packed_name(const std::string& key);

class PackedCache {
 public:
  PackedCache() : folder_(CacheFolder::open()) {}

  // A cache without a build id could not tell one build's arrays from another's.
  bool usable() const;

  // The file of that key, mapped, if it is whole; else nothing. Header first: arrays begin at kPackedHeaderBytes.
  Pages find(const std::string& key, const ArrayLayout& layout) const;

  // Fills in the header of `pages` (arrays as in find), writes them, and returns the file mapped; nothing if it could
  // not be written.
  Pages keep(const std::string& key, const ArrayLayout& layout, const Pages& pages) const;

  // Whether this state of the model's files was found right before; that it was, by a reading that began at that time.
  bool verified(const ModelFolder& model) const;
  void note_verified(const ModelFolder& model, int64_t began_ns) const;

 private:
  CacheFolder folder_;
};

struct CacheReport {
  std::string folder, problem;  // problem: why the cache is not used
  uint64_t entries = 0, bytes = 0;
};

// What is in the cache; with a hash, only what this build wrote of that model. Makes and changes nothing.
CacheReport report_cache(const std::string& model_sha256);

// A model folder on its way to packed weights: its weights are read at the first need, once.
class WeightsSource {
 public:
  explicit WeightsSource(std::shared_ptr<const ModelFolder> folder) : folder_(std::move(folder)) {}

  const ModelFolder& folder() const { return *folder_; }
  const PackedCache& cache() const { return cache_; }

  // Makes sure that the model's files are what checksums.json says. Throws as ModelFolder::read.
  void check();
  // The weights, checked. Throws as ModelFolder::read.
  const std::shared_ptr<const ModelPackage>& package();
  // False if the weights file is another now, so that what was read of it late may be of that one.
  bool unchanged() const;

 private:
  std::shared_ptr<const ModelFolder> folder_;
  PackedCache cache_;
  std::shared_ptr<const ModelPackage> package_;
};

}  // namespace gaitcrafter
