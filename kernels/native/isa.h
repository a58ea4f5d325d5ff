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
  Buffer<float> scales, wide, mixed, inner, scratch;
};

struct Isa {
  const char* name;
  void (*layer)(PwPool&, const PwShape&, const PwLayer&, const PwStep&, float* hidden, float* kv);
  void (*linear)(PwPool&, const float* x, int64_t rows, const float* norm, float eps, const PwLinear&, float* out);
  void (*attention)(PwPool&, const PwShape&, const PwStep&, int64_t window, const float* q, int64_t q_stride,
                    const float* kv, float* out);
};

const Isa* isa_avx2();  // null where the processor cannot run it
const Isa* isa_generic();
