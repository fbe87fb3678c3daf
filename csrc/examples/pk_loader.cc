// A data loader over a clip cache: batches of P identities with K clips each, decoded to floats on a thread of their
// own while the caller works on the batch before.
//
//   pk_loader CACHE P K BATCHES [SEED]
#include <algorithm>
#include <cstdlib>
#include <future>
#include <iostream>
#include <map>
#include <numeric>
#include <random>

#include "gaitcrafter/reader.hpp"

namespace {

struct Batch {
  std::vector<uint64_t> clips;  // their numbers in the cache
  std::vector<int32_t> labels;  // identity of each
  std::vector<float> pixels;    // clips x frames x height x width, 0 and 1
};

class PkLoader {
 public:
  PkLoader(const std::string& cache, size_t p, size_t k, uint64_t seed) : reader_(cache), p_(p), k_(k), random_(seed) {
    const auto records = reader_.records();
    for (uint64_t clip = 0; clip < records.size(); ++clip) {
      const int32_t identity = records[clip].labels[GC_AXIS_IDENTITY];
      if (identity >= 0) members_[identity].push_back(clip);  // -1: the model chose, nobody knows whom
    }
    if (members_.size() < p) throw std::runtime_error("the cache has fewer than P identities");
    for (const auto& [identity, clips] : members_) identities_.push_back(identity);
    prefetch();
  }

  // The batch that was prepared meanwhile; the next one is begun at once.
  Batch next() {
    Batch batch = ready_.get();
    prefetch();
    return batch;
  }

  const gaitcrafter::ClipReader& reader() const { return reader_; }

 private:
  void prefetch() {
    ready_ = std::async(std::launch::async, [this, batch = draw()]() mutable {
      batch.pixels.resize(batch.clips.size() * reader_.pixels());
      reader_.read(batch.clips, batch.pixels.data(), batch.pixels.size());
      return std::move(batch);
    });
  }

  Batch draw() {
    Batch batch;
    std::shuffle(identities_.begin(), identities_.end(), random_);
    for (size_t i = 0; i < p_; ++i) {
      const auto& clips = members_.at(identities_[i]);
      // Without replacement where there are enough.
      std::vector<uint64_t> drawn;
      if (clips.size() >= k_) std::sample(clips.begin(), clips.end(), std::back_inserter(drawn), k_, random_);
      while (drawn.size() < k_) drawn.push_back(clips[random_() % clips.size()]);
      batch.clips.insert(batch.clips.end(), drawn.begin(), drawn.end());
      batch.labels.insert(batch.labels.end(), k_, identities_[i]);
    }
    return batch;
  }

  gaitcrafter::ClipReader reader_;
  size_t p_, k_;
  std::mt19937_64 random_;
  std::map<int32_t, std::vector<uint64_t>> members_;
  std::vector<int32_t> identities_;
  std::future<Batch> ready_;  // last: its thread ends before what it reads goes
};

int run(int argc, char** argv) {
  if (argc < 5 || argc > 6) {
    std::cerr << "usage: pk_loader CACHE P K BATCHES [SEED]\n";
    return 2;
  }
  const auto number = [&](int i) { return std::strtoull(argv[i], nullptr, 10); };
  PkLoader loader(argv[1], number(2), number(3), argc > 5 ? number(5) : 0);
  const auto names = loader.reader().labels(gaitcrafter::Axis::kIdentity);
  for (uint64_t i = 0; i < number(4); ++i) {
    const Batch batch = loader.next();
    const double sum = std::accumulate(batch.pixels.begin(), batch.pixels.end(), 0.0);
    std::cout << "batch " << i << " foreground " << static_cast<uint64_t>(sum);
    for (size_t c = 0; c < batch.clips.size(); ++c)
      std::cout << " " << batch.clips[c] << ":" << names[static_cast<size_t>(batch.labels[c])];
    std::cout << "\n";
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const gaitcrafter::Error& e) {
    std::cerr << "error " << e.status() << ": " << e.what() << "\n";
  } catch (const std::exception& e) {
    std::cerr << "error: " << e.what() << "\n";
  }
  return 1;
}
