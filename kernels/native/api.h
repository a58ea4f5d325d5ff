// The C interface of the CPU kernels: plain structs and functions, called through ctypes.
//
// All arrays are C-contiguous and little-endian. Knows rows, weights and pages; knows no model file, no request
// and no Python object. A row's result depends on that row and the keys that it sees, bit for bit: not on how
// many rows there are, on the threads, or on how a prompt was cut into chunks.
#pragma once

#include <cstdint>

#define PW_API extern "C" __attribute__((visibility("default")))

constexpr int64_t kGroup = 32;  // numbers along K that share a scale
constexpr int64_t kPanel = 16;  // weight rows that lie together

// y = x W^T (+ bias). W [n, k] = scale * code + offset, where a row's kGroup numbers along k share a scale and, in
// 4 bits, an offset, both in float16. A weight row that fills no panel, and a group that k does not fill, are zeros.
//
// Rows are rounded to codes of row_bits before they are multiplied: 16, or 8 for weights of 4 bits. 0 is 8 for most groups
// of a row, and 16 for those that hold its largest numbers (quantise.h).
//
// 8 bits: codes from -128 to 127 as [panels][groups][kGroup / 2][kPanel][2], no offsets.
// 4 bits: codes from 0 to 15 as [panels][groups][kGroup / 8][kPanel][4] bytes: at b and i the lower half is the code
// of k = 4 b + i, the upper half that of k = 4 b + i + kGroup / 2.
struct PwLinear {
  int64_t n, k, bits, row_bits;
  const uint8_t* codes;
  const uint16_t *scales, *offsets;  // [panels][groups][kPanel]
  const float* bias;                 // [n] or null
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
  int64_t kv_bits;              // of a number in the pages: 32 is float32, 16 is bfloat16
  const float *cos, *sin;       // [positions of the model, rotary_dim / 2]
  const int64_t* positions;     // [rows]
  const int64_t* slots;         // [rows] where each row's K and V go
  const int64_t* query_starts;  // [sequences + 1]
  const int64_t* contexts;      // [sequences] tokens whose KV is there, those of this step too
  const int64_t* page_tables;   // [sequences, pages_each]
};

struct PwPool;

PW_API const char* pw_isa();
PW_API PwPool* pw_open(int threads);
PW_API void pw_close(PwPool*);

// Bytes of `codes`, and numbers of `scales` and `offsets`.
PW_API int64_t pw_codes_bytes(int64_t n, int64_t k, int64_t bits);
PW_API int64_t pw_groups(int64_t n, int64_t k);

// Rows [first, first + rows) of `to` from float32 [rows, k]: codes from -127 to 127, for 8 bits only.
PW_API void pw_pack(const float* w, int64_t first, int64_t rows, const PwLinear* to);

// The same from codes [rows, groups of k, kGroup] in bytes, and scales and offsets [rows, groups of k].
PW_API void pw_place(const uint8_t* codes, const uint16_t* scales, const uint16_t* offsets, int64_t first, int64_t rows,
                     const PwLinear* to);

// out[count][k] = the weight rows `ids`, for 8 bits only.
PW_API void pw_rows(const PwLinear* w, const int64_t* ids, int64_t count, float* out);

// Through each of `count` layers: hidden [rows, hidden] += attention, then += feed-forward; K and V of the rows go into
// kv [count, 2, pages, page_size, kv_heads, head_dim].
PW_API void pw_layers(PwPool*, const PwShape*, const PwLayer*, int64_t count, const PwStep*, float* hidden, void* kv);

// out [rows, w->n] = rms_norm(x [rows, w->k], norm, eps) W^T; norm null: of x itself.
PW_API void pw_linear(PwPool*, const float* x, int64_t rows, const float* norm, float eps, const PwLinear* w, float* out);

// out [rows, heads * head_dim], of q of that shape whose rows are q_stride apart.
PW_API void pw_attention(PwPool*, const PwShape*, const PwStep*, int64_t window, const float* q, int64_t q_stride,
                         const void* kv, float* out);
