#include "ops/tiling.h"

#include <algorithm>

namespace gaitcrafter {
namespace {

constexpr int kBlockChannels = 64;
constexpr size_t kImageBytes = 384 << 10;  // a tile's halo image; with the weights of a block it fits a 1 MiB L2 cache
constexpr int kTilePixels = 256;           // enough that the weights, read once per tile, cost no bandwidth to speak of
constexpr int kWinogradPixels = 256, kWinogradBatch = 64;
constexpr size_t kAttentionFloats = 128 << 10;
constexpr int kSlackFloats = 64;  // products read up to a tile's rows past their last row

// Splits `total` into ceil(total / limit) parts and returns the largest part.
int balanced(int total, int limit) { return ceil_div(total, ceil_div(total, std::clamp(limit, 1, total))); }

// Rows, bands and frames of a tile, and the floats of its image.
void divide_frames(ConvGrid& g, int tile_pixels) {
  const size_t row_bytes = static_cast<size_t>(g.image_width) * g.channels * sizeof(float);
  const int image_rows = static_cast<int>(std::min<size_t>(kImageBytes / row_bytes, 1 << 16));
  const int limit = std::max((image_rows - g.kernel) / g.stride + 1, ceil_div(tile_pixels, g.width));
  g.rows = balanced(g.height, limit);
  if (g.winograd()) g.rows = std::min(round_up(g.rows, 2), g.height);
  g.bands = ceil_div(g.height, g.rows);
  g.tile_frames = g.bands > 1 ? 1 : balanced(g.frames, tile_pixels / (g.height * g.width));
  g.tiles = g.bands > 1 ? g.frames * g.bands : ceil_div(g.frames, g.tile_frames);
  const size_t image = static_cast<size_t>(g.image_rows(g.rows)) * g.image_width * g.blocks * g.channel_block;
  g.scratch_floats = static_cast<size_t>(g.tile_frames) * image;
}

size_t lanes_floats(int rows, int lanes) { return static_cast<size_t>(rows) * lanes; }

}  // namespace

int conv_channel_block(int channels) { return balanced(channels, kBlockChannels); }

ConvGrid conv_grid(int frames, int height, int width, int channels, int kernel, int stride) {
  ConvGrid g;
  g.kernel = kernel;
  g.stride = stride;
  g.padding = stride == 1 ? kernel / 2 : (kernel - stride) / 2;
  g.frames = frames;
  g.height = height;
  g.width = width;
  g.channels = channels;
  g.channel_block = conv_channel_block(channels);
  g.blocks = ceil_div(channels, g.channel_block);
  g.image_width = (width - 1) * stride + kernel;
  divide_frames(g, kTilePixels);
  return g;
}

bool prefers_winograd(int height, int width, int channels) {
  const int computed = round_up(height, 2) * round_up(width, 2) * 4;  // products of one channel pair, against 9 a pixel
  return channels >= 16 && computed < height * width * 6;
}

ConvGrid winograd_grid(int frames, int height, int width, int channels) {
  ConvGrid g = conv_grid(frames, height, width, channels, 3, 1);
  g.channel_block = channels;
  g.blocks = 1;
  g.image_width = round_up(width, 2) + 2;
  g.batch = 1;  // says that image rows come in pairs
  divide_frames(g, kWinogradPixels);
  const int patches = g.tile_frames * ceil_div(g.rows, 2) * ceil_div(width, 2);
  g.batch = balanced(patches, kWinogradBatch);
  const size_t transformed = 16 * (winograd_stride(g.batch, channels) + winograd_stride(g.batch, 4 * kWidestLanes));
  g.scratch_floats += transformed;
  return g;
}

int temporal_attention_sites(int channels, int heads, int dim, int frames, int sites) {
  const int per_lane = channels + 3 * dim + heads * dim;
  const int limit = std::clamp<int>(static_cast<int>(kAttentionFloats / per_lane) / frames, 1, std::min(16, sites));
  int best = 1;
  // The fullest vectors win, then the larger tile.
  for (int s = 2; s <= limit; ++s) {
    const auto waste = [&](int n) { return static_cast<double>(round_up(n * frames, kWidestLanes)) / (n * frames); };
    if (waste(s) <= waste(best)) best = s;
  }
  return best;
}

int linear_attention_tokens(int channels, int heads, int dim, int sites) {
  const int per_token = 2 * channels + heads * dim;
  const int limit = std::clamp<int>(static_cast<int>(kAttentionFloats / per_token), kWidestLanes, 256);
  return balanced(sites, limit / kWidestLanes * kWidestLanes);
}

int temporal_conv_sites(int channels, int frames, int sites) {
  const size_t per_site = static_cast<size_t>(channels) * (frames + 2);
  return balanced(sites, static_cast<int>(std::clamp<size_t>(kAttentionFloats / 2 / per_site, 1, 64)));
}

// [channels + 3 dim + heads * dim] rows of one tile's tokens, and a block of scores.
static size_t attention_floats(int channels, int heads, int dim, int tokens, int length) {
  const int pitch = static_cast<int>(token_pitch(tokens));
  const int block = 4 * kWidestLanes;
  return lanes_floats(channels + 3 * dim + heads * dim, pitch) + lanes_floats(length, block) + block + kSlackFloats +
         static_cast<size_t>(kWidestLanes) * round_up(channels, kWidestLanes);
}

size_t temporal_attention_scratch(int channels, int heads, int dim, int frames, int sites) {
  const int tile = temporal_attention_sites(channels, heads, dim, frames, sites);
  return attention_floats(channels, heads, dim, tile * frames, frames);
}

size_t spatial_attention_scratch(int channels, int heads, int dim, int sites) {
  return attention_floats(channels, heads, dim, sites, sites);
}

size_t linear_attention_scratch(int channels, int heads, int dim, int sites) {
  const int tokens = linear_attention_tokens(channels, heads, dim, sites);
  const int pitch = static_cast<int>(token_pitch(tokens));
  const int padded = round_up(dim, kWidestLanes), width = round_up(channels, kWidestLanes);
  const size_t slots = static_cast<size_t>(ceil_div(sites, tokens)) * heads * (dim + 2) * padded;
  const size_t rows =
      lanes_floats(width, tokens) + lanes_floats(2 * padded, tokens) + lanes_floats(channels + heads * dim, pitch);
  const size_t folded = lanes_floats(heads * dim, width);
  return slots + rows + folded + 2 * padded + static_cast<size_t>(kWidestLanes) * width + kSlackFloats;
}

size_t temporal_conv_scratch(int channels, int frames, int sites) {
  return static_cast<size_t>(temporal_conv_sites(channels, frames, sites)) * (frames + 2) * channels + kSlackFloats;
}

}  // namespace gaitcrafter
