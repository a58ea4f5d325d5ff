// Causal attention over paged KV, a block of keys at a time (Milakov and Gimelshein 2018; Dao et al. 2022 and 2023).
//
// A block gives a row a largest score, a sum of weights and a sum of weighted values; these are folded into the row's
// state, one block after another from the first that it sees. A block or a key that it may not see changes nothing, to
// the bit. So it does not matter with which other rows a row shares a tile, or who computes which of its blocks.

constexpr int64_t kQueries = 192;  // about so many (row, head) pairs share a turned copy of a block
constexpr int64_t kMostRows = 6;  // (row, head) pairs computed together
constexpr int64_t kFew = 12;      // so many are better served without
constexpr float kNone = -__builtin_inff();
constexpr float kLowest = -3.4e38f;  // "no score yet": a number, so that differences are numbers too

// 2^x for x <= 0, within 2 units in the last place; 0 below -125. The polynomial has the least largest error on
// [-1/2, 1/2] of those of degree 6 that are 1 at 0.
inline vf exp2(vf x) {
  const vf magic = all(12582912.0f), raised = x + magic, r = x - (raised - magic);
  vf p = all(1.5353362e-4f);
  for (float term : {1.3398875e-3f, 9.6184369e-3f, 5.5503324e-2f, 2.4022648e-1f, 6.9314718e-1f, 1.0f}) p = fma(p, r, all(term));
  const vi bits = (vi)p + ((vi)raised << 23);
  return x < all(-125.0f) ? vf{} : (vf)bits;
}

// What rows have mixed so far.
struct State {
  float *out, *top, *total;  // [m][dim]: weighted values, [m]: the largest score, [m]: the sum of weights

  static int64_t size(int64_t m, int64_t dim) { return m * (dim + 2); }
  State(float* memory, int64_t m, int64_t dim) : out(memory), top(out + m * dim), total(top + m) {}
  void clear(int64_t m, int64_t dim) const {
    std::fill_n(out, m * dim, 0.0f);
    std::fill_n(top, m, kLowest);
    std::fill_n(total, m, 0.0f);
  }
  // Folds a further top and total into row i's; what its `out`, and what is added to it, are multiplied with.
  void fold(int64_t i, float further, float sum, float* keep, float* add) const {
    const bool higher = further > top[i];
    const float less = exp2(all(higher ? top[i] - further : further - top[i]))[0];
    *keep = higher ? less : 1.0f;
    *add = higher ? 1.0f : less;
    top[i] = higher ? further : top[i];
    total[i] = __builtin_fmaf(sum, *add, total[i] * *keep);
  }
};

// One member's room for a tile.
struct Desk {
  float *q, *state, *scores, *block;
  int64_t* positions;

  static int64_t queries(const PwShape& s) { return kQueries + s.heads / s.kv_heads; }
  static int64_t size(const PwShape& s) {
    const int64_t m = queries(s);
    return (m * s.head_dim + State::size(m, s.head_dim) + kMostRows * kKeys + 2 * s.head_dim * kKeys + 2 * m + 31) / 16 * 16;
  }
  Desk(const PwShape& s, float* memory) {
    const int64_t m = queries(s);
    block = memory;
    scores = block + 2 * s.head_dim * kKeys;
    q = scores + kMostRows * kKeys;
    state = q + m * s.head_dim;
    positions = reinterpret_cast<int64_t*>(memory + (size(s) - 2 * m) / 2 * 2);
  }
};

// Scores [count, rounded up to kColumns] of a row that sees the keys [from, until) become weights; their largest and sum.
PW_INLINE void weigh(float* scores, int64_t count, int64_t from, int64_t until, float* top, float* total) {
  const int64_t columns = (count + kColumns - 1) / kColumns * kColumns;
  if (from > 0 || until < columns)
    for (int64_t i = 0; i < columns; ++i)
      if (i < from || i >= until) scores[i] = kNone;
  vf most = load(scores);
  for (int64_t i = kLanes; i < columns; i += kLanes) most = vmax(most, load(scores + i));
  *top = largest(most);
  const vf base = all(*top == kNone ? 0.0f : *top);
  Sums sums;
  for (int64_t i = 0; i < columns; i += kSums)
    for (int v = 0; v < kSums / kLanes; ++v) {
      const vf weight = exp2(load(scores + i + v * kLanes) - base);
      store(scores + i + v * kLanes, weight);
      sums.parts[v] += weight;
    }
  *total = sums.total();
}

template <int Most, typename F>
PW_INLINE void in_groups(int64_t n, F&& f) {
  int64_t i = 0;
  for (; i + Most <= n; i += Most) f.template operator()<Most>(i);
  const auto rest = [&]<int... R>(std::integer_sequence<int, R...>) {
    (void)((n - i == R + 1 && (f.template operator()<R + 1>(i), true)) || ...);
  };
  rest(std::make_integer_sequence<int, Most - 1>{});
}

