// int8 rows times int8 weights: exact sums within a group, groups added in order in float32.

inline int64_t panels_of(const PwLinear& w) { return (w.n + kPanel - 1) / kPanel; }
inline int64_t groups_of(int64_t k) { return (k + kGroup - 1) / kGroup; }

// Quantised rows [rows][width] and their scales [rows][width / kGroup].
struct Rows {
  const int16_t* codes;
  const float* scales;
  int64_t width;
};

// out[R][kPanel] of R rows against one panel of weights.
template <int R>
inline void panel_tile(const Rows& x, int64_t row, const int8_t* codes, const float* scales, float* out) {
  constexpr int kVectors = kPanel / kLanes;
  vf total[R][kVectors] = {};
  const int64_t groups = x.width / kGroup;
  for (int64_t g = 0; g < groups; ++g) {
    vi dots[R][kVectors] = {};
    const int16_t* at = x.codes + row * x.width + g * kGroup;
    for (int64_t pair = 0; pair < kGroup / 2; ++pair, codes += 2 * kPanel) {
      vi weights[kVectors];
      for (int v = 0; v < kVectors; ++v) weights[v] = widen(codes + v * 2 * kLanes);
      for (int r = 0; r < R; ++r) {
        int32_t two;
        __builtin_memcpy(&two, at + r * x.width + 2 * pair, sizeof two);
        for (int v = 0; v < kVectors; ++v) dots[r][v] += multiply_add(weights[v], two);
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      const vf scale = load(scales + g * kPanel + v * kLanes);
      for (int r = 0; r < R; ++r)
        total[r][v] = fma(to_float(dots[r][v]), scale * all(x.scales[(row + r) * groups + g]), total[r][v]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < kVectors; ++v) store(out + r * kPanel + v * kLanes, total[r][v]);
}

inline void panel_rows(const Rows& x, int64_t row, int64_t count, const int8_t* codes, const float* scales,
                       float* out) {
  switch (count) {
    case 1: return panel_tile<1>(x, row, codes, scales, out);
    case 2: return panel_tile<2>(x, row, codes, scales, out);
    case 3: return panel_tile<3>(x, row, codes, scales, out);
    default: return panel_tile<4>(x, row, codes, scales, out);
  }
}

constexpr int64_t kTile = 4;

// out[rows][w.n], or added to it: this member's panels.
inline void matmul(Member& member, const Rows& x, int64_t rows, const PwLinear& w, float* out, bool add) {
  const int64_t groups = groups_of(w.k);
  int64_t first, last;
  member.split(panels_of(w), &first, &last);
  alignas(64) float tile[kTile * kPanel];
  for (int64_t panel = first; panel < last; ++panel) {
    const int8_t* codes = w.codes + panel * groups * kGroup * kPanel;
    const float* scales = w.scales + panel * groups * kPanel;
    const int64_t column = panel * kPanel, columns = std::min(kPanel, w.n - column);
    for (int64_t row = 0; row < rows; row += kTile) {
      const int64_t count = std::min(kTile, rows - row);
      panel_rows(x, row, count, codes, scales, tile);
      for (int64_t r = 0; r < count; ++r) {
        float* to = out + (row + r) * w.n + column;
        for (int64_t c = 0; c < columns; ++c) {
          const float y = tile[r * kPanel + c] + (w.bias ? w.bias[column + c] : 0.0f);
          to[c] = add ? to[c] + y : y;
        }
      }
    }
  }
}
