#include "model/safetensors_header.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>

#include "core/error.h"
#include "model/json_fields.h"
#include "model/tensors.h"

namespace gaitcrafter {

namespace {

using nlohmann::json;

std::string shape_text(std::span<const int64_t> shape) {
  std::string text = "[";
  for (const int64_t d : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(d);
  return text + "]";
}

// Refuses at the first token that is out of place, so that neither nesting nor length can cost memory.
class HeaderReader final : public nlohmann::json_sax<json> {
 public:
  HeaderReader(std::span<const TensorSpec> expected, const std::string& path)
      : expected_(expected), path_(path), entries_(expected.size()), seen_(expected.size(), false) {
    for (size_t i = 0; i < expected.size(); ++i) index_.emplace(expected[i].name, i);
  }

  std::vector<HeaderEntry> finish() {
    for (size_t i = 0; i < expected_.size(); ++i) {
      if (!seen_[i]) refuse("lacks the tensor " + expected_[i].name + " " + shape_text(expected_[i].shape));
    }
    return std::move(entries_);
  }

  bool start_object(size_t) override {
    if (place_ == Place::kStart) {
      place_ = Place::kTop;
    } else if (place_ == Place::kTopValue) {
      place_ = Place::kTensor;
      have_dtype_ = have_shape_ = have_offsets_ = false;
    } else if (place_ == Place::kMetadataValue) {
      place_ = Place::kMetadata;
    } else {
      misplaced("an object");
    }
    return true;
  }

  bool key(std::string& name) override {
    switch (place_) {
      case Place::kTop:
        if (name == "__metadata__") {
          place_ = Place::kMetadataValue;
        } else {
          begin_tensor(name);
        }
        return true;
      case Place::kTensor:
        if (name == "dtype") {
          place_ = Place::kDtype;
        } else if (name == "shape") {
          place_ = Place::kShape;
        } else if (name == "data_offsets") {
          place_ = Place::kOffsets;
        } else {
          refuse(current().name + ": unknown header field " + brief(json(name)));
        }
        return true;
      case Place::kMetadata:
        return true;
      default:
        misplaced("a key");
    }
  }

  bool string(std::string& text) override {
    if (place_ == Place::kMetadata) return true;
    if (place_ != Place::kDtype) misplaced("a string");
    if (text == "F32") {
      entry().dtype = WeightType::kF32;
    } else if (text == "F16") {
      entry().dtype = WeightType::kF16;
    } else if (text == "BF16") {
      entry().dtype = WeightType::kBF16;
    } else {
      refuse(current().name + ": dtype " + brief(json(text)) + "; weights must be F32, F16 or BF16");
    }
    have_dtype_ = true;
    place_ = Place::kTensor;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ != Place::kShape && place_ != Place::kOffsets) misplaced("a list");
    in_list_ = true;
    numbers_.clear();
    return true;
  }

  bool number_unsigned(uint64_t value) override {
    // No tensor of ours has more than 4 dimensions; a longer list is refused before it grows.
    if (!in_list_ || numbers_.size() >= 8 || value > static_cast<uint64_t>(INT64_MAX)) misplaced("a number");
    numbers_.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool end_array() override {
    if (place_ == Place::kShape) {
      if (numbers_ != current().shape) {
        refuse(current().name + " has shape " + shape_text(numbers_) + "; this config needs " +
               shape_text(current().shape));
      }
      have_shape_ = true;
    } else {
      if (numbers_.size() != 2) refuse(current().name + ": data_offsets must be two numbers");
      entry().begin = static_cast<uint64_t>(numbers_[0]);
      entry().end = static_cast<uint64_t>(numbers_[1]);
      have_offsets_ = true;
    }
    in_list_ = false;
    place_ = Place::kTensor;
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kTensor) {
      end_tensor();
      place_ = Place::kTop;
    } else if (place_ == Place::kMetadata) {
      place_ = Place::kTop;
    } else {
      place_ = Place::kEnd;
    }
    return true;
  }

  bool null() override { misplaced("null"); }
  bool boolean(bool) override { misplaced("a boolean"); }
  bool number_integer(int64_t) override { misplaced("a negative number"); }
  bool number_float(double, const std::string&) override { misplaced("a number with a fraction"); }
  bool binary(json::binary_t&) override { misplaced("binary data"); }
  bool parse_error(size_t position, const std::string&, const json::exception& e) override {
    refuse("header is not JSON at byte " + std::to_string(position) + ": " + std::string(e.what()).substr(0, 300));
  }

 private:
  enum class Place { kStart, kTop, kTopValue, kTensor, kDtype, kShape, kOffsets, kMetadataValue, kMetadata, kEnd };

  [[noreturn]] void refuse(const std::string& why) const { throw Error(Status::kModelFormat, path_ + ": " + why); }
  [[noreturn]] void misplaced(const std::string& what) const { refuse("header has " + what + " where none belongs"); }

  const TensorSpec& current() const { return expected_[current_]; }
  HeaderEntry& entry() { return entries_[current_]; }

  void begin_tensor(const std::string& name) {
    const auto it = index_.find(name);
    if (it == index_.end()) refuse("holds a tensor that this config does not have: " + brief(json(name)));
    if (seen_[it->second]) refuse("names the tensor " + name + " twice");
    current_ = it->second;
    seen_[current_] = true;
    place_ = Place::kTopValue;
  }

  void end_tensor() {
    if (!have_dtype_ || !have_shape_ || !have_offsets_) {
      refuse(current().name + ": header needs dtype, shape and data_offsets");
    }
    const uint64_t size = entry().dtype == WeightType::kF32 ? 4 : 2;
    const uint64_t need = *element_count(current().shape) * size;  // bounded by total_fp32_bytes
    if (entry().end < entry().begin || entry().end - entry().begin != need) {
      refuse(current().name + ": data_offsets [" + std::to_string(entry().begin) + ", " + std::to_string(entry().end) +
             "] do not span the " + std::to_string(need) + " bytes of its shape");
    }
  }

  std::span<const TensorSpec> expected_;
  const std::string& path_;
  std::unordered_map<std::string_view, size_t> index_;
  std::vector<HeaderEntry> entries_;
  std::vector<bool> seen_;
  Place place_ = Place::kStart;
  size_t current_ = 0;
  bool have_dtype_ = false, have_shape_ = false, have_offsets_ = false, in_list_ = false;
  std::vector<int64_t> numbers_;
};

}  // namespace

std::vector<HeaderEntry> read_header(std::string_view text, std::span<const TensorSpec> expected,
                                     const std::string& path) {
  HeaderReader reader(expected, path);
  try {
    if (text.empty() || text.front() != '{') {
      throw Error(Status::kModelFormat, path + ": the header does not start with {; not a safetensors file");
    }
    refuse_nul(text, path + ": header");
    json::sax_parse(text.begin(), text.end(), &reader);
  } catch (const json::exception& e) {  // a string that is not UTF-8, quoted in a message of ours
    throw Error(Status::kModelFormat, path + ": header is not JSON: " + std::string(e.what()).substr(0, 300));
  }
  return reader.finish();
}

}  // namespace gaitcrafter
