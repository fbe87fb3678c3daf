#include "ops/norm_statistics.h"

#include <cmath>

namespace gaitcrafter {
namespace {

constexpr double kEps = 1e-5;

// Count, mean and sum of squared deviations of a set of values; sets are joined without cancellation (Chan et al.
// 1979).
struct Moments {
  double count = 0, mean = 0, squares = 0;

  void join(double other_count, double other_mean, double other_squares) {
    const double total = count + other_count, delta = other_mean - mean;
    mean += delta * (other_count / total);
    squares += other_squares + delta * delta * (count * other_count / total);
    count = total;
  }
};

double slot_pixels(const ConvGrid& g, int band) {
  const int first = band * g.rows, last = min_of(first + g.rows, g.height);
  return static_cast<double>(last - first) * g.width;
}

double film_scale(const Film& f, int c) {
  return 1.0 + (f.time ? f.time[c] : 0.0f) + (f.condition ? f.condition[c] : 0.0f);
}

double film_shift(const Film& f, int channels, int c) {
  return 0.0 + (f.time ? f.time[channels + c] : 0.0f) + (f.condition ? f.condition[channels + c] : 0.0f);
}

// One group over the frames [frame_begin, frame_end).
Moments group_moments(const GroupNormAffine& a, int group, int frame_begin, int frame_end) {
  const int width = a.channels / a.groups;
  Moments m;
  for (int c = group * width; c < (group + 1) * width; ++c) {
    for (int f = frame_begin; f < frame_end; ++f) {
      for (int band = 0; band < a.grid.bands; ++band) {
        const float* slot = a.statistics + (static_cast<ptrdiff_t>(f) * a.grid.bands + band) * 2 * a.channels;
        m.join(slot_pixels(a.grid, band), slot[c], slot[a.channels + c]);
      }
    }
  }
  return m;
}

}  // namespace

void group_norm_affine(const GroupNormAffine& a, TileRange sets, float* scale, float* shift) {
  const bool per_frame = a.scope == NormScope::kFrame;
  const int width = a.channels / a.groups;
  for (int set = sets.begin; set < sets.end; ++set) {
    const int frame = set / a.groups, group = set % a.groups;  // frame 0 for the clip
    const Moments m = group_moments(a, group, frame, per_frame ? frame + 1 : a.grid.frames);
    const double rstd = 1.0 / std::sqrt(m.squares / m.count + kEps);
    for (int c = group * width; c < (group + 1) * width; ++c) {
      const double gain = rstd * a.weight[c], film = film_scale(a.film, c);
      const ptrdiff_t at = static_cast<ptrdiff_t>(frame) * a.channels + c;
      scale[at] = static_cast<float>(gain * film);
      shift[at] = static_cast<float>((a.bias[c] - m.mean * gain) * film + film_shift(a.film, a.channels, c));
    }
  }
}

void rms_norm_affine(const float* gamma, int channels, Film film, float* scale, float* shift) {
  const double root = std::sqrt(static_cast<double>(channels));
  for (int c = 0; c < channels; ++c) {
    scale[c] = static_cast<float>(root * gamma[c] * film_scale(film, c));
    shift[c] = static_cast<float>(film_shift(film, channels, c));
  }
}

}  // namespace gaitcrafter
