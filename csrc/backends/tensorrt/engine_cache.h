// Engines that export/tensorrt built on this machine. Its cache.py says how a file looks and why none is trusted that
// another user may have written.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

namespace gaitcrafter {

using EngineKey = std::map<std::string, std::string>;

std::string engine_key_hash(const EngineKey& key);

struct CachedEngine {
  std::vector<std::byte> bytes;
  std::string sha256;  // of the bytes
};

// The engine of `key`. Throws kCapability if there is none (which names the GPUs and batches that the same graph has
// engines for, and `remedy`) or the folder is not this user's alone, kDataFormat for a file that does not hold what it
// must.
CachedEngine find_engine(const EngineKey& key, const std::string& remedy);

}  // namespace gaitcrafter
