#include "engine/profile.h"

#include <algorithm>

namespace gaitcrafter {
namespace {

void add(std::vector<ProfileRow>& rows, std::string_view stage, const NodeInfo& node, const PartTime& part) {
  const uint64_t calls = part.calls.load(std::memory_order_relaxed);
  if (calls == 0) return;
  auto row = std::find_if(rows.begin(), rows.end(), [&](const ProfileRow& r) {
    return r.stage == stage && r.op == node.op && r.arithmetic == node.arithmetic && r.height == node.height &&
           r.width == node.width;
  });
  if (row == rows.end())
    row = rows.insert(rows.end(), {stage, node.op, node.arithmetic, node.height, node.width, 0, 0, 0});
  row->calls += calls;
  row->seconds += 1e-9 * static_cast<double>(part.nanoseconds.load(std::memory_order_relaxed));
  row->operations += node.operations * static_cast<double>(calls);
}

void add_network(std::vector<ProfileRow>& rows, std::string_view stage, const UNet& network, const NodeTimes& times) {
  const std::vector<NodeInfo> nodes = network.nodes();
  for (size_t i = 0; i < nodes.size(); ++i) add(rows, stage, nodes[i], times[i]);
}

}  // namespace

RunTimes::RunTimes(const UNet& network, const UNet* exact) {
  denoiser.network = NodeTimes(network.nodes().size());
  if (exact != nullptr) denoiser.exact = NodeTimes(exact->nodes().size());
}

std::vector<ProfileRow> profile_rows(const RunTimes& times, const UNet& network, const UNet* exact) {
  std::vector<ProfileRow> rows;
  const auto part = [&](std::string_view op, const PartTime& time) { add(rows, "clip", {op, {}, 0, 0, 0, 0}, time); };
  part("time tables", times.tables);
  part("conditions", times.conditions);
  part("first noise", times.noise);
  if (exact != nullptr) add_network(rows, "network in fp32", *exact, times.denoiser.exact);
  add_network(rows, "network", network, times.denoiser.network);
  part("guidance", times.denoiser.guidance);
  part("sampler step", times.sampler);
  part("threshold, pack", times.pack);
  return rows;
}

}  // namespace gaitcrafter
