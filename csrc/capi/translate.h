// Structs of the C interface to those of the core, checked.
#pragma once

#include <string>

#include "core/error.h"
#include "engine/engine.h"
#include "gaitcrafter/gaitcrafter.h"

namespace gaitcrafter {

// Throws if a struct is smaller than `known_size`, what its version has, or of a newer version than this library's.
void check_struct(const char* name, uint32_t struct_size, uint32_t version, size_t known_size);

// A struct that is the same in all versions. Throws what check_struct throws, or if it is absent.
template <typename T>
const T& checked(const T* value, const char* name) {
  if (value == nullptr) throw Error(Status::kInvalidRequest, std::string(name) + " is NULL");
  check_struct(name, value->struct_size, value->version, sizeof(T));
  return *value;
}

// A request of any version, as this library's.
gc_request checked_request(const gc_request* request);

EngineOptions to_options(const gc_options* options);

struct SamplerChoice {
  SamplerSettings settings;
  std::array<bool, kAxes> null_axes;
};

// The model's settings fill the fields that the caller left open; nullptr leaves all open. Ranges that compile_table
// checks are not checked again.
SamplerChoice to_sampler(const gc_sampler* sampler, const ModelConfig& config);
gc_sampler from_sampler(const SamplerChoice& choice);

ConditionRequest to_conditions(const gc_conditions* conditions);
GenerateRequest to_request(const gc_request& request, const ModelConfig& config);
GenerateOutput to_output(const gc_output& output);

}  // namespace gaitcrafter
