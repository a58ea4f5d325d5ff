// Rows of codes times weights of 8 or 4 bits: exact sums within a group, groups added in order in float32.

inline int64_t panels_of(const PwLinear& w) { return (w.n + kPanel - 1) / kPanel; }
inline int64_t groups_of(int64_t k) { return (k + kGroup - 1) / kGroup; }

// Quantised rows [rows][width], their scales and totals [rows][width / kGroup]; in 8 bits rests and fine too.
struct Rows {
  const void* codes;  // int16 or int8
  const int8_t* rests;
  const uint8_t* fine;
  const float *scales, *totals;
  int64_t width;
};

// One panel's weights from group `g` on.
struct Panel {
  const uint8_t* codes;
  const uint16_t *scales, *offsets;

  Panel(const PwLinear& w, int64_t panel, int64_t groups)
      : codes(w.codes + panel * groups * kGroup * kPanel * w.bits / 8),
        scales(w.scales + panel * groups * kPanel),
        offsets(w.offsets ? w.offsets + panel * groups * kPanel : nullptr) {}

  // Asks for the weights of a group. The processor sees that codes follow codes, but stops at each 4 KiB.
  template <int Bits>
  void fetch_group(int64_t g) const {
    fetch(codes + g * (kGroup * kPanel * Bits / 8), kGroup * kPanel * Bits / 8);
    fetch(scales + g * kPanel, kPanel);
    if (Bits == 4 && offsets) fetch(offsets + g * kPanel, kPanel);
  }
};

constexpr int kVectors = kPanel / kLanes;

// Whole numbers: dots[R][kVectors] of R rows and a group of a panel in 8 bits; the next group's codes.
template <int R>
inline const uint8_t* group_dots(const int16_t* at, int64_t width, const uint8_t* codes, vi (&dots)[R][kVectors]) {
  for (int64_t pair = 0; pair < kGroup / 2; ++pair, codes += 2 * kPanel) {
    vi weights[kVectors];
    for (int v = 0; v < kVectors; ++v) weights[v] = widen(reinterpret_cast<const int8_t*>(codes) + v * 2 * kLanes);
    for (int r = 0; r < R; ++r) {
      int32_t two;
      __builtin_memcpy(&two, at + r * width + 2 * pair, sizeof two);
      for (int v = 0; v < kVectors; ++v) multiply_add(dots[r][v], weights[v], two);
    }
  }
  return codes;
}

// The same of a panel in 4 bits. The rows' numbers have the order of kSpread.
template <int R>
inline const uint8_t* group_dots_4(const int16_t* at, int64_t width, const uint8_t* codes, vi (&dots)[R][kVectors]) {
  const vi nibbles = vi{} + 0x000f000f;
  for (int64_t block = 0; block < kGroup / 8; ++block, codes += 4 * kPanel)
    for (int64_t pair = 0; pair < 4; ++pair) {
      vi weights[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        const vi four = (vi)bytes(codes + v * 4 * kLanes);
        weights[v] = pair == 0 ? four & nibbles : shifted(four, pair == 1 ? 8 : pair == 2 ? 4 : 12) & nibbles;
      }
      for (int r = 0; r < R; ++r) {
        int32_t two;
        __builtin_memcpy(&two, at + r * width + pair / 2 * kGroup / 2 + 4 * block + pair % 2 * 2, sizeof two);
        for (int v = 0; v < kVectors; ++v) multiply_add(dots[r][v], weights[v], two);
      }
    }
  return codes;
}

template <int R>
inline const uint8_t* group_dots_4(const int8_t* at, int64_t width, const uint8_t* codes, vi (&dots)[R][kVectors]) {
  Parts parts[R][kVectors] = {};
  for (int64_t block = 0; block < kGroup / 8; ++block, codes += 4 * kPanel)
    for (int64_t half = 0; half < 2; ++half) {
      vb weights[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        const vb both = bytes(codes + v * 4 * kLanes);
        weights[v] = half ? upper(both) : lower(both);
      }
      for (int r = 0; r < R; ++r) {
        int32_t four;
        __builtin_memcpy(&four, at + r * width + half * kGroup / 2 + 4 * block, sizeof four);
        for (int v = 0; v < kVectors; ++v) multiply_add(parts[r][v], weights[v], four);
      }
    }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < kVectors; ++v) dots[r][v] = whole(parts[r][v]);
  return codes;
}

// What R rows have of a panel's columns so far.
template <int R>
struct Columns {
  vf total[R][kVectors] = {};

  // Adds `unit` * dots, by the scales of group g.
  void add(const vi (&dots)[R][kVectors], float unit, const Panel& w, int64_t g, const float* scales, int64_t groups) {
    for (int v = 0; v < kVectors; ++v) {
      const vf scale = halves(w.scales + g * kPanel + v * kLanes);
      for (int r = 0; r < R; ++r)
        total[r][v] = fma(to_float(dots[r][v]), scale * all(scales[r * groups + g] * unit), total[r][v]);
    }
  }
  void add_offsets(const Panel& w, int64_t g, const float* totals, int64_t groups) {
    for (int v = 0; v < kVectors; ++v) {
      const vf offset = halves(w.offsets + g * kPanel + v * kLanes);
      for (int r = 0; r < R; ++r) total[r][v] = fma(offset, all(totals[r * groups + g]), total[r][v]);
    }
  }
};

template <int R>
inline bool any(const uint8_t* fine, int64_t groups) {
  uint8_t found = 0;
  for (int r = 0; r < R; ++r) found |= fine[r * groups];
  return found;
}

