// Vectors of PW_LANES numbers in the compiler's own notation, and the few operations that it lacks.
//
// Included once by each isa_*.cpp, inside its own namespace and target. Nothing is fused but by `fma`, and sums over many
// numbers go through kSums partial sums, so that all kinds of processors get the same bits.

typedef int32_t vi __attribute__((vector_size(PW_LANES * 4)));
typedef float vf_any __attribute__((vector_size(PW_LANES * 4), aligned(4), may_alias));
typedef int32_t vi_any __attribute__((vector_size(PW_LANES * 4), aligned(4), may_alias));

constexpr int kLanes = PW_LANES;
constexpr int kSums = 16;  // a multiple of every kLanes

inline vf load(const float* p) { return *reinterpret_cast<const vf_any*>(p); }
inline void store(float* p, vf v) { *reinterpret_cast<vf_any*>(p) = v; }
template <int... I>
inline vf all(float x, std::integer_sequence<int, I...>) {
  return vf{((void)I, x)...};
}
inline vf all(float x) { return all(x, std::make_integer_sequence<int, kLanes>{}); }
inline vf to_float(vi v) { return __builtin_convertvector(v, vf); }
inline vi to_int(vf v) { return __builtin_convertvector(v, vi); }  // towards zero
inline vf vmax(vf a, vf b) { return a > b ? a : b; }
inline vf vabs(vf a) { return a > -a ? a : -a; }

template <int S, int... I>
inline vf moved(vf v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (I ^ S)...);
}

// All numbers of a vector taken together, halves with halves.
template <int S = kLanes / 2, typename F>
inline float across(vf v, F&& f) {
  v = f(v, moved<S>(v, std::make_integer_sequence<int, kLanes>{}));
  if constexpr (S > 1) return across<S / 2>(v, f);
  return v[0];
}

// kSums partial sums, of which number i has the terms i, i + kSums, ...
struct Sums {
  vf parts[kSums / kLanes] = {};

  float total() const {
    vf sums[kSums / kLanes];
    std::copy_n(parts, kSums / kLanes, sums);
    for (int half = kSums / kLanes / 2; half; half /= 2)
      for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
    return across(sums[0], [](vf a, vf b) { return a + b; });
  }
};

inline float largest(vf v) { return across(v, vmax); }

inline float sum_of_whole(vf v) {
  float sum = v[0];
  for (int i = 1; i < kLanes; ++i) sum += v[i];
  return sum;
}

// To the nearest whole number, ties to even, for |x| < 2^22.
inline vf nearest(vf x) {
  const vf magic = all(12582912.0f);  // 1.5 * 2^23: what is below one has no place left in the fraction
  return (x + magic) - magic;
}

// e^x for x <= 88, within 2 units in the last place; 0 below -87. Cody and Waite's reduction to |r| <= ln 2 / 2,
// then Taylor's polynomial of degree 7.
inline vf exp(vf x) {
  const vf n = nearest(x * all(1.44269504088896341f));
  const vf r = fma(n, all(2.12194440e-4f), fma(n, all(-0.693359375f), x));
  vf p = all(1.0f / 5040);
  for (float term : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = fma(p, r, all(term));
  const vi bits = (to_int(n) + 127) << 23;
  vf scale;
  __builtin_memcpy(&scale, &bits, sizeof scale);
  return x < all(-87.0f) ? vf{} : p * scale;
}

template <int S, int... I>
inline void swap_blocks(vf& a, vf& b, std::integer_sequence<int, I...>) {
  const vf upper = __builtin_shufflevector(a, b, ((I & S) ? kLanes + I - S : I)...);
  b = __builtin_shufflevector(a, b, ((I & S) ? kLanes + I : I + S)...);
  a = upper;
}

// A square of kLanes rows turned about its diagonal, by ever smaller blocks.
template <int S = kLanes / 2>
inline void transpose(vf* rows) {
  for (int i = 0; i < kLanes; ++i)
    if (!(i & S)) swap_blocks<S>(rows[i], rows[i + S], std::make_integer_sequence<int, kLanes>{});
  if constexpr (S > 1) transpose<S / 2>(rows);
}

// Asks for n numbers that are read soon, where the processor does not see that itself.
template <typename T>
inline void fetch(const T* from, int64_t n) {
  for (int64_t line = 0; line < n; line += 64 / int64_t{sizeof(T)}) __builtin_prefetch(from + line);
}
