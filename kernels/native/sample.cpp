// Choosing tokens: what is the same on all kinds of processors, and the threads.
#include "sample.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "isa.h"

namespace {

constexpr int64_t kBlock = 1024;   // weights that are added apart
constexpr int64_t kGroups = 8;     // sets of a block's logits whose largest is kept
constexpr int kUnit = 40;          // weights count units of 2^-40
constexpr int64_t kAlone = 1 << 17;  // logits that are not worth waking others for

constexpr float kLog2E = 1.44269504088896341f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: what is below one has no place left in the fraction
constexpr float kTerms[] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};

struct Peak {
  float best;
  bool finite;
};

struct Candidate {
  int64_t rank;  // its weight, or what orders logits
  int64_t id;
};

bool before(const Candidate& a, const Candidate& b) { return a.rank != b.rank ? a.rank > b.rank : a.id < b.id; }

// A whole number that orders as the logit does; both zeros have the same.
int64_t rank_of(float x) {
  int32_t bits;
  x += 0.0f;
  std::memcpy(&bits, &x, sizeof bits);
  return bits < 0 ? bits ^ 0x7fffffff : bits;
}

namespace generic {
#include "sample_row.h"
}

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif
namespace avx2 {
#include "sample_row.h"
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
namespace avx2 = generic;
#endif

struct Kind {
  Peak (*find_peak)(const float* x, int64_t n, std::vector<float>& groups);
  int64_t (*weigh)(const float* x, int64_t n, float best, float heat, int64_t least, int64_t* to);
  void (*collect)(const float* x, int64_t n, float low, std::vector<Candidate>& to);
  void (*collect_heavy)(const int64_t* weights, int64_t n, int64_t low, std::vector<Candidate>& to);
};

const Kind& kind() {
  static const Kind chosen = std::strcmp(pw_isa(), "avx2") == 0
                                 ? Kind{avx2::find_peak, avx2::weigh, avx2::collect, avx2::collect}
                                 : Kind{generic::find_peak, generic::weigh, generic::collect, generic::collect};
  return chosen;
}

// What a thread keeps from row to row.
struct Scratch {
  std::vector<float> groups, logits;
  std::vector<int64_t> weights, sums, bins;
  std::vector<Candidate> found, edge;
};

Scratch& scratch() {
  static thread_local Scratch mine;
  return mine;
}

// Philox4x32-10; see pagewire/rng.py. A whole number below 2^53.
uint64_t uniform(uint64_t seed, uint64_t position, uint32_t choice) {
  uint32_t c[4] = {static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), choice, 0};
  auto k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t even = uint64_t{0xD2511F53} * c[0], odd = uint64_t{0xCD9E8D57} * c[2];
    c[0] = static_cast<uint32_t>(odd >> 32) ^ c[1] ^ k0;
    c[1] = static_cast<uint32_t>(odd);
    c[2] = static_cast<uint32_t>(even >> 32) ^ c[3] ^ k1;
    c[3] = static_cast<uint32_t>(even);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return (uint64_t{c[1]} << 32 | c[0]) >> 11;
}

// `found`: k logits, the largest of x [n], the k-th at k - 1. Some that are as large as a k-th of all may stand behind.
void find_largest(const float* x, int64_t n, int64_t k, Scratch& s) {
  float low = -HUGE_VALF;
  if (k <= static_cast<int64_t>(s.groups.size())) {  // k groups reach it, so at least k logits do
    std::nth_element(s.groups.begin(), s.groups.begin() + (k - 1), s.groups.end(), std::greater<>());
    low = s.groups[static_cast<size_t>(k - 1)];
  }
  s.found.clear();
  kind().collect(x, n, low, s.found);
  std::nth_element(s.found.begin(), s.found.begin() + (k - 1), s.found.end(), before);
  s.found.resize(static_cast<size_t>(k));
}

