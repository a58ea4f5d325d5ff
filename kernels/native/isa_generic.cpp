// The kernels for any processor: vectors of four numbers, as every 64-bit one has.
#include "isa.h"

#define PW_LANES 4
#define PW_ISA "generic"
namespace generic {
typedef float vf __attribute__((vector_size(16)));
inline vf fma(vf a, vf b, vf c) {
  for (int i = 0; i < PW_LANES; ++i) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
}
#include "lanes.h"

typedef int16_t vs __attribute__((vector_size(16)));

inline vi widen(const int8_t* codes) {
  typedef int8_t vb __attribute__((vector_size(8), aligned(1), may_alias));
  return (vi)__builtin_convertvector(*reinterpret_cast<const vb*>(codes), vs);
}
inline vi multiply_add(vi weights, int32_t two) {
  const vi low = (weights << 16) >> 16, high = weights >> 16;
  return low * static_cast<int16_t>(two) + high * (two >> 16);
}

#include "kernels.h"
}  // namespace generic

const Isa* isa_generic() { return &generic::kIsa; }
