// Causal attention over paged KV with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022).
//
// Keys are taken in blocks of kKeys at fixed absolute positions, a row's sums always in the same order: a block that
// a row may not see is left out, a key that it may not see adds an exact zero. So it does not matter with which
// other rows it shares a tile.

constexpr int64_t kKeys = 64;
constexpr int64_t kQueries = 48;  // about so many (row, head) pairs share what is read of K and V
constexpr float kNone = -__builtin_inff();

// Rows [first, last) of the step, of one sequence, and the query heads that share one KV head.
struct Tile {
  int64_t sequence, first, last, kv_head;
};

// Where a tile's K and V lie.
struct Keys {
  const float* kv;  // [2, pages, page_size, kv_heads, head_dim]
  const int64_t* pages;
  int64_t page_size, width, head, plane;  // numbers of a slot, before the head in it, of K or V in all

  const float* key(int64_t position) const {
    const int64_t slot = pages[position / page_size] * page_size + position % page_size;
    return kv + slot * width + head;
  }
  const float* value(int64_t position) const { return key(position) + plane; }
};

// One member's room for a tile.
struct Desk {
  float *q, *out;        // [queries][head_dim]
  float *scores;         // [queries][kKeys]
  float *turned;         // [head_dim][kKeys]: K of the block
  float *top, *total;    // [queries]: the largest score so far, the sum of the weights

  static int64_t queries(const PwShape& s) {
    const int64_t group = s.heads / s.kv_heads;
    return std::max<int64_t>(1, kQueries / group) * group;
  }
  static int64_t size(const PwShape& s) { return queries(s) * (2 * s.head_dim + kKeys + 2 * kLanes) + s.head_dim * kKeys; }
  Desk(const PwShape& s, float* memory) {
    const int64_t m = queries(s);
    q = memory;
    out = q + m * s.head_dim;
    scores = out + m * s.head_dim;
    turned = scores + m * kKeys;
    top = turned + s.head_dim * kKeys;
    total = top + m * kLanes;
  }
};

// turned[d][i] = K of position `start` + i, for i < count; zeros from there on.
inline void turn_keys(const Keys& keys, int64_t start, int64_t count, int64_t dim, float* turned) {
  static const float nothing[512] = {};
  for (int64_t i = 0; i < kKeys; i += kLanes) {
    const float* from[kLanes];
    for (int64_t j = 0; j < kLanes; ++j) from[j] = i + j < count ? keys.key(start + i + j) : nothing;
    for (int64_t d = 0; d < dim; d += kLanes) {
      vf rows[kLanes];
      for (int j = 0; j < kLanes; ++j) rows[j] = load(from[j] + d);
      transpose(rows);
      for (int j = 0; j < kLanes; ++j) store(turned + (d + j) * kKeys + i, rows[j]);
    }
  }
}

// scores[R][kKeys] = q[R][dim] times the turned keys.
template <int R>
inline void score(const float* q, const float* turned, int64_t dim, float* scores) {
  constexpr int V = 2;
  for (int64_t i = 0; i < kKeys; i += V * kLanes) {
    vf dots[R][V] = {};
    for (int64_t d = 0; d < dim; ++d)
      for (int v = 0; v < V; ++v) {
        const vf k = load(turned + d * kKeys + i + v * kLanes);
        for (int r = 0; r < R; ++r) dots[r][v] = fma(k, all(q[r * dim + d]), dots[r][v]);
      }
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) store(scores + r * kKeys + i + v * kLanes, dots[r][v]);
  }
}

