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

// The smallest float16 that is not below x >= 0; the largest there is for what is beyond it.
uint16_t half_above(float x) {
  uint32_t bits;
  const float small = x * 0x1p-112f;
  std::memcpy(&bits, &small, sizeof bits);
  auto half = static_cast<uint16_t>(std::min<uint32_t>(bits >> 13, 0x7bff));
  if (half < 0x7bff && half_to_float(half) < x) ++half;
  return half;
}

// Writes groups of codes to their places among the panels.
struct Writer {
  const PwLinear& to;
  int64_t groups;

  explicit Writer(const PwLinear& to) : to(to), groups(up(to.k, kGroup)) {}

  void put(int64_t row, int64_t group, const uint8_t* from, uint16_t scale, uint16_t offset) const {
    const int64_t at = row / kPanel * groups + group, lane = row % kPanel;
    auto* codes = const_cast<uint8_t*>(to.codes) + at * kGroup * kPanel * to.bits / 8;
    if (to.bits == 8)
      for (int64_t i = 0; i < kGroup; ++i) codes[i / 2 * 2 * kPanel + 2 * lane + i % 2] = from[i];
    else
      for (int64_t i = 0; i < kGroup / 2; ++i)
        codes[i / 4 * 4 * kPanel + 4 * lane + i % 4] = static_cast<uint8_t>(from[i] | from[i + kGroup / 2] << 4);
    const_cast<uint16_t*>(to.scales)[at * kPanel + lane] = scale;
    if (to.offsets) const_cast<uint16_t*>(to.offsets)[at * kPanel + lane] = offset;
  }
};

}  // namespace

const char* pw_isa() { return isa().name; }
PwPool* pw_open(int threads) { return new PwPool(threads); }
void pw_close(PwPool* pool) { delete pool; }

int64_t pw_codes_bytes(int64_t n, int64_t k, int64_t bits) { return pw_groups(n, k) * kGroup * bits / 8; }
int64_t pw_groups(int64_t n, int64_t k) { return up(n, kPanel) * kPanel * up(k, kGroup); }

void pw_pack(const float* w, int64_t first, int64_t rows, const PwLinear* to) {
  const Writer writer(*to);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t g = 0; g < writer.groups; ++g) {
      const float* from = w + row * to->k + g * kGroup;
      const int64_t count = std::min(kGroup, to->k - g * kGroup);
      float most = 0;
      for (int64_t i = 0; i < count; ++i) most = std::max(most, std::fabs(from[i]));
      const uint16_t scale = half_above(most / 127.0f);
      uint8_t codes[kGroup] = {};
      for (int64_t i = 0; i < count && scale; ++i)
        codes[i] = static_cast<uint8_t>(static_cast<int8_t>(std::nearbyint(from[i] / half_to_float(scale))));
      writer.put(first + row, g, codes, scale, 0);
    }
}

void pw_place(const uint8_t* codes, const uint16_t* scales, const uint16_t* offsets, int64_t first, int64_t rows,
              const PwLinear* to) {
  const Writer writer(*to);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t g = 0; g < writer.groups; ++g) {
      const int64_t at = row * writer.groups + g;
      writer.put(first + row, g, codes + at * kGroup, scales[at], offsets ? offsets[at] : 0);
    }
}

void pw_rows(const PwLinear* w, const int64_t* ids, int64_t count, float* out) {
  const int64_t groups = up(w->k, kGroup);
  for (int64_t r = 0; r < count; ++r)
    for (int64_t i = 0; i < w->k; ++i) {
      const int64_t at = ids[r] / kPanel * groups + i / kGroup, lane = ids[r] % kPanel, in = i % kGroup;
      const auto code = static_cast<int8_t>(w->codes[at * kGroup * kPanel + (in / 2) * 2 * kPanel + 2 * lane + in % 2]);
      out[r * w->k + i] = half_to_float(w->scales[at * kPanel + lane]) * static_cast<float>(code);
    }
}

void pw_layers(PwPool* pool, const PwShape* shape, const PwLayer* layers, int64_t count, const PwStep* step,
               float* hidden, void* kv) {
  isa().layers(*pool, *shape, layers, count, *step, hidden, kv);
}

void pw_linear(PwPool* pool, const float* x, int64_t rows, const float* norm, float eps, const PwLinear* w, float* out) {
  isa().linear(*pool, x, rows, norm, eps, *w, out);
}

void pw_attention(PwPool* pool, const PwShape* shape, const PwStep* step, int64_t window, const float* q,
                  int64_t q_stride, const void* kv, float* out) {
  isa().attention(*pool, *shape, *step, window, q, q_stride, kv, out);
}
