// A libnvinfer that says its version and does not start.
#include <cstdint>

extern "C" __attribute__((visibility("default"))) int32_t getInferLibVersion() { return FAKE_VERSION; }
extern "C" __attribute__((visibility("default"))) void* createInferRuntime_INTERNAL(void*, int32_t) { return nullptr; }
