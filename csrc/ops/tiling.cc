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
void divide_frames(ConvGrid& g, OperandType operand, int tile_pixels) {
  const size_t element = static_cast<size_t>(bytes_of(operand.type));
  const size_t row_bytes = static_cast<size_t>(g.image_width) * g.channels * element;
  const int image_rows = static_cast<int>(std::min<size_t>(kImageBytes / row_bytes, 1 << 16));
  const int limit = std::max((image_rows - g.kernel) / g.stride + 1, ceil_div(tile_pixels, g.width));
  g.rows = balanced(g.height, limit);
  if (g.winograd()) g.rows = std::min(round_up(g.rows, 2), g.height);
  g.bands = ceil_div(g.height, g.rows);
  const bool single = g.bands > 1 || (g.by_tiles && !g.taps_apart);
  g.tile_frames = single ? 1 : balanced(g.frames, tile_pixels / (g.height * g.width));
  g.tiles = g.bands > 1 ? g.frames * g.bands : ceil_div(g.frames, g.tile_frames);
  const size_t image = static_cast<size_t>(g.image_rows(g.rows)) * g.image_width * g.blocks * g.channel_block;
  // Vectors may read a step of K past the image, tiles a run of K from each of 15 pixels past a row.
  const size_t past = 64 + (g.by_tiles ? 15 * static_cast<size_t>(g.channel_block) * g.stride * element : 0);
  g.image_bytes = whole_lines(static_cast<size_t>(g.tile_frames) * image * element + past);
}

size_t sum_bytes(const ConvGrid& g) {
  const int run = g.width * g.tile_frames;  // pixels of an image row
  const size_t pixels = static_cast<size_t>(g.rows) * (g.by_tiles ? round_up(run, kWidestLanes) : run);
  return g.blocks > 1 ? pixels * 4 * kWidestLanes * sizeof(float) : 0;
}

}  // namespace

int conv_channel_block(OperandType operand, int channels) {
  if (!operand.tiles) return balanced(channels, kBlockChannels);
  return std::min(channels, 2 * operand.unit());
}

bool conv_taps_apart(OperandType operand, int channels, int stride) {
  return operand.tiles && (stride > 1 || channels >= operand.unit());
}

ConvGrid conv_grid(OperandType operand, int frames, int height, int width, int channels, int kernel, int stride) {
  ConvGrid g;
  g.kernel = kernel;
  g.stride = stride;
  g.padding = stride == 1 ? kernel / 2 : (kernel - stride) / 2;
  g.frames = frames;
  g.height = height;
  g.width = width;
  g.channels = channels;
  g.channel_block = conv_channel_block(operand, channels);
  g.blocks = ceil_div(channels, g.channel_block);
  g.image_width = (width - 1) * stride + kernel;
  g.by_tiles = operand.tiles;
  g.taps_apart = conv_taps_apart(operand, channels, stride);
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

int temporal_attention_sites(OperandType operand, int channels, int heads, int dim, int frames, int sites) {
  const int element = bytes_of(operand.type);
  if (operand.tiles) {
    const int token = 2 * element * (round_up(channels, operand.unit()) + heads * dim) + 3 * element * dim;
    const int tokens = std::min(256, static_cast<int>(kAttentionBytes) / token);
    return balanced(sites, std::max(tokens / round_up(frames, kWidestLanes), 1));
  }
  const int per_token = element * (channels + heads * dim) + 3 * dim * static_cast<int>(sizeof(float)) +
                        (operand.type == DType::kF32 ? 0 : 3 * dim * element);
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

size_t temporal_attention_scratch(OperandType operand, int channels, int heads, int dim, int frames, int sites) {
  const int tile = temporal_attention_sites(operand, channels, heads, dim, frames, sites);
  if (operand.tiles) return tile_attention_layout(channels, heads, dim, tile, frames).bytes;
  return attention_layout(operand.type, channels, heads, dim, tile * frames, frames).bytes;
}

size_t spatial_attention_scratch(OperandType operand, int channels, int heads, int dim, int sites) {
  if (operand.tiles) return tile_attention_layout(channels, heads, dim, 1, sites).bytes;
  return attention_layout(operand.type, channels, heads, dim, sites, sites).bytes;
}

TileLinearLayout tile_linear_layout(int channels, int heads, int dim, int sites) {
  TileLinearLayout l;
  l.tokens = balanced(sites, 256);
  l.tiles = ceil_div(sites, l.tokens);
  const TileAttentionLayout t = tile_attention_layout(channels, heads, dim, 1, l.tokens);
  const size_t rows = static_cast<size_t>(t.rows), hidden = static_cast<size_t>(t.hidden);
  ScratchCursor at;
  at.take(t.bytes, 1);
  l.contexts = at.take((static_cast<size_t>(heads) + 1) * (rows + 2) * rows, sizeof(float));
  l.k_sums = at.take(rows * static_cast<size_t>(t.pitch), sizeof(float));
  l.v_pairs = at.take(static_cast<size_t>(round_up(l.tokens, 32)) * rows, sizeof(Bf16));
  l.diagonal = at.take(static_cast<size_t>(round_up(heads * dim, 16)) * hidden, sizeof(Bf16));
  l.folded = at.take(hidden * static_cast<size_t>(round_up(channels, kWidestLanes)), sizeof(Bf16));
  l.bytes = at.bytes();
  return l;
}

size_t linear_attention_scratch(OperandType operand, int channels, int heads, int dim, int sites) {
  if (operand.tiles) return tile_linear_layout(channels, heads, dim, sites).bytes;
  return linear_attention_layout(operand.type, channels, heads, dim, sites).bytes;
}

size_t temporal_conv_scratch(OperandType operand, int channels, int frames, int sites) {
  const size_t elements = static_cast<size_t>(temporal_conv_sites(channels, frames, sites)) * (frames + 2) * channels;
  const size_t past = operand.tiles ? 15 * static_cast<size_t>(channels) : 0;  // of a last tile that is not full
  return (elements + past) * static_cast<size_t>(bytes_of(operand.type)) + 256;
}

}  // namespace gaitcrafter
