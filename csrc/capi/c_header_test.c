/* The headers are plain C: this file is compiled as C11 with every warning an error. */
#include "gaitcrafter/gaitcrafter.h"
#include "gaitcrafter/reader.h"
#include "gaitcrafter/stream.h"

int gaitcrafter_c_header_test(void) {
  gc_request request = gc_request_default();
  gc_output output = gc_output_default();
  gc_sampler sampler = gc_sampler_default();
  gc_conditions conditions = gc_conditions_default();
  gc_info info = gc_info_default();
  gc_options options = gc_options_default();
  gc_backend backend = gc_backend_default();
  gc_reader_options reader = gc_reader_options_default();
  gc_cache_info cache = gc_cache_info_default();
  gc_pixels pixels = gc_pixels_default();
  gc_stream_options stream = gc_stream_options_default();
  return (int)(request.struct_size + output.struct_size + sampler.struct_size + conditions.struct_size +
               info.struct_size + options.struct_size + backend.struct_size + reader.struct_size + cache.struct_size +
               pixels.struct_size + stream.struct_size);
}
