// The C interface of the sampler: the next tokens of many rows of logits in one call.
//
// A row's tokens are a function of its logits and its PwRow alone: not of the other rows, the threads, or the kind of
// processor. kernels/sampling.py does the same in numpy, to the bit, and says what is computed.
#pragma once

#include <cstdint>

#include "api.h"

// How the tokens of one row are to be chosen. Eight bytes each: numpy lays out the same.
struct PwRow {
  const float* logits;       // [vocab]
  double heat;               // 1 / temperature; 0: the largest logit, whatever the rest says
  double top_p;              // 1: no limit
  int64_t top_k;             // 0: no limit
  int64_t least;             // weights below it are none (min_p); at least 1
  uint64_t seed;             // of the draws, with a choice's number and
  uint64_t position;         // the new token's place in its sequence
  int64_t first, count;      // its part of `choices` and `tokens`
};

// What log-probabilities are made of. `mass` is the sum of the row's weights at temperature 1.
struct PwScore {
  const float* logits;   // [vocab]
  int64_t k;             // 0 or more, at most vocab
  int64_t* ids;          // [k] out: the most likely tokens, most likely first
  double best;           // out: the largest logit
  int64_t mass;          // out; 0 where the row is not finite
};

// tokens[i] for choices[i]; -1 where the row has NaN, +inf or nothing but -inf. `pool` null: in the caller's thread.
PW_API void pw_sample(PwPool* pool, const PwRow* rows, int64_t count, int64_t vocab, const int64_t* choices,
                      int64_t* tokens);

PW_API void pw_score(PwPool* pool, PwScore* rows, int64_t count, int64_t vocab);
