// The C interface of the CPU kernels: plain structs and functions, called through ctypes.
//
// All arrays are C-contiguous and little-endian. Knows rows, weights and pages; knows no model file, no request
// and no Python object. A row's result depends on that row and the keys that it sees, bit for bit: not on how
// many rows there are, on the threads, or on how a prompt was cut into chunks.
#pragma once

#include <cstdint>

#define PW_API extern "C" __attribute__((visibility("default")))

constexpr int64_t kGroup = 64;  // numbers along K that share a scale
constexpr int64_t kPanel = 16;  // weight rows that lie together

// y = x W^T (+ bias), W [n, k] in int8 with a scale for each row and group of k. Made by pw_pack.
struct PwLinear {
  int64_t n, k;
  const int8_t* codes;  // [panels][groups][kGroup / 2][kPanel][2]
  const float* scales;  // [panels][groups][kPanel]
  const float* bias;    // [n] or null
};

struct PwLayer {
  const float *attn_norm, *mlp_norm;  // [hidden]
  const float *q_norm, *k_norm;       // [head_dim] or null
  PwLinear qkv, out, gate_up, down;
  int64_t window;  // a row sees so many positions, itself among them; 0: all
};

struct PwShape {
  int64_t hidden, heads, kv_heads, head_dim, rotary_dim, inner;
  float eps, scale;
};

// One step's rows: those of a sequence follow each other, its newest last.
struct PwStep {
  int64_t rows, sequences, pages_each, page_size, num_pages;
  const float *cos, *sin;       // [rows, rotary_dim / 2]
  const int64_t* slots;         // [rows] where each row's K and V go
  const int64_t* query_starts;  // [sequences + 1]
  const int64_t* contexts;      // [sequences] tokens whose KV is there, those of this step too
  const int64_t* page_tables;   // [sequences, pages_each]
};

struct PwPool;

PW_API const char* pw_isa();
PW_API PwPool* pw_open(int threads);
PW_API void pw_close(PwPool*);

// Sizes in bytes of what pw_pack writes.
PW_API int64_t pw_codes_bytes(int64_t n, int64_t k);
PW_API int64_t pw_scales_bytes(int64_t n, int64_t k);
PW_API void pw_pack(const float* w, int64_t n, int64_t k, int8_t* codes, float* scales);

// hidden [rows, hidden] += attention, then += feed-forward; K and V of the rows go into
// kv [2, pages, page_size, kv_heads, head_dim].
PW_API void pw_layer(PwPool*, const PwShape*, const PwLayer*, const PwStep*, float* hidden, float* kv);

// out [rows, w->n] = rms_norm(x [rows, w->k], norm, eps) W^T; norm null: of x itself.
PW_API void pw_linear(PwPool*, const float* x, int64_t rows, const float* norm, float eps, const PwLinear* w, float* out);

// out [rows, heads * head_dim], of q of that shape whose rows are q_stride apart.
PW_API void pw_attention(PwPool*, const PwShape*, const PwStep*, int64_t window, const float* q, int64_t q_stride,
                         const float* kv, float* out);
