#include "model/json_fields.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace gaitcrafter {

using nlohmann::json;

namespace {

std::string number_text(double v) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%g", v);
  return buffer;
}

std::string range_text(int64_t low, int64_t high) {
  return "an integer from " + std::to_string(low) + " to " + std::to_string(high);
}

}  // namespace

void refuse_nul(std::string_view text, const std::string& source) {
  if (text.find('\0') != std::string_view::npos) {
    throw Error(Status::kModelFormat, source + ": holds a NUL byte, which JSON does not allow");
  }
}

json parse_json(std::string_view text, const std::string& source, int max_depth, size_t max_values) {
  if (text.substr(0, 3) == "\xEF\xBB\xBF") {
    throw Error(Status::kModelFormat, source + ": starts with a byte order mark; save it as plain UTF-8");
  }
  refuse_nul(text, source);
  size_t values = 0;
  const auto watch = [&](int depth, json::parse_event_t event, json&) {
    // A key is not a value, but a million repeated keys cost a million reads all the same.
    if (event != json::parse_event_t::object_end && event != json::parse_event_t::array_end) ++values;
    if (depth > max_depth) {
      throw Error(Status::kModelFormat, source + ": nested deeper than " + std::to_string(max_depth) +
                                            " levels; such a file is not one of ours");
    }
    if (values > max_values) {
      throw Error(Status::kModelFormat, source + ": more than " + std::to_string(max_values) + " values");
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), watch);
  } catch (const json::exception& e) {
    // The library quotes the token it stopped at, which a hostile file can make very long.
    throw Error(Status::kModelFormat, source + ": not JSON: " + std::string(e.what()).substr(0, 300));
  }
}

size_t code_points(std::string_view utf8) {
  return static_cast<size_t>(
      std::count_if(utf8.begin(), utf8.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string brief(const json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list of " + std::to_string(value.size());
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return text;
}

bool integer_in(const json& value, int64_t low, int64_t high) {
  if (value.is_number_unsigned()) {
    const uint64_t v = value.get<uint64_t>();
    return v <= static_cast<uint64_t>(INT64_MAX) && static_cast<int64_t>(v) >= low && static_cast<int64_t>(v) <= high;
  }
  if (!value.is_number_integer()) return false;
  const int64_t v = value.get<int64_t>();
  return v >= low && v <= high;
}

JsonFields::JsonFields(const json& value, std::string path) : value_(value), path_(std::move(path)) {
  if (!value.is_object()) throw Error(Status::kModelFormat, path_ + ": must be an object (got " + brief(value) + ")");
}

std::string JsonFields::where(std::string_view name) const {
  // The top object's path is the file ("config.json"); below it a dot separates names.
  const bool top = path_.find(": ") == std::string::npos;
  return path_ + (top ? ": " : ".") + std::string(name);
}

void JsonFields::fail(std::string_view name, const std::string& rule, const json& got) const {
  throw Error(Status::kModelFormat, where(name) + " " + rule + " (got " + brief(got) + ")");
}

const json* JsonFields::find(std::string_view name) {
  seen_.push_back(name);
  const auto it = value_.find(name);
  return it == value_.end() ? nullptr : &*it;
}

void JsonFields::read(std::string_view name, int& out, int64_t low, int64_t high) {
  const json* value = find(name);
  if (value == nullptr) return;
  if (!integer_in(*value, low, high)) fail(name, "must be " + range_text(low, high), *value);
  out = static_cast<int>(value->get<int64_t>());
}

void JsonFields::read_choice(std::string_view name, int& out, std::initializer_list<int> allowed) {
  const json* value = find(name);
  if (value == nullptr) return;
  std::string list;
  for (const int a : allowed) {
    if (integer_in(*value, a, a)) {
      out = a;
      return;
    }
    list += (list.empty() ? "" : ", ") + std::to_string(a);
  }
  fail(name, "must be one of " + list, *value);
}

void JsonFields::read(std::string_view name, bool& out) {
  const json* value = find(name);
  if (value == nullptr) return;
  if (!value->is_boolean()) fail(name, "must be true or false", *value);
  out = value->get<bool>();
}

void JsonFields::read(std::string_view name, double& out, double low, double high, bool low_open, bool high_open) {
  const json* value = find(name);
  if (value == nullptr) return;
  const double v = value->is_number() ? value->get<double>() : NAN;
  const bool inside = (low_open ? v > low : v >= low) && (high_open ? v < high : v <= high);
  if (!inside) {
    fail(name,
         "must be a number " + std::string(low_open ? "above " : "from ") + number_text(low) +
             (high_open ? " and below " : " to ") + number_text(high),
         *value);
  }
  out = v;
}

void JsonFields::read(std::string_view name, std::string& out, size_t min_points, size_t max_points) {
  const json* value = find(name);
  if (value == nullptr) return;
  const size_t points = value->is_string() ? code_points(value->get_ref<const std::string&>()) : SIZE_MAX;
  if (points < min_points || points > max_points) {
    fail(name,
         "must be a string of " + std::to_string(min_points) + " to " + std::to_string(max_points) + " characters",
         *value);
  }
  out = value->get<std::string>();
}

void JsonFields::read(std::string_view name, std::vector<bool>& out) {
  const json* value = find(name);
  if (value == nullptr) return;
  const bool good =
      value->is_array() && std::all_of(value->begin(), value->end(), [](const json& v) { return v.is_boolean(); });
  if (!good) fail(name, "must be a list of true and false", *value);
  out.clear();
  for (const json& v : *value) out.push_back(v.get<bool>());
}

void JsonFields::read(std::string_view name, std::vector<int>& out, int64_t low, int64_t high, size_t min_size,
                      size_t max_size) {
  const json* value = find(name);
  if (value == nullptr) return;
  if (!value->is_array() || value->size() < min_size || value->size() > max_size) {
    fail(name, "must be a list of " + std::to_string(min_size) + " to " + std::to_string(max_size) + " integers",
         *value);
  }
  out.clear();
  for (const json& v : *value) {
    if (!integer_in(v, low, high)) fail(name, "must hold " + range_text(low, high) + " everywhere", v);
    out.push_back(static_cast<int>(v.get<int64_t>()));
  }
}

void JsonFields::read(std::string_view name, std::vector<std::string>& out, size_t max_points, size_t max_size) {
  const json* value = find(name);
  if (value == nullptr) return;
  if (!value->is_array() || value->size() > max_size) {
    fail(name, "must be a list of at most " + std::to_string(max_size) + " names", *value);
  }
  out.clear();
  for (const json& v : *value) {
    const size_t points = v.is_string() ? code_points(v.get_ref<const std::string&>()) : 0;
    if (points < 1 || points > max_points) {
      fail(name, "must hold strings of 1 to " + std::to_string(max_points) + " characters", v);
    }
    out.push_back(v.get<std::string>());
  }
}

void JsonFields::finish() const {
  for (const auto& [name, value] : value_.items()) {
    if (std::find(seen_.begin(), seen_.end(), name) == seen_.end()) {
      // A hostile name may be long or hold control characters; JSON quoting makes it printable.
      throw Error(Status::kModelFormat, path_ + ": unknown field " + brief(json(name)) +
                                            "; this release knows no such field, remove it or upgrade gaitcrafter-rt");
    }
  }
}

}  // namespace gaitcrafter
