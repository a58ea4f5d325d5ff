// What a set of kernels made for one kind of processor offers.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <utility>

#include "api.h"
#include "pool.h"

struct PwPool {
  explicit PwPool(int threads) : team(threads) {}

  Team team;
  Buffer<int16_t> codes;
  Buffer<uint8_t> fine;
  Buffer<float> scales, wide, mixed, inner, scratch, parts;
};

// A number in float16. Shifted into place it is 2^112 times too small.
inline float half_to_float(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half & 0x7fff) << 13;
  float small;
  __builtin_memcpy(&small, &bits, sizeof small);
  return (half & 0x8000 ? -0x1p112f : 0x1p112f) * small;
}

struct Isa {
  const char* name;
  void (*layers)(PwPool&, const PwShape&, const PwLayer*, int64_t count, const PwStep&, float* hidden, void* kv);
  void (*linear)(PwPool&, const float* x, int64_t rows, const float* norm, float eps, const PwLinear&, float* out);
  void (*attention)(PwPool&, const PwShape&, const PwStep&, int64_t window, const float* q, int64_t q_stride,
                    const void* kv, float* out);
};

const Isa* isa_avx2();  // null where the processor cannot run it
const Isa* isa_generic();
