// 64 bits over bytes, to find damage: not forgery, which needs a hash of another kind (model/sha256.h).
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace gaitcrafter {

// Eight chains over words in turn, so that one multiplication a cycle keeps them busy. A step is one-to-one in the
// chain and in the word, so damage within one word always shows; other damage passes with a chance of about 2^-64.
inline uint64_t damage_sum(std::span<const std::byte> data) {
  constexpr uint64_t kOdd = 0x9e3779b97f4a7c15u;  // 2^64 / golden ratio
  constexpr size_t kChains = 8, kBlock = kChains * sizeof(uint64_t);
  const auto step = [](uint64_t chain, uint64_t word) { return std::rotl((chain ^ word) * kOdd, 29); };
  uint64_t chains[kChains];
  for (size_t i = 0; i < kChains; ++i) chains[i] = i + 1;
  const auto block = [&](const std::byte* at) {
    uint64_t words[kChains];
    std::memcpy(words, at, kBlock);
    for (size_t i = 0; i < kChains; ++i) chains[i] = step(chains[i], words[i]);
  };
  const size_t whole = data.size() / kBlock * kBlock;
  for (size_t at = 0; at < whole; at += kBlock) block(data.data() + at);
  if (whole < data.size()) {
    std::byte rest[kBlock] = {};
    std::memcpy(rest, data.data() + whole, data.size() - whole);
    block(rest);
  }
  uint64_t sum = data.size();
  for (const uint64_t chain : chains) sum = step(sum, chain);
  return (sum ^ sum >> 32) * kOdd;
}

}  // namespace gaitcrafter
