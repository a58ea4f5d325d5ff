// K and V of a block of keys: where they lie in the pages, and the sums over them that attention takes.
//
// Two forms of a block give the same bits: `Near` reads the pages as they are, for few query rows; `Turned` is a copy
// in float32 with K's keys side by side, which pays off for many. A score is the sum of kDots partial sums over
// head_dim, of which number j has the terms j, j + kDots, ..., halves added to halves; a weighted value is a sum over the
// keys in their order.

constexpr int64_t kKeys = 64;    // a block, at fixed absolute positions
constexpr int64_t kDots = 8;     // partial sums of a score
constexpr int64_t kColumns = 16;  // of a product that are computed together
static_assert(kDots % kLanes == 0 && kColumns % kLanes == 0);

enum class BFloat16 : uint16_t {};  // the upper half of a float32

inline vf load(const BFloat16* p) {
  return (vf)(unsigned16(reinterpret_cast<const uint16_t*>(p)) << 16);
}

// K or V on their way into the pages, to the nearest number that is there, ties to even.
inline void put(const float* from, int64_t n, float* to) { std::copy_n(from, n, to); }
inline void put(const float* from, int64_t n, BFloat16* to) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, from + i, sizeof bits);
    const uint32_t nearest = from[i] == from[i] ? bits + 0x7fff + (bits >> 16 & 1) : 0x7fc00000;
    to[i] = static_cast<BFloat16>(nearest >> 16);
  }
}

// f(kv as what lies there).
template <typename F>
inline void with_kv(const PwStep& step, void* kv, F&& f) {
  if (step.kv_bits == 16)
    f(static_cast<BFloat16*>(kv));
  else
    f(static_cast<float*>(kv));
}

#define PW_INLINE inline __attribute__((always_inline))

// Where a sequence's K and V of one head lie: kv [2, pages, page_size, kv_heads, head_dim].
template <typename T>
struct Pages {
  const T* kv;
  const int64_t* table;
  int64_t page_size, width, head, plane;  // numbers of a slot, before the head in it, of K or V in all

  // to[i]: K of position start + i for i < count, of the last one from there on.
  void find(int64_t start, int64_t count, const T** to) const {
    int64_t page = start / page_size, in = start % page_size;
    for (int64_t i = 0; i < count; ++i) {
      to[i] = kv + (table[page] * page_size + in) * width + head;
      if (++in == page_size) in = 0, ++page;
    }
    std::fill(to + count, to + kKeys, to[count - 1]);
  }
};

// Lane i becomes the sum of the lanes of rows[i], halves added to halves.
template <int S = kLanes / 2>
PW_INLINE vf sums_of(vf* rows) {
  for (int i = 0; i < S; ++i) {
    swap_blocks<S>(rows[i], rows[i + S], std::make_integer_sequence<int, kLanes>{});
    rows[i] += rows[i + S];
  }
  if constexpr (S > 1) return sums_of<S / 2>(rows);
  return rows[0];
}

// out [R][V vectors] = out * keep + weights [R][count] times the values at(i), each V vectors.
template <int R, int V, typename At>
PW_INLINE void mix_columns(const float* weights, int64_t count, At&& at, const float* keep, const float* add, int64_t dim,
                           float* out) {
  vf sums[R][V] = {};
  for (int64_t i = 0; i < count; ++i) {
    const auto* from = at(i);
    vf values[V];
    for (int v = 0; v < V; ++v) values[v] = load(from + v * kLanes);
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) sums[r][v] = fma(values[v], all(weights[r * kKeys + i]), sums[r][v]);
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) {
      float* to = out + r * dim + v * kLanes;
      store(to, fma(sums[r][v], all(add[r]), load(to) * all(keep[r])));
    }
}

// A block of some heads, as it lies in the pages.
template <typename T>
struct Near {
  static constexpr int kRows = 4;  // that are computed together
  const Pages<T>& pages;
  int64_t dim, heads, plane, head = 0, shift = 0;
  const T *here[kKeys], *there[kKeys], **keys = here, **further = there;  // K of this block and of the next one
  mutable int64_t asked;                                                  // of the next block, from the first on

  Near(const Pages<T>& pages, int64_t dim, int64_t heads, float*)
      : pages(pages), dim(dim), heads(heads), plane(pages.plane) {}

  // The keys from `start` on that come before `end`; `first`: those of the tile's first block.
  void open(int64_t start, int64_t end, bool first) {
    asked = 0;
    if (first) {
      pages.find(start, std::min(kKeys, end - start), further);
      ask(kKeys);
      asked = 0;
    }
    std::swap(keys, further);
    if (start + kKeys < end)
      pages.find(start + kKeys, std::min(kKeys, end - start - kKeys), further);
    else
      asked = kKeys;
  }

  void turn_to(int64_t to) { head = to, shift = to * dim; }

  // Asks for what comes next, K and V of all heads together, so that a slot's memory is read in one go.
  void ask(int64_t until) const {
    for (; asked < until; ++asked) {
      fetch(further[asked], heads * dim);
      fetch(further[asked] + plane, heads * dim);
    }
  }
  // When `part` of kKeys keys have been scored, or then mixed, for this head.
  void scored(int64_t part) const { ask((2 * head * kKeys + part) / (2 * heads)); }
  void mixed(int64_t part) const { scored(kKeys + part); }

