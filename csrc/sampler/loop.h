// The loop over a table's rows.
#pragma once

#include <functional>

#include "core/error.h"
#include "sampler/backend.h"
#include "sampler/pack.h"

namespace gaitcrafter {

// Called after each row with (rows done, rows in all); false stops the run.
using StepCallback = std::function<bool(int done, int total)>;

// Generates one batch. Returns Backend::finish's count of non-finite values.
// Throws kInvalidRequest for a threshold outside 0..1, kCancelled if `keep_going` returns false, and what the backend
// throws.
inline size_t run_sampler(Backend& backend, const SamplerTable& table, const BatchView& batch, float threshold,
                          uint8_t* packed, const StepCallback& keep_going = {}) {
  check_threshold(threshold);
  backend.prepare(table, batch);
  for (int row = 0; row < table.size(); ++row) {
    backend.eval(row);
    backend.step(row);
    if (keep_going && !keep_going(row + 1, table.size())) {
      throw Error(Status::kCancelled, "cancelled by the progress callback; no clip of this batch was kept");
    }
  }
  return backend.finish(threshold, packed);
}

}  // namespace gaitcrafter
