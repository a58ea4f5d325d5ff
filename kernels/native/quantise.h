// Rows of numbers to int8 codes with a scale for each group of kGroup, and the norm before that.
//
// A code is the nearest whole number to x / scale, from -127 to 127, with scale = max |x| / 127 in its group. Rows
// are kept as int16, two of which a processor multiplies and adds in one go.

// codes[width], scales[width / kGroup] of x[k], padded with zeros up to width, a multiple of kGroup.
inline void quantise_row(const float* x, int64_t k, int64_t width, int16_t* codes, float* scales) {
  alignas(64) float padded[kGroup];
  for (int64_t g = 0; g < width / kGroup; ++g) {
    const float* group = x + g * kGroup;
    if ((g + 1) * kGroup > k) {
      for (int64_t i = 0; i < kGroup; ++i) padded[i] = g * kGroup + i < k ? group[i] : 0.0f;
      group = padded;
    }
    vf top = vf{};
    for (int64_t i = 0; i < kGroup; i += kLanes) top = vmax(top, vabs(load(group + i)));
    const float most = largest(top);
    const vf inverse = all(most > 0 ? 127.0f / most : 0.0f);
    for (int64_t i = 0; i < kGroup; i += kLanes) {
      const vi code = to_int(nearest(load(group + i) * inverse));
      for (int j = 0; j < kLanes; ++j) codes[g * kGroup + i + j] = static_cast<int16_t>(code[j]);
    }
    scales[g] = most / 127.0f;
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
