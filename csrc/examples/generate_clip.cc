// Opens a model, makes one clip and writes it as a PGM picture, its frames one below the other.
//
//   generate_clip MODEL OUT.pgm [SEED [IDENTITY [VIEW]]]
#include <cstdlib>
#include <fstream>
#include <iostream>

#include "gaitcrafter/gaitcrafter.hpp"

namespace {

// Binary PGM (P5): a text header, then one byte per pixel.
void write_pgm(const std::string& path, int width, int height, const std::vector<uint8_t>& mask) {
  std::ofstream out(path, std::ios::binary);
  out << "P5\n" << width << " " << height << "\n255\n";
  for (const uint8_t pixel : mask) out.put(pixel != 0 ? '\xFF' : '\0');
  out.flush();
  if (!out) throw std::runtime_error("cannot write " + path);
}

int run(int argc, char** argv) {
  if (argc < 3 || argc > 6) {
    std::cerr << "usage: generate_clip MODEL OUT.pgm [SEED [IDENTITY [VIEW]]]\n";
    return 2;
  }
  const gaitcrafter::Engine engine(argv[1]);
  gaitcrafter::Request request;
  if (argc > 3) request.seed = std::strtoull(argv[3], nullptr, 10);
  gaitcrafter::Condition who;
  if (argc > 4) who.label(gaitcrafter::Axis::kIdentity, argv[4]);
  if (argc > 5) who.label(gaitcrafter::Axis::kView, argv[5]);

  const gaitcrafter::ClipBatch clips = engine.generate({who}, request);
  write_pgm(argv[2], clips.width, clips.frames * clips.height, clips.unpack(0));
  const gc_info info = engine.info();
  std::cout << info.name << " (" << info.isa << "): " << clips.frames << " frames of " << clips.width << "x"
            << clips.height << " in " << argv[2] << "\n";
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
