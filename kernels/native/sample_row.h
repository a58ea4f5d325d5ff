// One row of the sampler. Included once for each kind of processor by sample.cpp, inside its own namespace and target.

typedef float vf __attribute__((vector_size(32)));
typedef int32_t vi __attribute__((vector_size(32)));
typedef double vd __attribute__((vector_size(32)));
typedef int64_t vl __attribute__((vector_size(32)));
typedef float vf_any __attribute__((vector_size(32), aligned(4), may_alias));
typedef int64_t vl_any __attribute__((vector_size(32), aligned(8), may_alias));
typedef float half_any __attribute__((vector_size(16), aligned(4), may_alias));

inline vf load(const float* p) { return *reinterpret_cast<const vf_any*>(p); }
inline vl load(const int64_t* p) { return *reinterpret_cast<const vl_any*>(p); }

template <typename T>
inline bool any(T mask) {
  uint64_t parts[4];
  __builtin_memcpy(parts, &mask, sizeof parts);
  return (parts[0] | parts[1] | parts[2] | parts[3]) != 0;
}

constexpr int64_t kAtOnce = 32;

// Whether one of kAtOnce numbers is at least `low`.
template <typename T>
inline bool any_from(const T* p, T low) {
  constexpr int kLanes = 32 / sizeof(T);
  auto hit = load(p) >= low;
  for (int i = kLanes; i < kAtOnce; i += kLanes) hit |= load(p + i) >= low;
  return any(hit);
}

// f(i) for each x[i] >= low, in order; made for few of them.
template <typename T, typename F>
inline void each_from(const T* x, int64_t n, T low, F f) {
  for (int64_t at = 0; at < n; at += kAtOnce) {
    if (at + kAtOnce <= n && !any_from(x + at, low)) continue;
    for (int64_t i = at; i < std::min(at + kAtOnce, n); ++i)
      if (x[i] >= low) f(i);
  }
}

// The largest logit, and the largest of each of `groups` disjoint sets, kGroups to a whole block.
Peak find_peak(const float* x, int64_t n, std::vector<float>& groups) {
  groups.resize(static_cast<size_t>(n / kBlock * kGroups));
  vi odd = {};
  float best = -HUGE_VALF;
  for (int64_t block = 0; block < n / kBlock; ++block) {
    const float* from = x + block * kBlock;
    vf top = load(from), other = load(from + 8);
    for (int64_t i = 0; i < kBlock; i += 16) {
      const vf a = load(from + i), b = load(from + i + 8);
      top = a > top ? a : top;
      other = b > other ? b : other;
      odd |= (a != a) | (b != b);
    }
    top = other > top ? other : top;
    __builtin_memcpy(&groups[static_cast<size_t>(block * kGroups)], &top, sizeof top);
  }
  for (float group : groups) best = std::max(best, group);
  bool whole = !any(odd);
  for (int64_t i = n / kBlock * kBlock; i < n; ++i) {
    whole = whole && x[i] == x[i];
    best = std::max(best, x[i]);
  }
  return {best, whole && std::fabs(best) < HUGE_VALF};
}

// e^((x - best) heat) in units of 2^-40, to the nearest; 0 if it is below `least`. See kernels/sampling.py.
inline void weights_of(vf x, float best, float heat, int64_t least, vl& low, vl& high) {
  const vf y = (x - best) * heat;
  const vf z = y > -64.0f ? y : vf{} - 64.0f;
  const vf n = (z * kLog2E + kMagic) - kMagic;
  const vf r = (z - n * kLn2High) - n * kLn2Low;
  vf p = vf{} + kTerms[0];
  for (int i = 1; i < 8; ++i) p = p * r + kTerms[i];
  const vi bits = (__builtin_convertvector(n, vi) + (127 + kUnit)) << 23;
  vf scale;
  __builtin_memcpy(&scale, &bits, sizeof scale);
  p *= scale;
  const auto* halves = reinterpret_cast<const half_any*>(&p);
  const vd one = {0x1p52, 0x1p52, 0x1p52, 0x1p52};
  low = (vl)(__builtin_convertvector(halves[0], vd) + one) - (vl)one;
  high = (vl)(__builtin_convertvector(halves[1], vd) + one) - (vl)one;
  low &= low >= least;
  high &= high >= least;
}

// Weights of x [n], n a multiple of 8, if `to` is given; returns their sum.
int64_t weigh_some(const float* x, int64_t n, float best, float heat, int64_t least, int64_t* to) {
  vl sum = {};
  for (int64_t i = 0; i < n; i += 8) {
    vl low, high;
    weights_of(load(x + i), best, heat, least, low, high);
    sum += low + high;
    if (to) {
      __builtin_memcpy(to + i, &low, sizeof low);
      __builtin_memcpy(to + i + 4, &high, sizeof high);
    }
  }
  return sum[0] + sum[1] + sum[2] + sum[3];
}

// The same for any n; `to` has room for 7 more.
int64_t weigh(const float* x, int64_t n, float best, float heat, int64_t least, int64_t* to) {
  const int64_t even = n / 8 * 8;
  int64_t sum = weigh_some(x, even, best, heat, least, to);
  if (even < n) {
    float rest[8];
    std::fill_n(rest, 8, -HUGE_VALF);
    std::copy(x + even, x + n, rest);
    sum += weigh_some(rest, 8, best, heat, least, to ? to + even : nullptr);
  }
  return sum;
}

void collect(const float* x, int64_t n, float low, std::vector<Candidate>& to) {
  each_from(x, n, low, [&](int64_t i) { to.push_back({rank_of(x[i]), i}); });
}

void collect(const int64_t* weights, int64_t n, int64_t low, std::vector<Candidate>& to) {
  each_from(weights, n, low, [&](int64_t i) { to.push_back({weights[i], i}); });
}
