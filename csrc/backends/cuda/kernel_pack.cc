#include "backends/cuda/kernel_pack.h"

#include <sys/stat.h>

#include <algorithm>
#include <optional>
#include <string_view>

#include "core/error.h"
#include "model/json_fields.h"
#include "model/sha256.h"

namespace gaitcrafter {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxManifestBytes = 64u << 20, kMaxImageBytes = uint64_t{1} << 31, kMaxChecksumBytes = 64u << 10;
constexpr uint64_t kMaxBytes = uint64_t{1} << 40;  // of any size in a manifest; their products stay below 2^63
constexpr int kMaxKernels = 4096, kMaxCalls = 65536, kMaxArguments = 32, kMaxImages = 16;
constexpr uint64_t kMaxClipFloats = uint64_t{1} << 31, kMaxFilmFloats = uint64_t{1} << 24;
constexpr uint32_t kMaxGridX = (1u << 31) - 1, kMaxGridYZ = 65535;
constexpr std::array<std::string_view, kSpaces> kSpaceNames = {
    "weights", "arena", "x",          "out",  "history", "packed",   "seeds", "clips",
    "limit",   "bad",   "conditions", "time", "row",     "integers", "level", "maps"};
constexpr std::array<std::string_view, 8> kLists = {"noise",  "pack",   "main_1",  "main_2",
                                                    "step_1", "step_2", "limit_1", "limit_2"};

[[noreturn]] void refuse(const std::string& message) { throw Error(Status::kModelFormat, message); }

// Reads values of arrays and objects at a named place.
class Values {
 public:
  explicit Values(std::string path) : path_(std::move(path)) {}

  uint64_t number(const json& value, const std::string& where, uint64_t low, uint64_t high) const {
    if (!integer_in(value, static_cast<int64_t>(low), static_cast<int64_t>(high))) {
      refuse(path_ + ": " + where + " is " + brief(value) + "; it must be a whole number from " + std::to_string(low) +
             " to " + std::to_string(high));
    }
    return value.get<uint64_t>();
  }

  const json& array(const json& value, const std::string& where, size_t low, size_t high) const {
    if (!value.is_array() || value.size() < low || value.size() > high) {
      refuse(path_ + ": " + where + " must be a list of " + std::to_string(low) + " to " + std::to_string(high) +
             " entries");
    }
    return value;
  }

  std::string text(const json& value, const std::string& where, size_t longest) const {
    if (!value.is_string() || value.get_ref<const std::string&>().empty() ||
        value.get_ref<const std::string&>().size() > longest) {
      refuse(path_ + ": " + where + " must be a text of at most " + std::to_string(longest) + " bytes");
    }
    return value.get<std::string>();
  }

  // A name that can stand in a path or go to the loader as it is.
  std::string word(const json& value, const std::string& where, std::string_view also = "") const {
    std::string word = text(value, where, 128);
    const auto allowed = [&](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
             also.find(c) != std::string_view::npos;
    };
    if (!std::all_of(word.begin(), word.end(), allowed) || word.find("..") != std::string::npos || word.front() == '/')
      refuse(path_ + ": " + where + " holds characters that no name of a kernel or file has");
    return word;
  }

