// The kernels for processors with AVX2 and FMA.
#include "isa.h"

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
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
// Numbers of 16 bits without a sign.
inline vi unsigned16(const uint16_t* p) { return (vi)_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
// Numbers that fit into narrower ones.
inline __m128i narrow(vi v) { return _mm_packs_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1)); }
inline void narrow(vi v, int16_t* to) { _mm_storeu_si128(reinterpret_cast<__m128i*>(to), narrow(v)); }
inline void narrow(vi v, int8_t* to) { _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packs_epi16(narrow(v), narrow(v))); }
// Each pair of weights times the pair `two` of a row, added.
inline void multiply_add(vi& sums, vi weights, int32_t two) {
  sums += (vi)_mm256_madd_epi16((__m256i)weights, _mm256_set1_epi32(two));
  asm("" : "+x"(sums));  // or the compiler collects all products before it adds any, and runs out of registers
}

// 32 codes of weights in bytes: those of 8 rows, four each.
typedef uint8_t vb __attribute__((vector_size(32)));
// Sums for 8 rows, two each in int16: of a whole group they reach 15 * 127 * 16 = 30,480 at most.
typedef int16_t Parts __attribute__((vector_size(32)));

inline vb bytes(const uint8_t* p) { return *reinterpret_cast<const vb*>(p); }
inline vb lower(vb both) { return both & (vb{} + 15); }
inline vb upper(vb both) { return (vb)((Parts)_mm256_srli_epi16((__m256i)both, 4)) & (vb{} + 15); }
// Every number of 16 bits shifted to the right.
inline vi shifted(vi v, int by) { return (vi)_mm256_srli_epi16((__m256i)v, by); }
// Each four weights times the `four` of a row, added.
inline void multiply_add(Parts& parts, vb weights, int32_t four) {
  parts += (Parts)_mm256_maddubs_epi16((__m256i)weights, _mm256_set1_epi32(four));
  asm("" : "+x"(parts));
}
inline vi whole(Parts parts) { return (vi)_mm256_madd_epi16((__m256i)parts, _mm256_set1_epi16(1)); }
// Numbers in float16.
inline vf halves(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }

#include "kernels.h"
}  // namespace avx2

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const Isa* isa_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") ? &avx2::kIsa : nullptr; }
#else
const Isa* isa_avx2() { return nullptr; }
#endif
