// The C interface: packs weights, and calls the best kernels that the processor can run.
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "isa.h"

namespace {

const Isa& isa() {
  static const Isa* chosen = [] {
    const char* only = std::getenv("PAGEWIRE_ISA");
    for (const Isa* one : {isa_avx2(), isa_generic()})
      if (one != nullptr && (only == nullptr || std::strcmp(only, one->name) == 0)) return one;
    return isa_generic();
  }();
  return *chosen;
}

int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to; }

}  // namespace

const char* pw_isa() { return isa().name; }
PwPool* pw_open(int threads) { return new PwPool(threads); }
void pw_close(PwPool* pool) { delete pool; }

int64_t pw_codes_bytes(int64_t n, int64_t k) { return up(n, kPanel) * kPanel * up(k, kGroup) * kGroup; }
int64_t pw_scales_bytes(int64_t n, int64_t k) { return up(n, kPanel) * kPanel * up(k, kGroup) * int64_t{sizeof(float)}; }

void pw_pack(const float* w, int64_t n, int64_t k, int8_t* codes, float* scales) {
  const int64_t groups = up(k, kGroup);
  std::memset(codes, 0, static_cast<size_t>(pw_codes_bytes(n, k)));
  std::memset(scales, 0, static_cast<size_t>(pw_scales_bytes(n, k)));
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t at = (row / kPanel * groups + g) * kPanel, lane = row % kPanel;
      const float* from = w + row * k + g * kGroup;
      const int64_t count = std::min(kGroup, k - g * kGroup);
      float most = 0;
      for (int64_t i = 0; i < count; ++i) most = std::max(most, std::fabs(from[i]));
      const float inverse = most > 0 ? 127.0f / most : 0.0f;
      scales[at + lane] = most / 127.0f;
      for (int64_t i = 0; i < count; ++i)
        codes[(at * kGroup) + (i / 2) * 2 * kPanel + 2 * lane + i % 2] = static_cast<int8_t>(std::nearbyint(from[i] * inverse));
    }
  }
}

void pw_layer(PwPool* pool, const PwShape* shape, const PwLayer* layer, const PwStep* step, float* hidden, float* kv) {
  isa().layer(*pool, *shape, *layer, *step, hidden, kv);
}

void pw_linear(PwPool* pool, const float* x, int64_t rows, const float* norm, float eps, const PwLinear* w, float* out) {
  isa().linear(*pool, x, rows, norm, eps, *w, out);
}

void pw_attention(PwPool* pool, const PwShape* shape, const PwStep* step, int64_t window, const float* q,
                  int64_t q_stride, const float* kv, float* out) {
  isa().attention(*pool, *shape, *step, window, q, q_stride, kv, out);
}
