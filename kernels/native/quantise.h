// Rows of numbers to int8 codes with a scale for each group of kGroup, and the norm before that.
//
// A code is the nearest whole number to x / scale, from -most to most, with scale = max |x| / most in its group and
// most = 127 or 32,767. A processor multiplies and adds two codes of int16 in one go, or four of int8.

// Where code i of four lies for weights of 4 bits and rows of int16: what stands two bytes apart there comes together.
constexpr int kSpread[4] = {0, 2, 1, 3};

template <int... I>
inline vf spread(vf v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (I / 4 * 4 + kSpread[I % 4])...);
}

// codes[width], scales[width / kGroup] of x[k], padded with zeros up to width, a multiple of kGroup. totals: the sum
// of each group's codes times its scale.
template <typename Code, bool Spread>
inline void quantise_row(const float* x, int64_t k, int64_t width, Code* codes, float* scales, float* totals) {
  constexpr float kMost = sizeof(Code) == 1 ? 127 : 32767;
  alignas(64) float padded[kGroup];
  for (int64_t g = 0; g < width / kGroup; ++g) {
    const float* group = x + g * kGroup;
    if ((g + 1) * kGroup > k) {
      for (int64_t i = 0; i < kGroup; ++i) padded[i] = g * kGroup + i < k ? group[i] : 0.0f;
      group = padded;
    }
    vf top = vf{};
    for (int64_t i = 0; i < kGroup; i += kLanes) top = vmax(top, vabs(load(group + i)));
    const float most = largest(top), scale = most / kMost;
    const vf inverse = all(most > 0 ? kMost / most : 0.0f);
    vf sum = vf{};  // of whole numbers below 2^24: exact in any order
    for (int64_t i = 0; i < kGroup; i += kLanes) {
      const vf code = nearest(load(group + i) * inverse);
      sum += code;
      narrow(to_int(Spread ? spread(code, std::make_integer_sequence<int, kLanes>{}) : code), codes + g * kGroup + i);
    }
    scales[g] = scale;
    totals[g] = scale * sum_of_whole(sum);
  }
}

// out[k] = x[k] / root mean square * weight[k] (Zhang and Sennrich 2019).
inline void rms_norm_row(const float* x, const float* weight, float eps, int64_t k, float* out) {
  Sums squares;
  alignas(64) float rest[kSums] = {};
  const int64_t whole = k / kSums * kSums;
  const auto add = [&](const float* from) {
    for (int v = 0; v < kSums / kLanes; ++v) {
      const vf y = load(from + v * kLanes);
      squares.parts[v] = fma(y, y, squares.parts[v]);
    }
  };
  for (int64_t i = 0; i < whole; i += kSums) add(x + i);
  if (whole < k) {
    std::copy_n(x + whole, k - whole, rest);
    add(rest);
  }
  const float scale = 1.0f / __builtin_sqrtf(squares.total() / static_cast<float>(k) + eps);
  for (int64_t i = 0; i < k; ++i) out[i] = x[i] * scale * weight[i];
}

// out[n] = silu(gate_up[0..n)) * gate_up[n..2n) (Shazeer 2020).
inline void silu_mul_row(const float* gate_up, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const vf gate = load(gate_up + i);
    const vf bounded = gate < all(-80.0f) ? all(-80.0f) : gate;
    store(out + i, gate / (all(1.0f) + exp(-bounded)) * load(gate_up + n + i));
  }
  for (; i < n; ++i) {
    const float gate = gate_up[i];
    vf one = all(gate < -80.0f ? 80.0f : -gate);
    out[i] = gate / (1.0f + exp(one)[0]) * gate_up[n + i];
  }
}

// One head of D numbers turned by the angles of its row, halves as pairs (Su et al. 2021); what is beyond 2 * half
// stays.
inline void rotate_head(float* x, const float* cos, const float* sin, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[i], b = x[i + half];
    x[i] = a * cos[i] - b * sin[i];
    x[i + half] = b * cos[i] + a * sin[i];
  }
}