  // scores [R][count, rounded up to kColumns] = q [R][dim] times K.
  template <int R>
  void score(const float* q, int64_t count, float* scores) const {
    constexpr int N = std::min(kLanes, R == 1 ? 8 : R < 4 ? 4 : 2), W = kDots / kLanes;
    for (int64_t i = 0; i < count; i += kLanes) {
      scored(i + kLanes);
      vf dots[R][kLanes];
      for (int k = 0; k < kLanes; k += N) {
        vf sums[R][N][W] = {};
        for (int64_t d = 0; d < dim; d += kDots)
          for (int w = 0; w < W; ++w)
            for (int n = 0; n < N; ++n) {
              const vf key = load(keys[i + k + n] + shift + d + w * kLanes);
              for (int r = 0; r < R; ++r) sums[r][n][w] = fma(key, load(q + r * dim + d + w * kLanes), sums[r][n][w]);
            }
        for (int r = 0; r < R; ++r)
          for (int n = 0; n < N; ++n) dots[r][k + n] = W == 1 ? sums[r][n][0] : sums[r][n][0] + sums[r][n][W - 1];
      }
      for (int r = 0; r < R; ++r) store(scores + r * kKeys + i, sums_of(dots[r]));
    }
    static_assert(W <= 2);
  }

  template <int R>
  void mix(const float* weights, int64_t count, const float* keep, const float* add, float* out) const {
    constexpr int W = kColumns / kLanes, V = R == 1 ? 4 * W : R < 4 ? 2 * W : W;
    int64_t d = 0;
    const auto at = [&](int64_t i) {
      if (i % kLanes == 0) mixed(i + kLanes);
      return keys[i] + plane + shift + d;
    };
    for (; d + V * kLanes <= dim; d += V * kLanes) mix_columns<R, V>(weights, count, at, keep, add, dim, out + d);
    for (; d < dim; d += kColumns) mix_columns<R, W>(weights, count, at, keep, add, dim, out + d);
  }
};

// A copy of a block in float32: K as [kKeys / kColumns][dim][kColumns], V as [dim / kColumns][kKeys][kColumns].
template <typename T>
struct Turned {
  static constexpr int kRows = 6;
  static constexpr int W = kColumns / kLanes;
  const Pages<T>& pages;
  int64_t dim;
  float *keys, *values;
  const T* further[kKeys];  // K of the next block
  mutable int64_t asked;    // of those, from the first on

  // For one head.
  Turned(const Pages<T>& pages, int64_t dim, int64_t, float* memory)
      : pages(pages), dim(dim), keys(memory), values(memory + dim * kKeys) {}
  void turn_to(int64_t) const {}

  void open(int64_t start, int64_t end, bool first) {
    const int64_t count = std::min(kKeys, end - start), rest = end - start - count;
    const T* from[kKeys];
    if (first) pages.find(start, count, further);
    std::copy_n(further, kKeys, from);
    asked = rest ? 0 : kKeys;
    if (rest) pages.find(start + kKeys, std::min(kKeys, rest), further);
    for (int64_t i = 0; i < count; i += kLanes)
      for (int64_t d = 0; d < dim; d += kLanes) {
        vf rows[kLanes];
        for (int j = 0; j < kLanes; ++j) rows[j] = load(from[i + j] + d);
        transpose(rows);
        float* to = keys + (i / kColumns * dim + d) * kColumns + i % kColumns;
        for (int j = 0; j < kLanes; ++j) store(to + j * kColumns, rows[j]);
      }
    for (int64_t i = 0; i < count; ++i)
      for (int64_t d = 0; d < dim; d += kLanes)
        store(values + (d / kColumns * kKeys + i) * kColumns + d % kColumns, load(from[i] + pages.plane + d));
  }

  template <int R>
  void score(const float* q, int64_t count, float* scores) const {
    for (const int64_t more = std::min(kKeys, asked + R); asked < more; ++asked) {
      fetch(further[asked], dim);
      fetch(further[asked] + pages.plane, dim);
    }
    for (int64_t i = 0; i < count; i += kColumns) {
      vf sums[R][W];
      dots<R, 1>(q, keys + i * dim, 0, sums);
      for (int r = 0; r < R; ++r)
        for (int w = 0; w < W; ++w) store(scores + r * kKeys + i + w * kLanes, sums[r][w]);
    }
  }

  template <int R>
  void mix(const float* weights, int64_t count, const float* keep, const float* add, float* out) const {
    for (int64_t d = 0; d < dim; d += kColumns)
      mix_columns<R, W>(weights, count, [&](int64_t i) { return values + (d / kColumns * kKeys + i) * kColumns; }, keep,
                        add, dim, out + d);
  }

 private:
  // The partial sums j, j + S, ... of kColumns keys, added up.
  template <int R, int S>
  PW_INLINE void dots(const float* q, const float* turned, int64_t j, vf (&sums)[R][W]) const {
    if constexpr (S == kDots) {
      for (int r = 0; r < R; ++r)
        for (int w = 0; w < W; ++w) sums[r][w] = vf{};
      for (int64_t d = j; d < dim; d += kDots) {
        vf key[W];
        for (int w = 0; w < W; ++w) key[w] = load(turned + d * kColumns + w * kLanes);
        for (int r = 0; r < R; ++r)
          for (int w = 0; w < W; ++w) sums[r][w] = fma(key[w], all(q[r * dim + d]), sums[r][w]);
      }
    } else {
      vf others[R][W];
      dots<R, 2 * S>(q, turned, j, sums);
      dots<R, 2 * S>(q, turned, j + S, others);
      for (int r = 0; r < R; ++r)
        for (int w = 0; w < W; ++w) sums[r][w] += others[r][w];
    }
  }
};
