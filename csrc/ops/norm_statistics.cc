#include "ops/norm_statistics.h"

#include <cmath>

namespace gaitcrafter {
namespace {

constexpr double kEps = 1e-5;

struct Moments {
  double count = 0, mean = 0, squares = 0;  // number of values, their mean, the sum of their squared deviations from it
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

// Calls visit(slot, pixels) for the slots of the frames [frame_begin, frame_end).
template <class Visit>
void for_each_slot(const GroupNormAffine& a, int frame_begin, int frame_end, Visit visit) {
  const float* slot = a.statistics + static_cast<ptrdiff_t>(frame_begin) * a.grid.bands * 2 * a.channels;
  for (int f = frame_begin; f < frame_end; ++f)
    for (int band = 0; band < a.grid.bands; ++band, slot += 2 * a.channels) visit(slot, slot_pixels(a.grid, band));
}

// One group over the frames [frame_begin, frame_end): first the mean, then deviations from it, so that nothing cancels.
Moments group_moments(const GroupNormAffine& a, int group, int frame_begin, int frame_end) {
  const int width = a.channels / a.groups, first = group * width;
  Moments m;
  double sum = 0;
  for_each_slot(a, frame_begin, frame_end, [&](const float* slot, double pixels) {
    double means = 0;
    for (int c = first; c < first + width; ++c) means += slot[c];
    sum += means * pixels;
    m.count += pixels * width;
  });
  m.mean = sum / m.count;
  for_each_slot(a, frame_begin, frame_end, [&](const float* slot, double pixels) {
    double within = 0, between = 0;
    for (int c = first; c < first + width; ++c) {
      const double d = slot[c] - m.mean;
      within += slot[a.channels + c];
      between += d * d;
    }
    m.squares += within + between * pixels;
  });
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
