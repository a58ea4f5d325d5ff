// A decoder layer and its parts, for one kind of processor. Included by each isa_*.cpp after its lanes.

#include "quantise.h"
#include "matmul.h"
#include "keys.h"
#include "attention.h"

constexpr int64_t kBlock = 128;  // rows whose quantised form stays in the second cache

inline int64_t width_of(int64_t k) { return groups_of(k) * kGroup; }

// Room for quantised rows of up to `rows` x `k` in the pool's memory, in the form that the weights `to` take. Where there
// are fewer rows than members each member has its own, and quantises all of them: nobody has to wait for others then.
struct Quantised {
  int16_t* codes;
  int8_t* rests;
  uint8_t* fine;
  float *scales, *totals;
  int64_t width;
  const PwLinear& to;
  bool own;

  Quantised(Member& member, PwPool& pool, int64_t rows, int64_t k, const PwLinear& to)
      : width(width_of(k)), to(to), own(rows < member.count) {
    const int64_t at = own ? member.index * rows : 0;
    codes = pool.codes.need(0) + at * width;
    rests = reinterpret_cast<int8_t*>(codes) + rows * width;  // codes of 8 bits leave half of the room
    fine = pool.fine.need(0) + at * groups_of(k);
    scales = pool.scales.need(0) + 2 * at * groups_of(k);
    totals = scales + rows * groups_of(k);
  }
  // Before members make theirs.
  static void reserve(PwPool& pool, int64_t rows, int64_t k) {
    rows = std::max<int64_t>(rows, pool.team.count * (pool.team.count - 1));
    pool.codes.need(rows * width_of(k));
    pool.fine.need(rows * groups_of(k));
    pool.scales.need(2 * rows * groups_of(k));
  }
  // f(row) of what this member quantises of `rows` rows; returns when all are there.
  template <typename F>
  void each(Member& member, int64_t rows, F&& f) const {
    const auto some = [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) f(row);
    };
    if (!own) return member.share(rows, part(member, rows), some);
    if (member.needed()) some(0, rows);
  }
  void put(int64_t row, const float* x, int64_t k) const {
    const int64_t groups = width / kGroup;
    float *scale = scales + row * groups, *total = totals + row * groups;
    if (to.row_bits != 16)
      quantise_row_8(x, k, width, to.row_bits == 0, reinterpret_cast<int8_t*>(codes) + row * width, rests + row * width,
                     fine + row * groups, scale, total);
    else if (to.bits == 8)
      quantise_row_16<false>(x, k, width, codes + row * width, scale, total);
    else
      quantise_row_16<true>(x, k, width, codes + row * width, scale, total);
  }
  Rows rows() const { return {codes, rests, fine, scales, totals, width}; }
};

// Rows of x, normed where there is a norm, quantised.
inline void put_rows(Member& member, const Quantised& to, const float* x, int64_t rows, int64_t k, const float* norm,
                     float eps, float* line) {
  to.each(member, rows, [&](int64_t row) {
    const float* from = x + row * k;
    if (norm != nullptr) {
      rms_norm_row(from, norm, eps, k, line);
      from = line;
    }
    to.put(row, from, k);
  });
}

// q and k of a row normed and turned, k and v stored.
template <typename T>
inline void place_row(const PwShape& s, const PwLayer& layer, const PwStep& step, int64_t row, float* qkv, T* kv) {
  const int64_t dim = s.head_dim, half = s.rotary_dim / 2, width = s.kv_heads * dim, turn = step.positions[row] * half;
  for (int64_t head = 0; head < s.heads + s.kv_heads; ++head) {
    const float* norm = head < s.heads ? layer.q_norm : layer.k_norm;
    if (norm != nullptr) rms_norm_row(qkv + head * dim, norm, s.eps, dim, qkv + head * dim);
    rotate_head(qkv + head * dim, step.cos + turn, step.sin + turn, half);
  }
  T* keys = kv + step.slots[row] * width;
  put(qkv + s.heads * dim, width, keys);
  put(qkv + s.heads * dim + width, width, keys + step.num_pages * step.page_size * width);
}

// What the parts of a layer share: the pool's memory, and whose step it is.
struct Room {
  PwPool& pool;
  const PwShape& shape;
  const PwStep& step;
  float *hidden, *qkv, *gate_up, *mixed, *desks, *lines;
  int64_t q_width, qkv_width, block, widest;
  std::vector<Plan> plans;  // one for each window that a layer has

