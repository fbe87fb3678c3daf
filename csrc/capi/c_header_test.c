/* The header is plain C: this file is compiled as C11 with every warning an error. */
#include "gaitcrafter/gaitcrafter.h"

int gaitcrafter_c_header_test(void) {
  gc_request request = gc_request_default();
  gc_output output = gc_output_default();
  gc_sampler sampler = gc_sampler_default();
  gc_conditions conditions = gc_conditions_default();
  gc_info info = gc_info_default();
  gc_options options = gc_options_default();
  return (int)(request.struct_size + output.struct_size + sampler.struct_size + conditions.struct_size + info.struct_size +
               options.struct_size);
}
