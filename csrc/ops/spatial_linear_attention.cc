#include "ops/spatial_linear_attention.h"

#if defined(GC_AMX)
#include "ops/amx_linear_attention.h"
#else
#include "ops/linear_attention_product.h"
#endif
