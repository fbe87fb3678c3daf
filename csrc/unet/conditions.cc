#include "unet/conditions.h"

#include <algorithm>
#include <string>

#include "core/error.h"
#include "ops/time_embedding.h"

namespace gaitcrafter {
namespace {

// The axis's entries, or row n with weight 1 if there are none.
std::vector<LabelWeight> filled(const ModelConfig& config, const ClipConditions& conditions, int axis) {
  const auto given = conditions.axes[static_cast<size_t>(axis)];
  const auto labels = static_cast<int32_t>(config.labels[static_cast<size_t>(axis)].size());
  if (given.empty()) return {{labels, 1.0f}};
  for (const LabelWeight& w : given) {
    if (w.index < 0 || w.index >= labels) {
      throw Error(Status::kInvalidRequest, std::string(kAxisNames[static_cast<size_t>(axis)]) + " index " +
                                               std::to_string(w.index) + " is outside 0.." +
                                               std::to_string(labels - 1));
    }
  }
  return {given.begin(), given.end()};
}

// sum_k weight_k * row_k of a table [rows][width].
std::vector<double> blended_row(const float* table, size_t width, std::span<const LabelWeight> entries) {
  std::vector<double> sum(width, 0.0);
  for (const LabelWeight& e : entries) {
    const float* row = table + static_cast<size_t>(e.index) * width;
    for (size_t i = 0; i < width; ++i) sum[i] += static_cast<double>(e.weight) * row[i];
  }
  return sum;
}

void write_input_map(const ModelPackage& package, const ClipConditions& conditions, std::span<float> map) {
  const ModelConfig& config = package.config();
  std::vector<double> sum(map.size(), 0.0);
  for (int axis = 0; axis < kAxes; ++axis) {
    if (config.conditioning.wiring[static_cast<size_t>(axis)] != Wiring::kInputMap) continue;
    const std::string name = "input_maps." + std::string(kAxisNames[static_cast<size_t>(axis)]);
    const size_t width = static_cast<size_t>(config.conditioning.encoder_dim);
    auto code = blended_row(package.tensor(name + ".embedding").data, width, filled(config, conditions, axis));
    std::transform(code.begin(), code.end(), code.begin(), [](double v) { return silu(v); });
    const auto part =
        dense(package.tensor(name + ".proj.weight").data, package.tensor(name + ".proj.bias").data, map.size(), code);
    std::transform(sum.begin(), sum.end(), part.begin(), sum.begin(), std::plus<>());
  }
  std::transform(sum.begin(), sum.end(), map.begin(), [](double v) { return static_cast<float>(v); });
}

// Adds W[:, first:] silu(cond); entries that are zero are skipped, and silu(0) is 0: a one-hot vector costs one column.
void add_cond_vector(const TensorView& film, size_t first, std::span<const float> cond, std::span<double> terms) {
  const size_t columns = static_cast<size_t>(film.shape[1]);
  for (size_t k = 0; k < cond.size(); ++k) {
    if (cond[k] == 0.0f) continue;
    const double value = silu(static_cast<double>(cond[k]));
    for (size_t i = 0; i < terms.size(); ++i) terms[i] += film.data[i * columns + first + k] * value;
  }
}

}  // namespace

bool read_by_runs(std::string_view tensor) {
  const auto holds = [&](std::string_view part) { return tensor.find(part) != std::string_view::npos; };
  return tensor.starts_with("time_mlp.") || tensor.starts_with("input_maps.") || tensor == "null_cond" ||
         holds(".film.") || holds(".tables.");
}

FilmTimeTables::FilmTimeTables(const ModelPackage& package, const Plan& plan, std::span<const int32_t> timesteps)
    : steps_(static_cast<int>(timesteps.size())),
      film_floats_(plan.film_floats),
      terms_(timesteps.size() * plan.film_floats) {
  TimeMlpWeights w;
  w.dim = package.config().unet.dim;
  w.weight1 = package.tensor("time_mlp.linear1.weight").data;
  w.bias1 = package.tensor("time_mlp.linear1.bias").data;
  w.weight2 = package.tensor("time_mlp.linear2.weight").data;
  w.bias2 = package.tensor("time_mlp.linear2.bias").data;
  std::vector<std::vector<double>> codes;
  for (const int32_t t : timesteps) {
    codes.push_back(time_mlp(w, t));
    for (double& v : codes.back()) v = silu(v);
  }
  for (const FilmBlock& block : plan.film_blocks) {
    const TensorView weight = package.tensor(block.name + ".film.weight"),
                     bias = package.tensor(block.name + ".film.bias");
    const size_t columns = static_cast<size_t>(weight.shape[1]);
    for (int i = 0; i < 2 * block.width; ++i) {
      const float* row = weight.data + static_cast<size_t>(i) * columns;
      for (size_t step = 0; step < codes.size(); ++step) {
        double sum[4] = {bias.data[i], 0, 0, 0};  // four chains hide the latency; 4 * dim is a multiple of 4
        for (size_t k = 0; k < codes[step].size(); k += 4)
          for (size_t j = 0; j < 4; ++j) sum[j] += row[k + j] * codes[step][k + j];
        terms_[step * film_floats_ + static_cast<size_t>(block.offset + i)] =
            static_cast<float>((sum[0] + sum[1]) + (sum[2] + sum[3]));
      }
    }
  }
}

size_t input_map_floats(const ModelConfig& config) {
  const auto& wiring = config.conditioning.wiring;
  if (std::find(wiring.begin(), wiring.end(), Wiring::kInputMap) == wiring.end()) return 0;
  return static_cast<size_t>(config.unet.channels) * static_cast<size_t>(config.clip.height) *
         static_cast<size_t>(config.clip.width);
}

void write_conditions(const ModelPackage& package, const Plan& plan, const ClipConditions& conditions, float* state) {
  const ModelConfig& config = package.config();
  const size_t map = input_map_floats(config);
  if (map > 0) write_input_map(package, conditions, {state, map});
  const size_t cond_dim = static_cast<size_t>(config.conditioning.cond_dim);
  const float* cond = cond_dim == 0                ? nullptr
                      : conditions.cond != nullptr ? conditions.cond
                                                   : package.tensor("null_cond").data;
  for (const FilmBlock& block : plan.film_blocks) {
    const size_t width = 2 * static_cast<size_t>(block.width);
    std::vector<double> terms(width, 0.0);
    for (int axis = 0; axis < kAxes; ++axis) {
      if (config.conditioning.wiring[static_cast<size_t>(axis)] != Wiring::kBlockTable) continue;
      const TensorView table =
          package.tensor(block.name + ".tables." + std::string(kAxisNames[static_cast<size_t>(axis)]));
      const auto row = blended_row(table.data, width, filled(config, conditions, axis));
      std::transform(terms.begin(), terms.end(), row.begin(), terms.begin(), std::plus<>());
    }
    if (cond != nullptr)
      add_cond_vector(package.tensor(block.name + ".film.weight"), 4 * static_cast<size_t>(config.unet.dim),
                      {cond, cond_dim}, terms);
    std::transform(terms.begin(), terms.end(), state + map + block.offset,
                   [](double v) { return static_cast<float>(v); });
  }
}

}  // namespace gaitcrafter
