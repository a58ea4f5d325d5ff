// Rows of numbers to codes with a scale for each group of kGroup, and what is done to a row before that.
//
// A code is the nearest whole number to x / scale, from -most to most, with scale = max |x| / most in its group and
// most = 127 or 32,767. A processor multiplies and adds two codes of int16 in one go, or four of int8.
//
// What 8 bits lose is lost in the few groups with a row's largest numbers: a quarter of it is left when one group in ten has
// 16. Such a group is "fine": its code in 16 bits is 256 * code + rest, both int8, and is multiplied in two rounds.

// Where code i of four lies for weights of 4 bits and rows of int16: what stands two bytes apart there comes together.
constexpr int kSpread[4] = {0, 2, 1, 3};

template <int... I>
inline vf spread(vf v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (I / 4 * 4 + kSpread[I % 4])...);
}

// Group g of x[k], where it does not fill the group with zeros behind it, in `room`.
inline const float* group_at(const float* x, int64_t k, int64_t g, float (&room)[kGroup]) {
  const float* group = x + g * kGroup;
  if ((g + 1) * kGroup <= k) return group;
  for (int64_t i = 0; i < kGroup; ++i) room[i] = g * kGroup + i < k ? group[i] : 0.0f;
  return room;
}

inline float most_of(const float* group) {
  vf top = vf{};
  for (int64_t i = 0; i < kGroup; i += kLanes) top = vmax(top, vabs(load(group + i)));
  return largest(top);
}

// code(i, x / scale, rounded) of each vector of a group; returns their sum, of whole numbers below 2^24: exact in any order.
template <typename F>
inline float round_group(const float* group, float inverse, F&& code) {
  vf sum = vf{};
  for (int64_t i = 0; i < kGroup; i += kLanes) {
    const vf whole = nearest(load(group + i) * all(inverse));
    sum += whole;
    code(i, whole);
  }
  return sum_of_whole(sum);
}

// codes[width], scales[width / kGroup] of x[k], padded with zeros up to width, a multiple of kGroup. totals: the sum
// of each group's codes times its scale. Spread: in the order of kSpread.
template <bool Spread>
inline void quantise_row_16(const float* x, int64_t k, int64_t width, int16_t* codes, float* scales, float* totals) {
  alignas(64) float room[kGroup];
  for (int64_t g = 0; g < width / kGroup; ++g) {
    const float *group = group_at(x, k, g, room), most = most_of(group);
    scales[g] = most / 32767;
    totals[g] = scales[g] * round_group(group, most > 0 ? 32767 / most : 0.0f, [&](int64_t i, vf code) {
      narrow(to_int(Spread ? spread(code, std::make_integer_sequence<int, kLanes>{}) : code), codes + g * kGroup + i);
    });
  }
}

constexpr float kFine = 2.0f;  // times the mean of a row's groups, in their largest numbers

// The same in 8 bits. fine[width / kGroup]: whether a group's numbers are scale * (code + rest / 256); else rest is 0.
inline void quantise_row_8(const float* x, int64_t k, int64_t width, bool any_fine, int8_t* codes, int8_t* rests,
                           uint8_t* fine, float* scales, float* totals) {
  alignas(64) float room[kGroup];
  const int64_t groups = width / kGroup;
  float sum = 0;
  for (int64_t g = 0; g < groups; ++g) sum += scales[g] = most_of(group_at(x, k, g, room));
  const float limit = any_fine ? kFine * sum / static_cast<float>(groups) : __builtin_inff();
  for (int64_t g = 0; g < groups; ++g, codes += kGroup, rests += kGroup) {
    const float *group = group_at(x, k, g, room), most = scales[g];
    fine[g] = most > limit;
    scales[g] = most / 127;
    if (fine[g]) {
      totals[g] = scales[g] / 256 * round_group(group, 127 * 256 / most, [&](int64_t i, vf code) {
        const vi whole = to_int(code), high = (whole + 128) >> 8;
        narrow(high, codes + i);
        narrow(whole - (high << 8), rests + i);
      });
    } else {
      std::fill_n(rests, kGroup, 0);
      totals[g] = scales[g] * round_group(group, most > 0 ? 127 / most : 0.0f, [&](int64_t i, vf code) {
        narrow(to_int(code), codes + i);
      });
    }
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
