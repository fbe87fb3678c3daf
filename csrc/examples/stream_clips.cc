// Clips made on demand while something else consumes them: a window of futures in front of a ClipStream. The queue is
// bounded, so however slow the consumer is, no more than the window is ever made ahead.
//
//   stream_clips MODEL CLIPS OUT.bin [SEED]      OUT.bin: packed clips 0, 1, 2, ...
#include <cstdlib>
#include <deque>
#include <fstream>
#include <iostream>

#include "gaitcrafter/stream.hpp"

namespace {

using gaitcrafter::Axis;

int run(int argc, char** argv) {
  if (argc < 4 || argc > 5) {
    std::cerr << "usage: stream_clips MODEL CLIPS OUT.bin [SEED]\n";
    return 2;
  }
  const gaitcrafter::Engine engine(argv[1]);
  const auto identities = engine.labels(Axis::kIdentity);
  const uint64_t count = std::strtoull(argv[2], nullptr, 10);
  std::ofstream out(argv[3], std::ios::binary);

  gaitcrafter::StreamOptions options;
  options.capacity = 8;
  options.seed = argc > 4 ? std::strtoull(argv[4], nullptr, 10) : 0;
  gaitcrafter::ClipStream stream(engine, options);

  constexpr size_t kWindow = 16;
  std::deque<gaitcrafter::ClipFuture> window;
  uint64_t asked = 0, failed = 0;
  for (uint64_t clip = 0; clip < count; ++clip) {
    while (asked < count && window.size() < kWindow) {
      gaitcrafter::Condition who;
      if (!identities.empty()) who.label(Axis::kIdentity, identities[asked % identities.size()]);
      window.push_back(stream.submit(asked++, who));  // waits while the queue is full
    }
    try {
      const std::vector<uint8_t> bits = window.front().get();  // in order, whichever was made first
      out.write(reinterpret_cast<const char*>(bits.data()), static_cast<std::streamsize>(bits.size()));
    } catch (const gaitcrafter::Error& e) {
      std::cerr << "clip " << clip << ": " << e.what() << "\n";  // this one failed, the others come all the same
      ++failed;
    }
    window.pop_front();
  }
  out.flush();
  if (!out) throw std::runtime_error(std::string("cannot write ") + argv[3]);
  std::cout << count - failed << " clips in " << argv[3] << "\n";
  return failed == 0 ? 0 : 3;
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
