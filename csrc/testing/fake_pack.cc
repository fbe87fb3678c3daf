#include "testing/fake_pack.h"

#include <span>
#include <vector>

#include "model/config.h"
#include "model/sha256.h"
#include "testing/packages.h"

namespace gaitcrafter::testing {
namespace {

constexpr size_t kArenaFloats = 64;  // of one lane

std::string config_text() {
  std::string text = tiny_config();
  const std::string plain = "\"encoder_dim\": 4";
  text.replace(text.find(plain), plain.size(), plain + ", \"guidance_trained\": true");
  return text;
}

std::string hash(const std::string& bytes) { return sha256_hex(std::as_bytes(std::span(bytes))); }

// [entry, offset, size, warps, shared] of fake code, which is appended to the image.
std::string code_entry(std::string& image, const std::string& key, int pointers, int shared) {
  const std::string code = key + " " + std::to_string(pointers) + '\0';
  const size_t at = image.size();
  image += code;
  return "{\"key\":\"" + key + "\",\"name\":\"" + key + "\",\"pointers\":" + std::to_string(pointers) +
         ",\"code\":[[\"_" + key + "\"," + std::to_string(at) + "," + std::to_string(code.size()) + ",4," +
         std::to_string(shared) + "]]}";
}

}  // namespace

void write_fake_pack(const std::filesystem::path& folder, const std::function<void(std::string&)>& change) {
  const ModelConfig config = parse_config(config_text(), "config.json");
  const std::string weights = safetensors(tensors_of(config));
  write_package(folder / "model", config_text(), weights);
  std::string image, kernels;
  const struct {
    const char* key;
    int pointers, shared;
  } all[] = {{"noise", 3, 0}, {"film", 3, 0},  {"net", 4, 100000}, {"step1", 5, 0},
             {"step2", 6, 0}, {"limit", 2, 0}, {"pack", 4, 0},     {"exact", 4, 0}};
  for (const auto& k : all) kernels += (kernels.empty() ? "" : ",") + code_entry(image, k.key, k.pointers, k.shared);
  // Buffers: 0 x, 1 seeds, 2 clips, 3 time, 4 conditions, 5 arena, 6 weights, 7 maps, 8 out, 9 row, 10 integers, 11
  // bad, 12 level, 13 packed, 14 limit.
  const std::string buffers =
      R"([["x",0,0],["seeds",0,0],["clips",0,0],["time",0,0],["conditions",0,0],["arena",0,256],["weights",256,256],)"
      R"(["maps",0,0],["out",0,0],["row",0,0],["integers",0,0],["bad",0,0],["level",0,0],["packed",0,0],["limit",0,0]])";
  const auto network = [](int kernel) {
    return R"([[1,"lane",[1,1,1],[[3,0],[4,0],[5,0]]],[)" + std::to_string(kernel) +
           R"(,"lane",[2,1,1],[[5,0],[6,0],[7,0],[8,0]]]])";
  };
  const std::string null_lane = std::to_string(4 * kFakeFloats);
  std::string manifest =
      R"({"format":"gaitcrafter-kernels","format_version":1,"model_sha256":")" + hash(weights) +
      R"(","precision":"bf16","compiler":"none","clip_floats":192,"film_floats":144,"map_floats":64,"weight_bytes":512,)"
      R"("arena_bytes":256,"images":[{"file":"images/sm_90.bin","capability":90,"ptx":false}],"kernels":[)" +
      kernels + R"(],"buffers":)" + buffers +
      R"(,"lists":{"noise":[[0,"clip",[1,1,1],[[0,0],[1,0],[2,0]]]],"main_1":)" + network(2) + R"(,"main_2":)" +
      network(2) + R"(,"exact_1":)" + network(7) + R"(,"exact_2":)" + network(7) +
      R"(,"step_1":[[3,"clip",[1,1,1],[[0,0],[8,0],[9,0],[10,0],[11,0]]]],"step_2":[[4,"clip",[1,1,1],[[0,0],[8,0],[8,)" +
      null_lane +
      R"(],[9,0],[10,0],[11,0]]]],"limit_1":[[5,"clip",[1,1,1],[[0,0],[14,0]]]],"limit_2":[[5,"clip",[1,1,1],)"
      R"([[0,0],[14,0]]]],"pack":[[6,"clip",[1,1,1],[[0,0],[12,0],[13,0],[11,0]]]]}})";
  change(manifest);
  std::filesystem::create_directories(folder / "images");
  const std::string blob(512, '\1');
  write_file(folder / "kernels.json", manifest);
  write_file(folder / "weights.bin", blob);
  write_file(folder / "images/sm_90.bin", image);
  write_file(folder / "checksums.json", "{\"format_version\":1,\"sha256\":{\"kernels.json\":\"" + hash(manifest) +
                                            "\",\"weights.bin\":\"" + hash(blob) + "\",\"images/sm_90.bin\":\"" +
                                            hash(image) + "\"}}");
}

void run_fake_kernel(const FakeLaunch& launch) {
  const auto floats = [&](size_t i) { return static_cast<float*>(launch.pointers[i]); };
  const size_t programs = launch.grid.x;
  if (launch.code == "noise") {
    const auto* const clips = static_cast<const uint64_t*>(launch.pointers[2]);
    for (size_t c = 0; c < programs; ++c)
      std::fill_n(floats(0) + c * kFakeFloats, kFakeFloats, static_cast<float>(clips[c]));
  } else if (launch.code == "film") {
    for (size_t lane = 0; lane < programs; ++lane)
      floats(2)[lane * kArenaFloats] = floats(0)[0] + floats(1)[lane * kFakeFilm];
  } else if (launch.code == "net" || launch.code == "exact") {
    for (size_t lane = 0; lane < programs / 2; ++lane)
      std::fill_n(floats(3) + lane * kFakeFloats, kFakeFloats, floats(0)[lane * kArenaFloats]);
  } else if (launch.code == "step1" || launch.code == "step2") {
    const size_t lanes = launch.code == "step1" ? 1 : 2;
    for (size_t c = 0; c < programs; ++c) {
      for (size_t i = 0; i < kFakeFloats; ++i) {
        float& x = floats(0)[c * kFakeFloats + i];
        for (size_t lane = 0; lane < lanes; ++lane) x += floats(1 + lane)[c * lanes * kFakeFloats + i];
      }
    }
  } else if (launch.code == "pack") {
    auto* const packed = static_cast<uint8_t*>(launch.pointers[2]);
    for (size_t c = 0; c < programs; ++c)
      for (size_t i = 0; i < kFakeFloats / 8; ++i)
        packed[c * kFakeFloats / 8 + i] = static_cast<uint8_t>(static_cast<int>(floats(0)[c * kFakeFloats]));
  }
}

}  // namespace gaitcrafter::testing
