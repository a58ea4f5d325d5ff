// A decoder layer and its parts, for one kind of processor. Included by each isa_*.cpp after its lanes.

#include "quantise.h"
#include "matmul.h"
#include "attention.h"

constexpr int64_t kBlock = 128;  // rows whose quantised form stays in the second cache

inline int64_t width_of(int64_t k) { return groups_of(k) * kGroup; }

// Quantised rows of up to `rows` x `k`, in the pool's memory.
struct Quantised {
  int16_t* codes;
  float* scales;
  int64_t width;

  Quantised(PwPool& pool, int64_t rows, int64_t k)
      : codes(pool.codes.need(rows * width_of(k))), scales(pool.scales.need(rows * groups_of(k))), width(width_of(k)) {}
  void put(int64_t row, const float* x, int64_t k) const {
    quantise_row(x, k, width, codes + row * width, scales + row * (width / kGroup));
  }
  Rows rows() const { return {codes, scales, width}; }
};

// Rows of x, normed where there is a norm, quantised: this member's share.
inline void put_rows(Member& member, const Quantised& to, const float* x, int64_t rows, int64_t k, const float* norm,
                     float eps, float* line) {
  int64_t first, last;
  member.split(rows, &first, &last);
  for (int64_t row = first; row < last; ++row) {
    const float* from = x + row * k;
    if (norm != nullptr) {
      rms_norm_row(from, norm, eps, k, line);
      from = line;
    }
    to.put(row, from, k);
  }
}

// q and k of a row normed and turned, k and v stored.
inline void place_row(const PwShape& s, const PwLayer& layer, const PwStep& step, int64_t row, float* qkv, float* kv) {
  const int64_t dim = s.head_dim, half = s.rotary_dim / 2, width = s.kv_heads * dim;
  for (int64_t head = 0; head < s.heads + s.kv_heads; ++head) {
    const float* norm = head < s.heads ? layer.q_norm : layer.k_norm;
    if (norm != nullptr) rms_norm_row(qkv + head * dim, norm, s.eps, dim, qkv + head * dim);
    rotate_head(qkv + head * dim, step.cos + row * half, step.sin + row * half, half);
  }
  float* keys = kv + step.slots[row] * width;
  std::copy_n(qkv + s.heads * dim, width, keys);
  std::copy_n(qkv + s.heads * dim + width, width, keys + step.num_pages * step.page_size * width);
}

inline void layer(PwPool& pool, const PwShape& s, const PwLayer& layer, const PwStep& step, float* hidden, float* kv) {
  const int64_t q_width = s.heads * s.head_dim, qkv_width = q_width + 2 * s.kv_heads * s.head_dim;
  const int64_t count = pool.team.count, widest = std::max({s.hidden, s.inner, q_width});
  const Quantised quantised(pool, std::min(step.rows, kBlock), widest);
  float* wide = pool.wide.need(std::max(step.rows * qkv_width, std::min(step.rows, kBlock) * 2 * s.inner));
  float* mixed = pool.mixed.need(step.rows * q_width);
  float* desks = pool.scratch.need(count * Desk::size(s));
  float* lines = pool.inner.need(count * widest);
  std::atomic<int64_t> next{0};
  const auto of = [&](int64_t k) { return Quantised(pool, std::min(step.rows, kBlock), k); };
  pool.team.run([&](Member& member) {
    float* line = lines + member.index * widest;
    int64_t first, last;
    for (int64_t row = 0; row < step.rows; row += kBlock) {
      const int64_t rows = std::min(kBlock, step.rows - row);
      const Quantised in = of(s.hidden);
      put_rows(member, in, hidden + row * s.hidden, rows, s.hidden, layer.attn_norm, s.eps, line);
      member.barrier();
      matmul(member, in.rows(), rows, layer.qkv, wide + row * qkv_width, false);
      member.barrier();
    }
    member.split(step.rows, &first, &last);
    for (int64_t row = first; row < last; ++row) place_row(s, layer, step, row, wide + row * qkv_width, kv);
    member.barrier();
    attend_all(member, next, s, step, layer.window, wide, qkv_width, kv, desks, mixed);
    member.barrier();
    for (int64_t row = 0; row < step.rows; row += kBlock) {
      const int64_t rows = std::min(kBlock, step.rows - row);
      const Quantised heads = of(q_width), in = of(s.hidden), inner = of(s.inner);
      put_rows(member, heads, mixed + row * q_width, rows, q_width, nullptr, 0, line);
      member.barrier();
      matmul(member, heads.rows(), rows, layer.out, hidden + row * s.hidden, true);
      member.barrier();
      put_rows(member, in, hidden + row * s.hidden, rows, s.hidden, layer.mlp_norm, s.eps, line);
      member.barrier();
      matmul(member, in.rows(), rows, layer.gate_up, wide, false);
      member.barrier();
      member.split(rows, &first, &last);
      for (int64_t r = first; r < last; ++r) {
        silu_mul_row(wide + r * 2 * s.inner, s.inner, line);
        inner.put(r, line, s.inner);
      }
      member.barrier();
      matmul(member, inner.rows(), rows, layer.down, hidden + row * s.hidden, true);
      member.barrier();
    }
  });
}

inline void linear(PwPool& pool, const float* x, int64_t rows, const float* norm, float eps, const PwLinear& w, float* out) {
  const Quantised in(pool, std::min(rows, kBlock), w.k);
  float* lines = pool.inner.need(pool.team.count * w.k);
  pool.team.run([&](Member& member) {
    for (int64_t row = 0; row < rows; row += kBlock) {
      const int64_t here = std::min(kBlock, rows - row);
      put_rows(member, in, x + row * w.k, here, w.k, norm, eps, lines + member.index * w.k);
      member.barrier();
      matmul(member, in.rows(), here, w, out + row * w.n, false);
      member.barrier();
    }
  });
}

inline void attention(PwPool& pool, const PwShape& s, const PwStep& step, int64_t window, const float* q, int64_t q_stride,
                      const float* kv, float* out) {
  float* desks = pool.scratch.need(pool.team.count * Desk::size(s));
  std::atomic<int64_t> next{0};
  pool.team.run([&](Member& member) { attend_all(member, next, s, step, window, q, q_stride, kv, desks, out); });
}

constexpr Isa kIsa{PW_ISA, &layer, &linear, &attention};