// Rows [first, last) of a step, all of one sequence, and the query heads of some KV heads, against the blocks [begin, end)
// of keys. Where the blocks of these rows are shared out, the blocks' states lie among the step's `parts` from `part` on;
// else that is -1.
struct Tile {
  int64_t sequence, first, last, kv_head, kv_heads, begin, end, part;
};

// The tiles of a step for layers of one window, those of many rows first, and those of long contexts before the short
// ones of the same sequence. Tiles of few rows are cut along the keys where some threads would wait for others.
struct Plan {
  int64_t window, parts = 0;        // numbers of all states of blocks
  std::vector<Tile> tiles, shared;  // what is computed, each by one member; what is joined then

  Plan(const PwShape& s, const PwStep& step, int64_t window, int threads) : window(window) {
    const int64_t group = s.heads / s.kv_heads;
    std::vector<Tile> few;
    int64_t blocks = 0;
    for (int64_t sequence = 0; sequence < step.sequences; ++sequence)
      each_tile(s, step, sequence, [&](const Tile& tile) {
        const bool small = few_rows(tile, group);
        (small ? few : tiles).push_back(tile);
        blocks += small ? tile.end - tile.begin : 0;
      });
    const int64_t longest = threads == 1 ? blocks : std::max<int64_t>(1, blocks / (8 * threads));
    for (const Tile& tile : few) {
      if (tile.end - tile.begin <= longest)
        tiles.push_back(tile);
      else
        share(tile, longest, State::size(tile.kv_heads * (tile.last - tile.first) * group, s.head_dim));
    }
  }
  static bool few_rows(const Tile& tile, int64_t group) { return (tile.last - tile.first) * group <= kFew; }

 private:
  template <typename F>
  void each_tile(const PwShape& s, const PwStep& step, int64_t sequence, F&& f) const {
    const int64_t first = step.query_starts[sequence], last = step.query_starts[sequence + 1], group = s.heads / s.kv_heads;
    const int64_t origin = step.contexts[sequence] - last, most = std::max<int64_t>(1, kQueries / group);
    for (int64_t end = last; end > first; end -= most) {
      const int64_t begin = std::max(first, end - most);
      const int64_t oldest = window ? std::max<int64_t>(0, origin + begin - window + 1) : 0;
      Tile tile{sequence, begin, end, 0, 1, oldest / kKeys, (origin + end - 1) / kKeys + 1, -1};
      if (few_rows(tile, group)) tile.kv_heads = std::min(s.kv_heads, std::max<int64_t>(1, kQueries / ((end - begin) * group)));
      for (; tile.kv_head < s.kv_heads; tile.kv_head += tile.kv_heads) {
        tile.kv_heads = std::min(tile.kv_heads, s.kv_heads - tile.kv_head);
        f(tile);
      }
    }
  }

  void share(Tile tile, int64_t longest, int64_t state) {
    tile.part = parts;
    parts += (tile.end - tile.begin) * state;
    shared.push_back(tile);
    for (Tile piece = tile; piece.begin < tile.end; piece.begin = piece.end) {
      piece.end = std::min(tile.end, piece.begin + longest);
      piece.part = tile.part + (piece.begin - tile.begin) * state;
      tiles.push_back(piece);
    }
  }
};

// A step's attention: what it reads and writes.
template <typename T>
struct Attention {
  const PwShape& s;
  const PwStep& step;
  const Plan& plan;
  int64_t q_stride;
  const float* q;
  const T* kv;
  float* parts;  // states of the tiles that several members compute
  float* out;    // [rows, heads * head_dim]

  int64_t group() const { return s.heads / s.kv_heads; }

  // `blocks` of the keys of a tile, each folded into the desk's state or, in a shared tile, into one of its own.
  template <typename Block>
  void compute(const Tile& tile, const Desk& desk) const {
    const int64_t dim = s.head_dim, each = (tile.last - tile.first) * group(), m = tile.kv_heads * each;
    const int64_t width = s.kv_heads * dim;
    const Pages<T> pages{kv, step.page_tables + tile.sequence * step.pages_each, step.page_size, width,
                         tile.kv_head * dim, step.num_pages * step.page_size * width};
    State state(desk.state, m, dim);
    Block keys(pages, dim, tile.kv_heads, desk.block);
    place_queries(tile, desk);
    if (tile.part < 0) state.clear(m, dim);
    for (int64_t block = tile.begin; block < tile.end; ++block) {
      if (tile.part >= 0) {
        state = State(parts + tile.part + (block - tile.begin) * State::size(m, dim), m, dim);
        state.clear(m, dim);
      }
      const int64_t start = block * kKeys, newest = desk.positions[m - 1];
      keys.open(start, newest + 1, block == tile.begin);
      for (int64_t head = 0; head < tile.kv_heads; ++head) {
        keys.turn_to(head);
        in_groups<Block::kRows>(each, [&]<int R>(int64_t i) { fold_block<R>(keys, start, head * each + i, desk, state); });
      }
    }
    if (tile.part < 0) finish(tile, state);
  }

