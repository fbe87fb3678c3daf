// Structs of the C interface to those of the core, checked.
#pragma once

#include <string>

#include "core/error.h"
#include "engine/engine.h"
#include "gaitcrafter/gaitcrafter.h"

namespace gaitcrafter {

// Throws if a struct is absent, smaller than this library's version of it, or of a newer version.
void check_struct(const char* name, uint32_t struct_size, uint32_t version, size_t known_size);

template <typename T>
const T& checked(const T* value, const char* name) {
  if (value == nullptr) throw Error(Status::kInvalidRequest, std::string(name) + " is NULL");
  check_struct(name, value->struct_size, value->version, sizeof(T));
  return *value;
}

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