// out[R][kPanel] of R rows, in codes of Code, against one panel. A row beside a fine one has 0 as its rests, and gets
// the bits that it gets alone: 256 is a power of two. `ahead`: the panel to ask for meanwhile, if there is one.
template <int Bits, typename Code, int R>
inline void panel_tile(const Rows& x, int64_t row, Panel w, const Panel* ahead, float* out) {
  const int64_t groups = x.width / kGroup;
  const Code* at = static_cast<const Code*>(x.codes) + row * x.width;
  const float *scales = x.scales + row * groups, *totals = x.totals + row * groups;
  Columns<R> columns;
  for (int64_t g = 0; g < groups; ++g, at += kGroup) {
    vi dots[R][kVectors] = {};
    const uint8_t* codes = w.codes;
    if (ahead) ahead->fetch_group<Bits>(g);
    if constexpr (Bits == 8)
      w.codes = group_dots<R>(at, x.width, codes, dots);
    else
      w.codes = group_dots_4<R>(at, x.width, codes, dots);
    if (sizeof(Code) == 1 && any<R>(x.fine + row * groups + g, groups)) {
      vi rests[R][kVectors];
      if constexpr (sizeof(Code) == 1) group_dots_4<R>(x.rests + row * x.width + g * kGroup, x.width, codes, rests);
      for (int r = 0; r < R; ++r)
        for (int v = 0; v < kVectors; ++v) dots[r][v] = (dots[r][v] << 8) + rests[r][v];
      columns.add(dots, 1.0f / 256, w, g, scales, groups);
    } else {
      columns.add(dots, 1.0f, w, g, scales, groups);
    }
    if constexpr (Bits == 4) columns.add_offsets(w, g, totals, groups);
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < kVectors; ++v) store(out + r * kPanel + v * kLanes, columns.total[r][v]);
}

template <int Bits, typename Code>
inline void panel_rows(const Rows& x, int64_t row, int64_t count, const Panel& w, const Panel* ahead, float* out) {
  switch (count) {
    case 1: return panel_tile<Bits, Code, 1>(x, row, w, ahead, out);
    case 2: return panel_tile<Bits, Code, 2>(x, row, w, ahead, out);
    case 3: return panel_tile<Bits, Code, 3>(x, row, w, ahead, out);
    default: return panel_tile<Bits, Code, 4>(x, row, w, ahead, out);
  }
}

// to[columns] of a panel's row: y (+ bias), or that added to it.
inline void put_columns(float* y, int64_t columns, const float* bias, bool add, float* to) {
  if (columns < kPanel) {
    for (int64_t c = 0; c < columns; ++c) {
      const float one = bias ? y[c] + bias[c] : y[c];
      to[c] = add ? to[c] + one : one;
    }
    return;
  }
  for (int64_t c = 0; c < kPanel; c += kLanes) {
    const vf one = bias ? load(y + c) + load(bias + c) : load(y + c);
    store(to + c, add ? load(to + c) + one : one);
  }
}

constexpr int64_t kTile = 4;
constexpr int64_t kAhead = 8192;  // bytes of codes
constexpr int64_t kMany = 32;     // rows for which a panel's weights are no longer what takes the time

// How many of n things a member takes at a time.
inline int64_t part(const Member& member, int64_t n) { return std::max<int64_t>(1, n / (8 * member.count)); }

// out[rows][w.n] = x times w, or added to it, panel by panel.
struct Matmul {
  const Rows& x;
  int64_t rows;
  const PwLinear& w;
  float* out;
  bool add;

  // `later`: the panel to ask for meanwhile, if there is one.
  void panel(int64_t panel, const Panel* later) const {
    const Panel weights(w, panel, groups_of(w.k));
    const int64_t column = panel * kPanel, columns = std::min(kPanel, w.n - column);
    alignas(64) float tile[kTile * kPanel];
    for (int64_t row = 0; row < rows; row += kTile) {
      const int64_t count = std::min(kTile, rows - row);
      const Panel* ahead = row == 0 ? later : nullptr;
      if (w.bits == 8)
        panel_rows<8, int16_t>(x, row, count, weights, ahead, tile);
      else if (w.row_bits == 16)
        panel_rows<4, int16_t>(x, row, count, weights, ahead, tile);
      else
        panel_rows<4, int8_t>(x, row, count, weights, ahead, tile);
      for (int64_t r = 0; r < count; ++r)
        put_columns(tile + r * kPanel, columns, w.bias ? w.bias + column : nullptr, add, out + (row + r) * w.n + column);
    }
  }
};

// out[rows][w.n], or added to it. For few rows weights are read ahead, and at the end of a member's part the beginning of
// its part of `next`, which is multiplied with after w.
inline void matmul(Member& member, const Rows& x, int64_t rows, const PwLinear& w, const PwLinear& next, float* out,
                   bool add) {
  const Matmul product{x, rows, w, out, add};
  const int64_t panels = panels_of(w), groups = groups_of(w.k);
  if (rows >= kMany)
    return member.share(panels, part(member, panels), [&](int64_t first, int64_t last) {
      for (int64_t panel = first; panel < last; ++panel) product.panel(panel, nullptr);
    });
  const int64_t stride = kAhead / (groups * kGroup * kPanel * w.bits / 8) + 1;
  int64_t begin, end, then, stop;
  member.split(panels, &begin, &end);
  member.split(panels_of(next), &then, &stop);
  member.share(panels, part(member, panels), [&](int64_t first, int64_t last) {
    for (int64_t panel = first; panel < last; ++panel) {
      const int64_t later = panel + stride;
      const bool mine = panel >= begin && panel < end;
      const Panel ahead = !mine || later < end ? Panel(w, std::min(later, panels - 1), groups) : Panel(next, then + later - end, groups_of(next.k));
      product.panel(panel, &ahead);
    }
  });
}
