// What the handles of the C interface are.
#pragma once

#include "engine/engine.h"

struct gc_engine {
  gaitcrafter::Engine engine;
};
