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
template <typename T>
inline void narrow(vi v, T* to) {
  typedef T vn __attribute__((vector_size(kLanes * sizeof(T)), aligned(1), may_alias));
  *reinterpret_cast<vn*>(to) = __builtin_convertvector(v, vn);
}
inline vi unsigned16(const uint16_t* p) {
  typedef uint16_t vh __attribute__((vector_size(8), aligned(2), may_alias));
  return __builtin_convertvector(*reinterpret_cast<const vh*>(p), vi);
}
inline void multiply_add(vi& sums, vi weights, int32_t two) {
  const vi low = (weights << 16) >> 16, high = weights >> 16;
  sums += low * static_cast<int16_t>(two) + high * (two >> 16);
}

typedef uint8_t vb __attribute__((vector_size(16)));
typedef vi Parts;

inline vb bytes(const uint8_t* p) { return *reinterpret_cast<const vb*>(p); }
inline vb lower(vb both) { return both & (vb{} + 15); }
inline vi shifted(vi v, int by) {
  typedef uint16_t vu __attribute__((vector_size(16)));
  return (vi)((vu)v >> by);
}
inline vb upper(vb both) { return both >> 4; }
inline void multiply_add(Parts& parts, vb weights, int32_t four) {
  for (int k = 0; k < 4; ++k) parts += (((vi)weights >> 8 * k) & 255) * static_cast<int8_t>(four >> 8 * k);
}
inline vi whole(Parts parts) { return parts; }
inline vf halves(const uint16_t* p) {
  vf wide;
  for (int i = 0; i < kLanes; ++i) wide[i] = half_to_float(p[i]);
  return wide;
}

#include "kernels.h"
}  // namespace generic

const Isa* isa_generic() { return &generic::kIsa; }
