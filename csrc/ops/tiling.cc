#include "ops/tiling.h"

#include <algorithm>

namespace gaitcrafter {
namespace {

constexpr int kBlockChannels = 64;
constexpr size_t kImageBytes = 384 << 10;  // a tile's halo image; with the weights of a block it fits a 1 MiB L2 cache
constexpr int kTilePixels = 256;           // enough that the weights, read once per tile, cost no bandwidth to speak of
constexpr int kWinogradPixels = 256, kWinogradBatch = 64;
constexpr size_t kAttentionBytes = 512 << 10;

// Splits `total` into ceil(total / limit) parts and returns the largest part.
int balanced(int total, int limit) { return ceil_div(total, ceil_div(total, std::clamp(limit, 1, total))); }

size_t whole_lines(size_t bytes) { return (bytes + 63) / 64 * 64; }

// Rows, bands and frames of a tile, and the bytes of its image.
void divide_frames(ConvGrid& g, DType operand, int tile_pixels) {
  const size_t element = static_cast<size_t>(bytes_of(operand));
  const size_t row_bytes = static_cast<size_t>(g.image_width) * g.channels * element;
  const int image_rows = static_cast<int>(std::min<size_t>(kImageBytes / row_bytes, 1 << 16));
  const int limit = std::max((image_rows - g.kernel) / g.stride + 1, ceil_div(tile_pixels, g.width));
  g.rows = balanced(g.height, limit);
  if (g.winograd()) g.rows = std::min(round_up(g.rows, 2), g.height);
  g.bands = ceil_div(g.height, g.rows);
  g.tile_frames = g.bands > 1 ? 1 : balanced(g.frames, tile_pixels / (g.height * g.width));
  g.tiles = g.bands > 1 ? g.frames * g.bands : ceil_div(g.frames, g.tile_frames);
  const size_t image = static_cast<size_t>(g.image_rows(g.rows)) * g.image_width * g.blocks * g.channel_block;
  g.image_bytes = whole_lines(static_cast<size_t>(g.tile_frames) * image * element + 64);
}

size_t sum_bytes(const ConvGrid& g) {
  const size_t pixels = static_cast<size_t>(g.tile_frames) * g.rows * g.width;
  return g.blocks > 1 ? pixels * 4 * kWidestLanes * sizeof(float) : 0;
}

}  // namespace

int conv_channel_block(int channels) { return balanced(channels, kBlockChannels); }

ConvGrid conv_grid(DType operand, int frames, int height, int width, int channels, int kernel, int stride) {
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
  divide_frames(g, operand, kTilePixels);
  g.scratch_bytes = g.image_bytes + sum_bytes(g);
  return g;
}

bool prefers_winograd(int height, int width, int channels) {
  const int computed = round_up(height, 2) * round_up(width, 2) * 4;  // products of one channel pair, against 9 a pixel
  return channels >= 16 && computed < height * width * 6;
}

ConvGrid winograd_grid(int frames, int height, int width, int channels) {
  ConvGrid g = conv_grid(DType::kF32, frames, height, width, channels, 3, 1);
  g.channel_block = channels;
  g.blocks = 1;
  g.image_width = round_up(width, 2) + 2;
  g.batch = 1;  // says that image rows come in pairs
  divide_frames(g, DType::kF32, kWinogradPixels);
  const int patches = g.tile_frames * ceil_div(g.rows, 2) * ceil_div(width, 2);
  g.batch = balanced(patches, kWinogradBatch);
  const size_t transformed = 16 * (winograd_stride(g.batch, channels) + winograd_stride(g.batch, 4 * kWidestLanes));
  g.scratch_bytes = g.image_bytes + transformed * sizeof(float);
  return g;
}

int temporal_attention_sites(DType operand, int channels, int heads, int dim, int frames, int sites) {
  const int element = bytes_of(operand);
  const int per_token = element * (channels + heads * dim) + 3 * dim * static_cast<int>(sizeof(float)) +
                        (operand == DType::kF32 ? 0 : 3 * dim * element);
  const int limit = std::clamp<int>(static_cast<int>(kAttentionBytes / per_token) / frames, 1, std::min(16, sites));
  int best = 1;
  // The fullest vectors win, then the larger tile.
  for (int s = 2; s <= limit; ++s) {
    const auto waste = [&](int n) { return static_cast<double>(round_up(n * frames, kWidestLanes)) / (n * frames); };
    if (waste(s) <= waste(best)) best = s;
  }
  return best;
}

int linear_attention_tokens(DType operand, int channels, int heads, int dim, int sites) {
  const int per_token = bytes_of(operand) * 2 * channels + static_cast<int>(sizeof(float)) * heads * dim;
  const int limit = std::clamp<int>(static_cast<int>(kAttentionBytes / per_token), kWidestLanes, 256);
  return balanced(sites, limit / kWidestLanes * kWidestLanes);
}

int temporal_conv_sites(int channels, int frames, int sites) {
  const size_t per_site = static_cast<size_t>(channels) * (frames + 2) * sizeof(float);
  return balanced(sites, static_cast<int>(std::clamp<size_t>(kAttentionBytes / 2 / per_site, 1, 64)));
}

LinearAttentionLayout linear_attention_layout(DType operand, int channels, int heads, int dim, int sites) {
  const size_t element = static_cast<size_t>(bytes_of(operand));
  const auto converted = [&](size_t count) { return operand == DType::kF32 ? 0 : count; };
  LinearAttentionLayout l;
  l.tokens = linear_attention_tokens(operand, channels, heads, dim, sites);
  l.tiles = ceil_div(sites, l.tokens);
  l.dim_padded = round_up(dim, kWidestLanes);
  l.pitch = token_pitch(l.tokens);
  const size_t tokens = static_cast<size_t>(round_up(l.tokens, 2)), pitch = static_cast<size_t>(l.pitch);
  const size_t padded = static_cast<size_t>(l.dim_padded), hidden = static_cast<size_t>(heads) * dim;
  const size_t width = static_cast<size_t>(round_up(channels, kWidestLanes));
  const size_t head_slots = static_cast<size_t>(l.tiles) * heads;
  ScratchCursor at;
  l.slots = at.take(head_slots * (static_cast<size_t>(dim) + 2) * padded, sizeof(float));
  l.x = at.take(tokens * width, element);
  l.kv = at.take(tokens * 2 * padded, sizeof(float));
  l.kv_operands = at.take(converted(tokens * 2 * padded), element);
  l.columns = at.take(static_cast<size_t>(channels) * pitch, element);
  l.q = at.take(hidden * pitch, sizeof(float));
  l.q_operands = at.take(converted(hidden * pitch), element);
  l.context = at.take(converted(static_cast<size_t>(dim) * padded), element);
  l.folded = at.take(hidden * width, sizeof(float));
  l.folded_operands = at.take(converted(hidden * width), element);
  l.row = at.take(width + 4 * kWidestLanes, element);
  l.bytes = at.bytes();
  return l;
}

size_t temporal_attention_scratch(DType operand, int channels, int heads, int dim, int frames, int sites) {
  const int tile = temporal_attention_sites(operand, channels, heads, dim, frames, sites);
  return attention_layout(operand, channels, heads, dim, tile * frames, frames).bytes;
}

size_t spatial_attention_scratch(DType operand, int channels, int heads, int dim, int sites) {
  return attention_layout(operand, channels, heads, dim, sites, sites).bytes;
}

size_t linear_attention_scratch(DType operand, int channels, int heads, int dim, int sites) {
  return linear_attention_layout(operand, channels, heads, dim, sites).bytes;
}

size_t temporal_conv_scratch(DType operand, int channels, int frames, int sites) {
  const size_t elements = static_cast<size_t>(temporal_conv_sites(channels, frames, sites)) * (frames + 2) * channels;
  return elements * static_cast<size_t>(bytes_of(operand)) + 256;
}

}  // namespace gaitcrafter