  Room(PwPool& pool, const PwShape& s, const PwStep& step, float* hidden)
      : pool(pool),
        shape(s),
        step(step),
        hidden(hidden),
        q_width(s.heads * s.head_dim),
        qkv_width(q_width + 2 * s.kv_heads * s.head_dim),
        block(std::min(step.rows, kBlock)),
        widest(std::max({s.hidden, s.inner, q_width})) {
    Quantised::reserve(pool, block, widest);
    qkv = gate_up = pool.wide.need(std::max(step.rows * qkv_width, block * 2 * s.inner));
    mixed = pool.mixed.need(step.rows * q_width);
    desks = pool.scratch.need(pool.team.count * Desk::size(s));
    lines = pool.inner.need(pool.team.count * widest);
  }
  Quantised quantised(Member& member, const PwLinear& w) const { return Quantised(member, pool, block, w.k, w); }
  // f(first row, rows) of each block.
  template <typename F>
  void blocks(F&& f) const {
    for (int64_t row = 0; row < step.rows; row += kBlock) f(row, std::min(kBlock, step.rows - row));
  }
  void plan_for(int64_t window) {
    for (const Plan& plan : plans)
      if (plan.window == window) return;
    plans.emplace_back(shape, step, window, pool.team.count);
    pool.parts.need(plans.back().parts);
  }
  const Plan& plan(int64_t window) const {
    return *std::find_if(plans.begin(), plans.end(), [&](const Plan& plan) { return plan.window == window; });
  }
};

template <typename T>
inline void attention_part(Member& member, const Room& b, const PwLayer& layer, T* kv) {
  const Attention<T> attention{b.shape, b.step, b.plan(layer.window), b.qkv_width, b.qkv, kv, b.pool.parts.need(0), b.mixed};
  const PwShape& s = b.shape;
  float* line = b.lines + member.index * b.widest;
  const Quantised in = b.quantised(member, layer.qkv), heads = b.quantised(member, layer.out);
  b.blocks([&](int64_t row, int64_t rows) {
    put_rows(member, in, b.hidden + row * s.hidden, rows, s.hidden, layer.attn_norm, s.eps, line);
    matmul(member, in.rows(), rows, layer.qkv, layer.out, b.qkv + row * b.qkv_width, false);
  });
  member.share(b.step.rows, part(member, b.step.rows), [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) place_row(s, layer, b.step, row, b.qkv + row * b.qkv_width, kv);
  });
  attend(member, attention, b.desks);
  b.blocks([&](int64_t row, int64_t rows) {
    put_rows(member, heads, b.mixed + row * b.q_width, rows, b.q_width, nullptr, 0, line);
    matmul(member, heads.rows(), rows, layer.out, layer.gate_up, b.hidden + row * s.hidden, true);
  });
}

inline void feed_forward_part(Member& member, const Room& b, const PwLayer& layer, const PwLinear& next) {
  const PwShape& s = b.shape;
  float* line = b.lines + member.index * b.widest;
  const Quantised in = b.quantised(member, layer.gate_up), inner = b.quantised(member, layer.down);
  b.blocks([&](int64_t row, int64_t rows) {
    put_rows(member, in, b.hidden + row * s.hidden, rows, s.hidden, layer.mlp_norm, s.eps, line);
    matmul(member, in.rows(), rows, layer.gate_up, layer.down, b.gate_up, false);
    inner.each(member, rows, [&](int64_t r) {
      silu_mul_row(b.gate_up + r * 2 * s.inner, s.inner, line);
      inner.put(r, line, s.inner);
    });
    matmul(member, inner.rows(), rows, layer.down, next, b.hidden + row * s.hidden, true);
  });
}

inline void layers(PwPool& pool, const PwShape& s, const PwLayer* layers, int64_t count, const PwStep& step,
                   float* hidden, void* memory) {
  Room room(pool, s, step, hidden);
  for (int64_t i = 0; i < count; ++i) room.plan_for(layers[i].window);
  const int64_t plane = 2 * step.num_pages * step.page_size * s.kv_heads * s.head_dim;
  with_kv(step, memory, [&](auto* kv) {
    pool.team.run([&](Member& member) {
      for (int64_t i = 0; i < count; ++i) {
        attention_part(member, room, layers[i], kv + i * plane);
        feed_forward_part(member, room, layers[i], layers[i + 1 < count ? i + 1 : 0].qkv);
      }
    });
  });
}

inline void linear(PwPool& pool, const float* x, int64_t rows, const float* norm, float eps, const PwLinear& w, float* out) {
  const int64_t block = std::min(rows, kBlock);
  Quantised::reserve(pool, block, w.k);
  float* lines = pool.inner.need(pool.team.count * w.k);
  pool.team.run([&](Member& member) {
    const Quantised in(member, pool, block, w.k, w);
    for (int64_t row = 0; row < rows; row += kBlock) {
      const int64_t here = std::min(kBlock, rows - row);
      put_rows(member, in, x + row * w.k, here, w.k, norm, eps, lines + member.index * w.k);
      matmul(member, in.rows(), here, w, w, out + row * w.n, false);
    }
  });
}

inline void attention(PwPool& pool, const PwShape& s, const PwStep& step, int64_t window, const float* q, int64_t q_stride,
                      const void* memory, float* out) {
  float* desks = pool.scratch.need(pool.team.count * Desk::size(s));
  const Plan plan(s, step, window, pool.team.count);
  with_kv(step, const_cast<void*>(memory), [&]<typename T>(T* kv) {
    const Attention<T> attention{s, step, plan, q_stride, q, kv, pool.parts.need(plan.parts), out};
    pool.team.run([&](Member& member) { attend(member, attention, desks); });
  });
}

constexpr Isa kIsa{PW_ISA, &layers, &linear, &attention};