  // The states of a shared tile's blocks, folded in order.
  void join(const Tile& tile, const Desk& desk) const {
    const int64_t dim = s.head_dim, m = tile.kv_heads * (tile.last - tile.first) * group();
    const State state(desk.state, m, dim);
    state.clear(m, dim);
    for (int64_t block = tile.begin; block < tile.end; ++block) {
      const State further(parts + tile.part + (block - tile.begin) * State::size(m, dim), m, dim);
      for (int64_t i = 0; i < m; ++i) {
        float keep, add;
        state.fold(i, further.top[i], further.total[i], &keep, &add);
        for (int64_t d = i * dim; d < (i + 1) * dim; d += kLanes)
          store(state.out + d, fma(load(further.out + d), all(add), load(state.out + d) * all(keep)));
      }
    }
    finish(tile, state);
  }

 private:
  int64_t oldest(int64_t position) const { return plan.window ? std::max<int64_t>(0, position - plan.window + 1) : 0; }

  // f(i, row, query head) of each of a tile's pairs: those of a KV head follow each other, row by row.
  template <typename F>
  void each_query(const Tile& tile, F&& f) const {
    int64_t i = 0;
    for (int64_t kv_head = tile.kv_head; kv_head < tile.kv_head + tile.kv_heads; ++kv_head)
      for (int64_t row = tile.first; row < tile.last; ++row)
        for (int64_t head = kv_head * group(); head < (kv_head + 1) * group(); ++head) f(i++, row, head);
  }

  void place_queries(const Tile& tile, const Desk& desk) const {
    const int64_t dim = s.head_dim, origin = step.contexts[tile.sequence] - step.query_starts[tile.sequence + 1];
    const vf scale = all(s.scale * 1.44269504088896341f);  // weights are powers of two
    each_query(tile, [&](int64_t i, int64_t row, int64_t head) {
      const float* from = q + row * q_stride + head * dim;
      for (int64_t d = 0; d < dim; d += kLanes) store(desk.q + i * dim + d, load(from + d) * scale);
      desk.positions[i] = origin + row;
    });
  }

  template <int R, typename Block>
  PW_INLINE void fold_block(const Block& keys, int64_t start, int64_t i, const Desk& desk, const State& state) const {
    const int64_t dim = s.head_dim, newest = desk.positions[i + R - 1], count = std::min(kKeys, newest + 1 - start);
    if (count <= 0 || oldest(desk.positions[i]) >= start + kKeys) return;
    float top[R], total[R], keep[R], add[R];
    keys.template score<R>(desk.q + i * dim, count, desk.scores);
    for (int r = 0; r < R; ++r) {
      const int64_t position = desk.positions[i + r];
      weigh(desk.scores + r * kKeys, count, oldest(position) - start, position + 1 - start, &top[r], &total[r]);
    }
    for (int r = 0; r < R; ++r) state.fold(i + r, top[r], total[r], &keep[r], &add[r]);
    keys.template mix<R>(desk.scores, count, keep, add, state.out + i * dim);
  }

  void finish(const Tile& tile, const State& state) const {
    const int64_t dim = s.head_dim;
    each_query(tile, [&](int64_t i, int64_t row, int64_t head) {
      float* to = out + (row * s.heads + head) * dim;
      for (int64_t d = 0; d < dim; d += kLanes)  // + 0: a zero has no sign, whatever zeros were added to it
        store(to + d, load(state.out + i * dim + d) / all(state.total[i]) + vf{});
    });
  }
};

// This member's part of it.
template <typename T>
inline void attend(Member& member, const Attention<T>& a, float* desks) {
  const Desk desk(a.s, desks + member.index * Desk::size(a.s));
  const auto &tiles = a.plan.tiles, &shared = a.plan.shared;
  member.share(static_cast<int64_t>(tiles.size()), 1, [&](int64_t i, int64_t) {
    const Tile& tile = tiles[static_cast<size_t>(i)];
    if (Plan::few_rows(tile, a.group()))
      a.template compute<Near<T>>(tile, desk);
    else
      a.template compute<Turned<T>>(tile, desk);
  });
  member.share(static_cast<int64_t>(shared.size()), 1, [&](int64_t i, int64_t) { a.join(shared[static_cast<size_t>(i)], desk); });
}
