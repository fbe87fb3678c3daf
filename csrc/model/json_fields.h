// Reading one JSON object field by field: strict types, bounded numbers, unknown names refused.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"

namespace gaitcrafter {

// Parses untrusted text. Refuses a byte order mark, nesting deeper than `max_depth` and more than `max_values` values,
// so that memory stays in proportion to what a real file needs. Of a repeated key the last value counts.
nlohmann::json parse_json(std::string_view text, const std::string& source, int max_depth, size_t max_values);

// The JSON library takes a NUL for the end of the text and would let bytes hide behind it. Throws kModelFormat.
void refuse_nul(std::string_view text, const std::string& source);

// Number of code points of valid UTF-8.
size_t code_points(std::string_view utf8);

// A reader of one object. Every accessor leaves `out` alone when the field is absent; finish() refuses what nobody
// read.
class JsonFields {
 public:
  // `path` names the object in messages: "config.json: unet".
  JsonFields(const nlohmann::json& value, std::string path);

  const nlohmann::json* find(std::string_view name);  // nullptr if absent; marks the field as read
  void read(std::string_view name, int& out, int64_t low, int64_t high);
  void read_choice(std::string_view name, int& out, std::initializer_list<int> allowed);
  void read(std::string_view name, bool& out);
  // low_open / high_open: the bound itself is refused.
  void read(std::string_view name, double& out, double low, double high, bool low_open = false, bool high_open = false);
  void read(std::string_view name, std::string& out, size_t min_points, size_t max_points);
  void read(std::string_view name, std::vector<bool>& out);
  void read(std::string_view name, std::vector<int>& out, int64_t low, int64_t high, size_t min_size, size_t max_size);
  void read(std::string_view name, std::vector<std::string>& out, size_t max_points, size_t max_size);

  template <typename T>
  void read_name(std::string_view name, T& out, std::initializer_list<std::pair<std::string_view, T>> allowed) {
    const nlohmann::json* value = find(name);
    if (value == nullptr) return;
    if (value->is_string()) {
      for (const auto& [text, meaning] : allowed) {
        if (value->get_ref<const std::string&>() == text) {
          out = meaning;
          return;
        }
      }
    }
    std::string list;
    for (const auto& [text, meaning] : allowed) list += (list.empty() ? "\"" : ", \"") + std::string(text) + "\"";
    fail(name, "must be one of " + list, *value);
  }

  void finish() const;
  const std::string& path() const { return path_; }
  std::string where(std::string_view name) const;  // "config.json: unet.dim"

 private:
  [[noreturn]] void fail(std::string_view name, const std::string& rule, const nlohmann::json& got) const;

  const nlohmann::json& value_;
  std::string path_;
  std::vector<std::string_view> seen_;
};

// The value as short text for an error message.
std::string brief(const nlohmann::json& value);

// True for a JSON integer inside [low, high]; never for a bool or 1.0.
bool integer_in(const nlohmann::json& value, int64_t low, int64_t high);

}  // namespace gaitcrafter
