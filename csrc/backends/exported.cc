#include "backends/exported.h"

#include <sys/stat.h>

#include <cmath>
#include <map>
#include <string_view>

#include "core/error.h"
#include "model/json_fields.h"
#include "model/mapped_file.h"
#include "model/sha256.h"

namespace gaitcrafter {
namespace {

constexpr uint64_t kMaxManifest = 16u << 20, kMaxFile = uint64_t{64} << 30;
constexpr const char* kManifest = "export.json";

[[noreturn]] void refuse(const std::string& message) { throw Error(Status::kModelFormat, message); }

bool exists(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0;
}

// No path of another folder.
void check_name(const std::string& name, const std::string& where) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' ||
           c == '-';
  };
  bool good = !name.empty() && name.size() <= 128 && name[0] != '.' && name[0] != '-';
  for (const char c : name) good = good && allowed(c);
  if (!good) refuse(where + ": \"" + name.substr(0, 64) + "\" is no plain file name");
}

std::map<std::string, std::string> file_hashes(const nlohmann::json* files, const std::string& where) {
  if (files == nullptr || !files->is_object() || files->size() > 64) refuse(where + " must list at most 64 files");
  std::map<std::string, std::string> out;
  for (const auto& [name, hash] : files->items()) {
    check_name(name, where);
    if (!hash.is_string() || hash.get_ref<const std::string&>().size() != 64)
      refuse(where + ": the checksum of " + name + " is not one");
    out.emplace(name, hash.get<std::string>());
  }
  return out;
}

std::vector<float> numbers(const nlohmann::json* list, size_t count, const std::string& where) {
  if (list == nullptr || !list->is_array() || list->size() != count) {
    refuse(where + " has " + std::to_string(list != nullptr && list->is_array() ? list->size() : 0) +
           " numbers; the config's cond_dim is " + std::to_string(count));
  }
  std::vector<float> out;
  for (const auto& v : *list) {
    if (!v.is_number() || !std::isfinite(v.get<double>())) refuse(where + " holds something that is no number");
    out.push_back(static_cast<float>(v.get<double>()));
  }
  return out;
}

void check_files(const std::string& folder, const std::map<std::string, std::string>& hashes) {
  for (const auto& [name, wanted] : hashes) {
    const MappedFile file(folder + "/" + name, kMaxFile);
    const std::string got = sha256_hex(file.bytes());
    if (got != wanted) {
      refuse(file.path() + ": sha256 is " + got + ", " + kManifest + " says " + wanted +
             "; the file was changed: export again");
    }
  }
}

}  // namespace

bool is_export(const std::string& folder) { return exists(folder + "/" + kManifest); }

Exported read_export(const std::string& folder) {
  const std::string path = folder + "/" + kManifest;
  if (!exists(path)) {
    const char* what = exists(folder + "/model.safetensors") ? "a model package" : "no ONNX export";
    refuse(folder + ": " + what + ": no " + kManifest +
           " there; make an export with: gaitcrafter-rt export onnx MODEL OUT");
  }
  const MappedFile file(path, kMaxManifest);
  const nlohmann::json root = parse_json(file.text(), path, 8, 4'000'000);
  JsonFields top(root, path);
  std::string format;
  int version = 0;
  top.read("format", format, 1, 64);
  if (format != "gaitcrafter-onnx") refuse(path + ": format is not \"gaitcrafter-onnx\"");
  const nlohmann::json* given = top.find("format_version");
  if (given != nullptr && given->is_number_integer() && !integer_in(*given, INT64_MIN, 1)) {
    throw Error(Status::kUnsupportedVersion,
                path + ": format_version " + brief(*given) +
                    " is newer than 1, the newest this release reads; upgrade gaitcrafter-rt");
  }
  top.read("format_version", version, 1, 1);
  if (version != 1) refuse(path + ": format_version must be 1");

  Exported out;
  std::string graph, exact;
  top.read("model_sha256", out.model_sha256, 64, 64);
  top.read_name("precision", out.precision,
                {{"fp32", std::string("fp32")},
                 {"fp16", std::string("fp16")},
                 {"bf16", std::string("bf16")},
                 {"int8", std::string("int8")},
                 {"fp8", std::string("fp8")}});
  top.read("batch", out.batch, 0, 256);
  top.read("graph", graph, 1, 128);
  const nlohmann::json* exact_graph = top.find("exact_graph");
  if (exact_graph != nullptr && !exact_graph->is_null()) top.read("exact_graph", exact, 1, 128);
  const nlohmann::json* null_cond = top.find("null_cond");
  auto hashes = file_hashes(top.find("files"), top.where("files"));
  for (const char* others : {"opset", "inputs", "outputs", "sampler", "made_by"}) top.find(others);  // for people
  top.finish();
  if (out.model_sha256.empty() || out.precision.empty()) refuse(path + ": model_sha256 and precision must be there");
  for (const std::string& name : {graph, std::string("config.json")})
    if (!hashes.contains(name)) refuse(path + ": files has no checksum of \"" + name + "\"");
  if (!exact.empty() && !hashes.contains(exact)) refuse(path + ": files has no checksum of \"" + exact + "\"");
  check_files(folder, hashes);

  const MappedFile config(folder + "/config.json", kMaxManifest);
  out.config = parse_config(config.text(), config.path());
  out.null_cond = numbers(null_cond, static_cast<size_t>(out.config.conditioning.cond_dim), top.where("null_cond"));
  out.sha256 = sha256_hex(file.bytes());
  out.files = std::move(hashes);
  out.graph = folder + "/" + graph;
  if (!exact.empty()) out.exact_graph = folder + "/" + exact;
  return out;
}

int call_batch(const Exported& exported, int asked, int fallback) {
  if (exported.batch > 0 && asked > 0 && asked != exported.batch) {
    throw Error(Status::kInvalidRequest, "batch is " + std::to_string(asked) +
                                             ", but this graph was exported for batch " +
                                             std::to_string(exported.batch) + "; export again, or leave it out");
  }
  return exported.batch > 0 ? exported.batch : asked > 0 ? asked : fallback;
}

void check_export_precision(const Exported& exported, const std::string& asked) {
  if (asked == "auto" || asked == exported.precision) return;
  throw Error(Status::kInvalidRequest, "precision is \"" + asked.substr(0, 64) + "\", but this graph was exported in " +
                                           exported.precision + "; export again with --precision");
}

}  // namespace gaitcrafter