// `found`: the k largest logits' ids in order, their ranks being their weights now; returns the sum.
int64_t weigh_largest(const PwRow& row, int64_t n, float best, Scratch& s) {
  find_largest(row.logits, n, row.top_k, s);
  std::sort(s.found.begin(), s.found.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  s.logits.clear();
  for (const auto& one : s.found) s.logits.push_back(row.logits[one.id]);
  s.weights.resize(s.found.size() + 8);
  const auto heat = static_cast<float>(row.heat);
  const int64_t total = kind().weigh(s.logits.data(), row.top_k, best, heat, row.least, s.weights.data());
  for (size_t i = 0; i < s.found.size(); ++i) s.found[i].rank = s.weights[i];
  return total;
}

// `weights` of the whole row, and `sums` of its blocks; returns the sum of all.
int64_t weigh_all(const PwRow& row, int64_t n, float best, Scratch& s) {
  s.weights.resize(static_cast<size_t>(n) + 8);
  s.sums.clear();
  int64_t total = 0;
  for (int64_t at = 0; at < n; at += kBlock) {
    const int64_t count = std::min(kBlock, n - at);
    const auto heat = static_cast<float>(row.heat);
    s.sums.push_back(kind().weigh(row.logits + at, count, best, heat, row.least, &s.weights[static_cast<size_t>(at)]));
    total += s.sums.back();
  }
  return total;
}

// Weights whose first kBinBits binary places agree lie in the same of kBins bins, the heavier the higher.
constexpr int kBinBits = 6;
constexpr size_t kBins = (kUnit << kBinBits) + 1;

size_t bin_of(int64_t weight) {
  const auto wide = static_cast<double>(weight);
  uint64_t bits;
  std::memcpy(&bits, &wide, sizeof bits);
  return static_cast<size_t>((bits >> (52 - kBinBits)) - (uint64_t{1023} << kBinBits));
}

// The last of the fewest heaviest of [first, last) that reach `target`, to which `sum` counts already. A quickselect
// that goes by weight: each round looks at half as many as the one before.
Candidate find_edge(Candidate* first, Candidate* last, int64_t& sum, int64_t target) {
  while (last - first > 1) {
    Candidate* middle = first + (last - first) / 2;
    std::nth_element(first, middle, last, before);
    int64_t upper = sum;
    for (auto* one = first; one != middle; ++one) upper += one->rank;
    if (upper >= target) {
      last = middle;
    } else {
      sum = upper;
      first = middle;
    }
  }
  sum += first->rank;
  return *first;
}

// Of `found`, the fewest heaviest whose weights reach `target`; the others' become 0. Returns the sum of those kept.
int64_t cut(Scratch& s, int64_t target) {
  s.bins.assign(kBins, 0);
  for (const auto& one : s.found)
    if (one.rank) s.bins[bin_of(one.rank)] += one.rank;
  int64_t sum = 0;
  size_t bin = kBins - 1;
  while (sum + s.bins[bin] < target) sum += s.bins[bin--];
  s.edge.clear();
  for (const auto& one : s.found)
    if (one.rank && bin_of(one.rank) == bin) s.edge.push_back(one);
  const Candidate edge = find_edge(s.edge.data(), s.edge.data() + s.edge.size(), sum, target);
  for (auto& one : s.found)
    if (before(edge, one)) one.rank = 0;
  return sum;
}

// The first of `found` where the sum of the weights so far is above `mark`.
int64_t pick_found(const std::vector<Candidate>& found, int64_t mark) {
  for (const auto& one : found)
    if ((mark -= one.rank) < 0) return one.id;
  return -1;
}

int64_t pick_any(const Scratch& s, int64_t mark) {
  size_t block = 0;
  while (mark >= s.sums[block]) mark -= s.sums[block++];
  for (size_t i = block * kBlock;; ++i)
    if ((mark -= s.weights[i]) < 0) return static_cast<int64_t>(i);
}

void draw(const PwRow& row, int64_t n, float best, const int64_t* choices, int64_t* tokens) {
  Scratch& s = scratch();
  bool few = 0 < row.top_k && row.top_k < n;
  int64_t total = few ? weigh_largest(row, n, best, s) : weigh_all(row, n, best, s);
  if (row.top_p < 1.0) {
    const auto whole = static_cast<double>(total);
    const int64_t target = std::min(total, static_cast<int64_t>(std::ceil(row.top_p * whole)));
    if (!few) {  // n weights below `low` are no more than total - target together: the others reach the target
      const int64_t low = (total - target) / n + 1;
      s.found.clear();
      kind().collect_heavy(s.weights.data(), n, low, s.found);
      few = true;
    }
    total = cut(s, target);
  }
  for (int64_t i = 0; i < row.count; ++i) {
    const uint64_t u = uniform(row.seed, row.position, static_cast<uint32_t>(choices[i]));
    const auto mark = static_cast<int64_t>(static_cast<unsigned __int128>(u) * static_cast<uint64_t>(total) >> 53);
    tokens[i] = few ? pick_found(s.found, mark) : pick_any(s, mark);
  }
}

// The first logit that equals `best`. The groups tell in which block.
int64_t first_of(const float* x, int64_t n, float best, const std::vector<float>& groups) {
  const auto group = std::find(groups.begin(), groups.end(), best) - groups.begin();
  return std::find(x + group / kGroups * kBlock, x + n, best) - x;
}

void sample_row(const PwRow& row, int64_t n, const int64_t* choices, int64_t* tokens) {
  Scratch& s = scratch();
  const Peak peak = kind().find_peak(row.logits, n, s.groups);
  if (!peak.finite)
    std::fill_n(tokens, row.count, -1);
  else if (row.heat == 0.0)
    std::fill_n(tokens, row.count, first_of(row.logits, n, peak.best, s.groups));
  else
    draw(row, n, peak.best, choices, tokens);
}

void score_row(PwScore& row, int64_t n) {
  Scratch& s = scratch();
  const Peak peak = kind().find_peak(row.logits, n, s.groups);
  row.best = peak.best;
  row.mass = 0;
  if (!peak.finite) return;
  row.mass = kind().weigh(row.logits, n, peak.best, 1.0f, 1, nullptr);
  if (row.k == 0) return;
  find_largest(row.logits, n, row.k, s);
  std::sort(s.found.begin(), s.found.end(), before);
  for (int64_t i = 0; i < row.k; ++i) row.ids[i] = s.found[static_cast<size_t>(i)].id;
}

// work(i) for each of `count` rows, by whichever thread is free.
template <typename F>
void each_row(PwPool* pool, int64_t count, int64_t numbers, F work) {
  const auto some = [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) work(i);
  };
  if (pool != nullptr && count > 1 && numbers > kAlone)
    pool->team.run([&](Member& member) { member.share(count, 1, some); });
  else
    some(0, count);
}

}  // namespace

void pw_sample(PwPool* pool, const PwRow* rows, int64_t count, int64_t vocab, const int64_t* choices, int64_t* tokens) {
  each_row(pool, count, count * vocab,
           [&](int64_t i) { sample_row(rows[i], vocab, choices + rows[i].first, tokens + rows[i].first); });
}

void pw_score(PwPool* pool, PwScore* rows, int64_t count, int64_t vocab) {
  each_row(pool, count, count * vocab, [&](int64_t i) { score_row(rows[i], vocab); });
}