  const json& field(const json& object, const char* name) const {
    const auto it = object.is_object() ? object.find(name) : object.end();
    if (!object.is_object() || it == object.end()) refuse(path_ + ": " + name + " is missing");
    return *it;
  }

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

void read_images(const Values& values, const json& root, KernelPack& pack) {
  for (const json& entry : values.array(values.field(root, "images"), "images", 1, kMaxImages)) {
    PackImage image;
    image.capability = static_cast<int>(values.number(values.field(entry, "capability"), "capability", 80, 999));
    const json& ptx = values.field(entry, "ptx");
    if (!ptx.is_boolean()) refuse(values.path() + ": ptx must be true or false");
    image.ptx = ptx.get<bool>();
    const std::string file = values.word(values.field(entry, "file"), "images.file", "./");
    image.file = std::make_shared<const MappedFile>(pack.folder + "/" + file, kMaxImageBytes);
    pack.images.push_back(std::move(image));
  }
}

PackCode read_code(const Values& values, const json& entry, const PackImage& image) {
  const json& list = values.array(entry, "kernels.code", 5, 5);
  PackCode code;
  code.entry = values.word(list[0], "entry");
  const auto bytes = image.file->bytes();
  code.offset = values.number(list[1], "code offset", 0, bytes.size());
  code.size = values.number(list[2], "code size", 1, bytes.size());
  if (code.size > bytes.size() - code.offset)
    refuse(values.path() + ": code of " + code.entry + " ends outside " + image.file->path());
  code.warps = static_cast<uint32_t>(values.number(list[3], "warps", 1, 32));
  code.shared_bytes = static_cast<uint32_t>(values.number(list[4], "shared bytes", 0, 1u << 20));
  // CUDA takes the text up to its NUL.
  if (image.ptx && std::to_integer<int>(bytes[code.offset + code.size - 1]) != 0)
    refuse(values.path() + ": the PTX of " + code.entry + " does not end with a NUL");
  return code;
}

void read_kernels(const Values& values, const json& root, KernelPack& pack) {
  for (const json& entry : values.array(values.field(root, "kernels"), "kernels", 1, kMaxKernels)) {
    PackKernel kernel;
    kernel.key = values.word(values.field(entry, "key"), "kernels.key");
    kernel.name = values.word(values.field(entry, "name"), "kernels.name");
    kernel.pointers = static_cast<int>(values.number(values.field(entry, "pointers"), "pointers", 1, kMaxArguments));
    const json& code =
        values.array(values.field(entry, "code"), "kernels.code", pack.images.size(), pack.images.size());
    for (size_t i = 0; i < pack.images.size(); ++i) kernel.code.push_back(read_code(values, code[i], pack.images[i]));
    pack.kernels.push_back(std::move(kernel));
  }
}

Space space_named(const Values& values, const json& value) {
  const std::string name = values.text(value, "buffers.space", 32);
  const auto it = std::find(kSpaceNames.begin(), kSpaceNames.end(), name);
  if (it == kSpaceNames.end()) refuse(values.path() + ": buffers.space \"" + name + "\" is unknown");
  return static_cast<Space>(it - kSpaceNames.begin());
}

void read_buffers(const Values& values, const json& root, KernelPack& pack) {
  for (const json& entry : values.array(values.field(root, "buffers"), "buffers", 1, kMaxCalls)) {
    const json& list = values.array(entry, "buffers", 3, 3);
    PackBuffer buffer;
    buffer.space = space_named(values, list[0]);
    const uint64_t size = buffer.space == Space::kWeights ? pack.weight_bytes
                          : buffer.space == Space::kArena ? pack.arena_bytes
                                                          : 0;
    buffer.offset = values.number(list[1], "buffers.offset", 0, size);
    buffer.bytes = values.number(list[2], "buffers.bytes", 0, size);
    if (buffer.offset % 16 != 0 || buffer.bytes > size - buffer.offset)
      refuse(values.path() + ": a buffer begins or ends outside its memory");
    if (buffer.space == Space::kMaps && pack.map_floats == 0)
      refuse(values.path() + ": maps are used but map_floats is 0");
    pack.buffers.push_back(buffer);
  }
}

PackCall read_call(const Values& values, const json& entry, const KernelPack& pack) {
  const json& list = values.array(entry, "a launch", 4, 4);
  PackCall call;
  call.kernel = static_cast<int>(values.number(list[0], "kernel", 0, pack.kernels.size() - 1));
  const std::string unit = values.text(list[1], "unit", 8);
  if (unit != "lane" && unit != "clip") refuse(values.path() + ": unit is \"" + unit + "\"; allowed are clip and lane");
  call.per_lane = unit == "lane";
  const json& grid = values.array(list[2], "grid", 3, 3);
  for (size_t i = 0; i < 3; ++i)
    call.grid[i] = static_cast<uint32_t>(values.number(grid[i], "grid", 1, i == 0 ? kMaxGridX : kMaxGridYZ));
  const PackKernel& kernel = pack.kernels[static_cast<size_t>(call.kernel)];
  const size_t pointers = static_cast<size_t>(kernel.pointers);
  for (const json& argument : values.array(list[3], "arguments of " + kernel.name, pointers, pointers)) {
    const json& pair = values.array(argument, "argument", 2, 2);
    PackArgument a;
    a.buffer = static_cast<int>(values.number(pair[0], "buffer", 0, pack.buffers.size() - 1));
    const PackBuffer& buffer = pack.buffers[static_cast<size_t>(a.buffer)];
    const bool planned = buffer.space == Space::kWeights || buffer.space == Space::kArena;
    const uint64_t size =
        planned ? buffer.bytes : space_unit_bytes(pack, buffer.space) * (buffer.space == Space::kOut ? 2 : 1);
    a.inner = values.number(pair[1], "offset in a buffer", 0, size == 0 ? 0 : size - 1);
    if (a.inner % 16 != 0) refuse(values.path() + ": an argument is not aligned to 16 bytes");
    call.arguments.push_back(a);
  }
  return call;
}

void read_lists(const Values& values, const json& root, KernelPack& pack) {
  const json& lists = values.field(root, "lists");
  if (!lists.is_object() || lists.size() > 16) refuse(values.path() + ": lists must be an object of at most 16 lists");
  size_t calls = 0;
  for (const auto& [name, list] : lists.items()) {
    std::vector<PackCall>& out = pack.lists[values.word(json(name), "lists")];
    for (const json& entry : values.array(list, "lists." + name, 1, kMaxCalls))
      out.push_back(read_call(values, entry, pack));
    if ((calls += out.size()) > kMaxCalls)
      refuse(values.path() + ": more than " + std::to_string(kMaxCalls) + " launches");
  }
  for (const std::string_view name : kLists)
    if (!pack.lists.contains(name)) refuse(values.path() + ": lists." + std::string(name) + " is missing");
  if (pack.lists.contains("exact_1") != pack.lists.contains("exact_2"))
    refuse(values.path() + ": lists.exact_1 and exact_2 come together");
}

void check_version(const Values& values, const json& root) {
  if (!root.is_object() || values.text(values.field(root, "format"), "format", 64) != "gaitcrafter-kernels")
    refuse(values.path() + ": format must be \"gaitcrafter-kernels\"");
  const json& version = values.field(root, "format_version");
  if (version.is_number_integer() && integer_in(version, 2, INT64_MAX)) {
    throw Error(Status::kUnsupportedVersion,
                values.path() + ": format_version " + brief(version) +
                    " is newer than 1, the newest this release reads; upgrade gaitcrafter-rt");
  }
  values.number(version, "format_version", 1, 1);
}

// Every file against checksums.json.
void check_sums(const KernelPack& pack, const MappedFile& manifest) {
  const std::string path = pack.folder + "/checksums.json";
  const MappedFile file(path, kMaxChecksumBytes);
  const Values values(path);
  const json root = parse_json(file.text(), path, 4, 1000);
  const json& sums = values.field(root, "sha256");
  const auto check = [&](const MappedFile& f, const std::string& actual) {
    const std::string name = f.path().substr(pack.folder.size() + 1);
    const auto it = sums.is_object() ? sums.find(name) : sums.end();
    if (!sums.is_object() || it == sums.end() || !it->is_string() || it->get_ref<const std::string&>() != actual)
      refuse(f.path() + ": its SHA-256 is not the one in checksums.json; the file was changed or damaged");
  };
  check(manifest, pack.sha256);
  check(*pack.weights, sha256_hex(pack.weights->bytes()));
  for (const PackImage& image : pack.images) check(*image.file, sha256_hex(image.file->bytes()));
}

}  // namespace

bool is_kernel_pack(const std::string& folder) {
  struct stat info {};
  return ::stat((folder + "/kernels.json").c_str(), &info) == 0;
}

uint64_t space_unit_bytes(const KernelPack& pack, Space space) {
  switch (space) {
    case Space::kX:
    case Space::kOut:
      return 4 * pack.clip_floats;
    case Space::kHistory:
      return 8 * pack.clip_floats;
    case Space::kPacked:
      return (pack.clip_floats + 7) / 8;
    case Space::kSeeds:
    case Space::kClips:
      return 8;
    case Space::kLimit:
    case Space::kBad:
    case Space::kLevel:
      return 4;
    case Space::kConditions:
    case Space::kTime:
      return 4 * pack.film_floats;
    case Space::kRow:
      return 48;
    case Space::kIntegers:
      return 16;
    case Space::kMaps:
      return 4 * pack.map_floats;
    case Space::kWeights:
    case Space::kArena:
      break;
  }
  return 0;
}

std::shared_ptr<const KernelPack> open_kernel_pack(const std::string& folder) {
  auto pack = std::make_shared<KernelPack>();
  pack->folder = folder;
  const MappedFile manifest(folder + "/kernels.json", kMaxManifestBytes);
  const Values values(manifest.path());
  const json root = parse_json(manifest.text(), manifest.path(), 8, 2'000'000);
  check_version(values, root);
  pack->model_sha256 = values.word(values.field(root, "model_sha256"), "model_sha256");
  pack->precision = values.word(values.field(root, "precision"), "precision");
  if (pack->precision != "bf16" && pack->precision != "fp16" && pack->precision != "fp32")
    refuse(values.path() + ": precision is \"" + pack->precision + "\"; allowed are bf16, fp16 and fp32");
  pack->compiler = values.text(values.field(root, "compiler"), "compiler", 128);
  pack->clip_floats = values.number(values.field(root, "clip_floats"), "clip_floats", 1, kMaxClipFloats);
  pack->film_floats = values.number(values.field(root, "film_floats"), "film_floats", 4, kMaxFilmFloats);
  pack->map_floats = values.number(values.field(root, "map_floats"), "map_floats", 0, kMaxClipFloats);
  if (pack->film_floats % 4 != 0) refuse(values.path() + ": film_floats must be a multiple of 4");
  pack->weight_bytes = values.number(values.field(root, "weight_bytes"), "weight_bytes", 1, kMaxBytes);
  pack->arena_bytes = values.number(values.field(root, "arena_bytes"), "arena_bytes", 1, kMaxBytes);
  if (pack->arena_bytes % 256 != 0) refuse(values.path() + ": arena_bytes must be a multiple of 256");
  pack->weights = std::make_shared<const MappedFile>(folder + "/weights.bin", kMaxBytes);
  if (pack->weights->bytes().size() != pack->weight_bytes) {
    refuse(pack->weights->path() + ": has " + std::to_string(pack->weights->bytes().size()) +
           " bytes, the manifest says " + std::to_string(pack->weight_bytes));
  }
  read_images(values, root, *pack);
  read_kernels(values, root, *pack);
  read_buffers(values, root, *pack);
  read_lists(values, root, *pack);
  pack->sha256 = sha256_hex(manifest.bytes());
  check_sums(*pack, manifest);
  return pack;
}

int KernelPack::image_for(int major, int minor) const {
  const int chip = 10 * major + minor;
  if (chip < 80) {
    throw Error(Status::kCapability,
                "this GPU is sm_" + std::to_string(chip) +
                    ", older than sm_80; there, run the exported ONNX network in fp16 with ONNX Runtime");
  }
  std::optional<size_t> best;
  for (size_t i = 0; i < images.size(); ++i) {
    const PackImage& image = images[i];
    const bool own = !image.ptx && image.capability == chip;
    const bool older = !image.ptx && major == 8 && image.capability / 10 == 8 && image.capability < chip;
    const bool compiled = image.ptx && image.capability <= chip;
    if (own) return static_cast<int>(i);
    if (!older && !compiled) continue;
    const auto rank = [&](size_t k) { return (images[k].ptx ? 0 : 1000) + images[k].capability; };
    if (!best || rank(i) > rank(*best)) best = i;
  }
  if (best) return static_cast<int>(*best);
  throw Error(Status::kCapability, folder + " has no code for sm_" + std::to_string(chip) +
                                       "; export it: gaitcrafter-rt export kernels MODEL OUT --arch " +
                                       std::to_string(chip) + ",ptx");
}

}  // namespace gaitcrafter
