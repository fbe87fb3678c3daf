// What profiles say of the nodes of a plan.
#pragma once

#include <vector>

#include "unet/plan.h"
#include "unet/unet.h"

namespace gaitcrafter {

// `ops` is the table that the plan was built for.
std::vector<NodeInfo> node_infos(const Plan& plan, const OpTable& ops);

}  // namespace gaitcrafter
