// The kernels for processors with AVX2 and FMA.
#include "isa.h"

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#define PW_LANES 8
#define PW_ISA "avx2"
namespace avx2 {
typedef float vf __attribute__((vector_size(32)));
inline vf fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }  // a b + c, rounded once
#include "lanes.h"

// 16 codes of int8 as 8 pairs of int16.
inline vi widen(const int8_t* codes) {
  return (vi)_mm256_cvtepi8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(codes)));
}
// Each pair of weights times the pair `two` of a row, added.
inline vi multiply_add(vi weights, int32_t two) {
  return (vi)_mm256_madd_epi16((__m256i)weights, _mm256_set1_epi32(two));
}

#include "kernels.h"
}  // namespace avx2

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const Isa* isa_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &avx2::kIsa : nullptr; }
#else
const Isa* isa_avx2() { return nullptr; }
#endif