// out[R][V vectors, from column d] += weights[R][count] times the values.
template <int R, int V>
inline void mix_columns(const float* weights, const float* const* values, int64_t count, int64_t dim, int64_t d, float* out) {
  vf sums[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sums[r][v] = load(out + r * dim + d + v * kLanes);
  for (int64_t i = 0; i < count; ++i)
    for (int v = 0; v < V; ++v) {
      const vf value = load(values[i] + d + v * kLanes);
      for (int r = 0; r < R; ++r) sums[r][v] = fma(value, all(weights[r * kKeys + i]), sums[r][v]);
    }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(out + r * dim + d + v * kLanes, sums[r][v]);
}

template <int R>
inline void mix(const float* weights, const float* const* values, int64_t count, int64_t dim, float* out) {
  int64_t d = 0;
  for (; d + 2 * kLanes <= dim; d += 2 * kLanes) mix_columns<R, 2>(weights, values, count, dim, d, out);
  for (; d < dim; d += kLanes) mix_columns<R, 1>(weights, values, count, dim, d, out);
}

// Scores of the keys from `start` on to weights, for a row that sees [oldest, position]; what was mixed before shrinks.
inline void weigh(float* scores, int64_t start, int64_t oldest, int64_t position, float* top, float* total, float* out,
                  int64_t dim) {
  for (int64_t i = 0; i < kKeys; ++i)
    if (start + i < oldest || start + i > position) scores[i] = kNone;
  vf most = load(scores);
  for (int64_t i = kLanes; i < kKeys; i += kLanes) most = vmax(most, load(scores + i));
  const float next = std::max(*top, largest(most));
  const float shrink = exp(all(*top - next))[0];
  Sums added;
  for (int64_t i = 0; i < kKeys; i += kLanes) {
    const vf weight = exp(load(scores + i) - all(next));
    store(scores + i, weight);
    added.parts[i % kSums / kLanes] += weight;
  }
  *total = *total * shrink + added.total();
  *top = next;
  if (shrink != 1.0f)
    for (int64_t d = 0; d < dim; d += kLanes) store(out + d, load(out + d) * all(shrink));
}

template <typename F>
inline void by_four(int64_t first, int64_t last, F&& f) {
  int64_t i = first;
  for (; i + 4 <= last; i += 4) f.template operator()<4>(i);
  switch (last - i) {
    case 3: return f.template operator()<3>(i);
    case 2: return f.template operator()<2>(i);
    case 1: return f.template operator()<1>(i);
    default: return;
  }
}

// out [rows, heads * head_dim] of a tile's rows and heads.
inline void attend(const PwShape& s, const PwStep& step, const Tile& tile, int64_t window, const float* q, int64_t q_stride,
                   const Keys& keys, const Desk& desk, float* out) {
  const int64_t dim = s.head_dim, group = s.heads / s.kv_heads, rows = tile.last - tile.first, m = rows * group;
  const int64_t context = step.contexts[tile.sequence];
  const int64_t origin = context - step.query_starts[tile.sequence + 1];  // row r is at position origin + r
  const auto oldest = [&](int64_t position) { return window ? std::max<int64_t>(0, position - window + 1) : 0; };
  for (int64_t i = 0; i < m; ++i) {
    const float* from = q + (tile.first + i / group) * q_stride + (tile.kv_head * group + i % group) * dim;
    for (int64_t d = 0; d < dim; d += kLanes) {
      store(desk.q + i * dim + d, load(from + d) * all(s.scale));
      store(desk.out + i * dim + d, vf{});
    }
    desk.top[i] = kNone;
    desk.total[i] = 0.0f;
  }
  const int64_t newest = origin + tile.last - 1;
  for (int64_t start = oldest(origin + tile.first) / kKeys * kKeys; start <= newest; start += kKeys) {
    const int64_t count = std::min(kKeys, newest + 1 - start);
    turn_keys(keys, start, count, dim, desk.turned);
    const float* values[kKeys];
    for (int64_t i = 0; i < count; ++i) values[i] = keys.value(start + i);
    // Rows before `first` are older than this block; rows from `last` on no longer see it.
    int64_t first = std::max<int64_t>(0, start - (origin + tile.first)), last = rows;
    while (last > first && oldest(origin + tile.first + last - 1) >= start + kKeys) --last;
    by_four(first * group, last * group, [&]<int R>(int64_t i) {
      score<R>(desk.q + i * dim, desk.turned, dim, desk.scores + i * kKeys);
      for (int64_t r = i; r < i + R; ++r) {
        const int64_t position = origin + tile.first + r / group;
        weigh(desk.scores + r * kKeys, start, oldest(position), position, desk.top + r, desk.total + r, desk.out + r * dim, dim);
      }
      mix<R>(desk.scores + i * kKeys, values, count, dim, desk.out + i * dim);
    });
  }
  for (int64_t i = 0; i < m; ++i) {
    float* to = out + ((tile.first + i / group) * s.heads + tile.kv_head * group + i % group) * dim;
    for (int64_t d = 0; d < dim; d += kLanes) store(to + d, load(desk.out + i * dim + d) / all(desk.total[i]));
  }
}

// All tiles of a step, shared out one at a time.
inline void attend_all(Member& member, std::atomic<int64_t>& next, const PwShape& s, const PwStep& step, int64_t window,
                       const float* q, int64_t q_stride, const float* kv, float* desks, float* out) {
  const int64_t tile_rows = Desk::queries(s) / (s.heads / s.kv_heads), width = s.kv_heads * s.head_dim;
  const Desk desk(s, desks + member.index * Desk::size(s));
  int64_t number = 0, mine = next.fetch_add(1, std::memory_order_relaxed);
  for (int64_t sequence = step.sequences - 1; sequence >= 0; --sequence) {
    const int64_t begin = step.query_starts[sequence], end = step.query_starts[sequence + 1];
    const int64_t tiles = (end - begin + tile_rows - 1) / tile_rows;
    for (int64_t t = tiles - 1; t >= 0; --t) {  // the longest rows first
      for (int64_t head = 0; head < s.kv_heads; ++head, ++number) {
        if (number != mine) continue;
        const Tile tile{sequence, begin + t * tile_rows, std::min(begin + (t + 1) * tile_rows, end), head};
        const Keys keys{kv, step.page_tables + sequence * step.pages_each, step.page_size, width, head * s.head_dim,
                        step.num_pages * step.page_size * width};
        attend(s, step, tile, window, q, q_stride, keys, desk, out);
        mine = next.fetch_add(1, std::memory_order_relaxed);
      }
    }
  }
}
