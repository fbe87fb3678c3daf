#include "model/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>
#include <numeric>
#include <optional>
#include <unordered_map>

#include "core/error.h"
#include "model/json_fields.h"
#include "model/safetensors_header.h"
#include "model/tensors.h"

namespace gaitcrafter {

namespace {

constexpr size_t kLengthBytes = 8;
constexpr uint64_t kMaxHeader = 100'000'000;  // the format's own bound

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  throw Error(Status::kModelFormat, path + ": " + why);
}

uint64_t header_length(std::span<const std::byte> bytes, const std::string& path) {
  if (looks_like_pickle(bytes)) refuse(path, "a PyTorch pickle; run `gaitcrafter-rt convert`");
  if (bytes.size() < kLengthBytes) {
    refuse(path, std::to_string(bytes.size()) + " bytes; too short for a safetensors file");
  }
  uint64_t n = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) n |= std::to_integer<uint64_t>(bytes[i]) << (8 * i);
  if (n > kMaxHeader || n > bytes.size() - kLengthBytes) {
    refuse(path, "a header of " + std::to_string(n) + " bytes in a file of " + std::to_string(bytes.size()) +
                     "; not a safetensors file, or cut short");
  }
  return n;
}

// Data must be covered without gaps or overlaps, so that a file can neither hide bytes nor alias tensors.
void check_coverage(std::span<const TensorSpec> expected, const std::vector<HeaderEntry>& entries, uint64_t data_size,
                    const std::string& path) {
  std::vector<size_t> order(entries.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return entries[a].begin < entries[b].begin; });
  uint64_t at = 0;
  for (const size_t i : order) {
    if (entries[i].begin != at) {
      refuse(path, expected[i].name + ": data_offsets begin at " + std::to_string(entries[i].begin) + " where " +
                       std::to_string(at) + " is next; tensors may neither overlap nor leave gaps");
    }
    at = entries[i].end;
  }
  if (at != data_size) {
    refuse(path, "the tensors end at byte " + std::to_string(at) + " of " + std::to_string(data_size) +
                     "; the file is cut short or has bytes that belong to no tensor");
  }
}

void check_finite(const float* values, size_t n, const std::string& name, const std::string& path) {
  constexpr uint32_t kExponent = 0x7F800000u;
  for (size_t i = 0; i < n; ++i) {
    if ((std::bit_cast<uint32_t>(values[i]) & kExponent) == kExponent) {
      refuse(path,
             name + "[" + std::to_string(i) + "] is not finite; the training run diverged or the file is damaged");
    }
  }
}

std::unique_ptr<float[]> allocate(size_t n, const std::string& path) {
  try {
    return std::make_unique_for_overwrite<float[]>(n);
  } catch (const std::bad_alloc&) {
    throw Error(Status::kOutOfMemory,
                path + ": no memory for a tensor of " + std::to_string(n * sizeof(float)) + " bytes");
  }
}

}  // namespace

bool looks_like_pickle(std::span<const std::byte> b) {
  const auto at = [&](size_t i) { return std::to_integer<int>(b[i]); };
  if (b.size() >= 4 && at(0) == 'P' && at(1) == 'K' && at(2) <= 8 && at(3) <= 8) return true;
  // Protocol marker, then 2 to 5. As a safetensors header length it would be a file of 640 bytes or more of header
  // whose ninth byte is '{'; a pickle has an opcode there.
  return b.size() >= 2 && at(0) == 0x80 && at(1) >= 2 && at(1) <= 5 && !(b.size() > 8 && at(8) == '{');
}

float bfloat16_to_float(uint16_t h) { return std::bit_cast<float>(uint32_t{h} << 16); }

float half_to_float(uint16_t h) {
  const uint32_t sign = uint32_t{h & 0x8000u} << 16;
  const uint32_t exponent = (h >> 10) & 31, mantissa = h & 1023u;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | mantissa << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign != 0 ? -magnitude : magnitude;
}

WeightsFile::WeightsFile(std::shared_ptr<const MappedFile> file, std::span<const TensorSpec> expected)
    : file_(std::move(file)) {
  const std::string& path = file_->path();
  const auto bytes = file_->bytes();
  const uint64_t header = header_length(bytes, path);
  const auto entries = read_header(file_->text().substr(kLengthBytes, header), expected, path);
  const auto data = bytes.subspan(kLengthBytes + header);
  check_coverage(expected, entries, data.size(), path);

  for (size_t i = 0; i < expected.size(); ++i) {
    const size_t n = static_cast<size_t>(*element_count(expected[i].shape));
    const std::byte* source = data.data() + entries[i].begin;
    const bool aligned = reinterpret_cast<uintptr_t>(source) % alignof(float) == 0;
    if (entries[i].dtype == WeightType::kF32 && aligned) {
      values_.push_back(reinterpret_cast<const float*>(source));
    } else {
      auto values = allocate(n, path);
      if (entries[i].dtype == WeightType::kF32) {
        std::memcpy(values.get(), source, n * sizeof(float));
      } else {
        const auto convert = entries[i].dtype == WeightType::kF16 ? half_to_float : bfloat16_to_float;
        for (size_t k = 0; k < n; ++k) {
          uint16_t h;
          std::memcpy(&h, source + 2 * k, sizeof h);
          values[k] = convert(h);
        }
      }
      values_.push_back(values.get());
      converted_.push_back(std::move(values));
    }
    check_finite(values_.back(), n, expected[i].name, path);
  }
}

}  // namespace gaitcrafter
