// One generate call on a network that takes batches of a fixed size.
#pragma once

#include <span>

#include "engine/network.h"
#include "engine/request.h"

namespace gaitcrafter {

// Makes all clips of a checked request on the calling thread. Slots that a last batch lacks clips for repeat its last
// clip. Throws kCancelled if keep_going returns false, kInternal for values that are not finite, and what the backend
// throws.
void run_batches(const GenerateRequest& request, const GenerateOutput& output,
                 std::span<const ClipConditions> conditions, const SamplerTable& table, BatchBackend& backend,
                 int batch, size_t clip_floats);

}  // namespace gaitcrafter
