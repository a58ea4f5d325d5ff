// Threads that run one function together. Knows no kernel.
//
// The function is a row of calls of `share`, the same for every thread: a phase each, that ends when all of it is done. A
// thread that comes late, or that has had no processor for a while, passes by the phases that others have done without
// it. So nobody ever waits for more than one piece of work of a thread that does not run.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <thread>
#include <vector>

struct Team;

// One thread's part in a function that all of a pool's threads run.
struct Member {
  Team* team;
  int index, count;
  uint32_t phase;

  // f(first, last) of up to `most` of n things at a time, until all are taken; returns when all are done. Takes from its
  // own part first, then from what others have not come to.
  template <typename F>
  void share(int64_t n, int64_t most, F&& f);
  // Whether what follows has not been done by others.
  bool needed() const;
  // The part [first, last) of n things that is this member's.
  void split(int64_t n, int64_t* first, int64_t* last) const { split(n, index, first, last); }

 private:
  void split(int64_t n, int of, int64_t* first, int64_t* last) const {
    *first = n * of / count;
    *last = n * (of + 1) / count;
  }
};

struct Team {
  explicit Team(int threads);
  ~Team();
  Team(const Team&) = delete;

  // Run `work` on all threads, the caller's among them; returns when all are done.
  void run(const std::function<void(Member&)>& work);

  const int count;

 private:
  friend Member;
  static constexpr int kHelped = 8;  // members after oneself from whose part one takes

  // What has been taken of a member's part. A phase below means that it is of an earlier one: nothing.
  struct alignas(64) Part {
    std::atomic<uint64_t> taken{0};  // (phase, things)
    int64_t take(uint32_t phase, int64_t size, int64_t most);
  };

  void serve(int index);
  bool enter();
  void leave();
  void finished(uint32_t phase, int64_t things, int64_t n);
  void await_end(uint32_t phase);

  std::unique_ptr<Part[]> parts_;
  alignas(64) std::atomic<int64_t> done_{0};     // things of the phase
  alignas(64) std::atomic<uint32_t> phase_{0};   // the one that goes on
  alignas(64) std::atomic<uint32_t> job_{0};     // calls of run
  alignas(64) std::atomic<uint32_t> inside_{0};  // threads in the job, times 2; 1 is added when nobody may enter
  const std::function<void(Member&)>* work_ = nullptr;
  uint32_t first_ = 0;  // the job's first phase
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> threads_;
};

// Takes up to `most` things and returns the first; -1 if there is none left.
inline int64_t Team::Part::take(uint32_t phase, int64_t size, int64_t most) {
  uint64_t seen = taken.load(std::memory_order_relaxed);
  for (;;) {
    const auto of = static_cast<uint32_t>(seen >> 32);
    const int64_t first = of == phase ? static_cast<int64_t>(seen & 0xffffffff) : 0;
    if (static_cast<int32_t>(of - phase) > 0 || first >= size) return -1;
    const uint64_t next = static_cast<uint64_t>(phase) << 32 | static_cast<uint64_t>(std::min(first + most, size));
    if (taken.compare_exchange_weak(seen, next, std::memory_order_relaxed)) return first;
  }
}

inline bool Member::needed() const { return team->phase_.load(std::memory_order_acquire) == phase; }

template <typename F>
void Member::share(int64_t n, int64_t most, F&& f) {
  if (n == 0) return;
  for (int i = 0; i < std::min(count, 1 + Team::kHelped) && needed(); ++i) {
    const int of = index + i < count ? index + i : index + i - count;
    int64_t first, last, things = 0;
    split(n, of, &first, &last);
    for (int64_t at; (at = team->parts_[of].take(phase, last - first, most)) >= 0;) {
      const int64_t end = std::min(at + most, last - first);
      f(first + at, first + end);
      things += end - at;
    }
    if (things > 0) team->finished(phase, things, n);
  }
  team->await_end(phase++);
}

// Memory for n numbers, aligned to cache lines, that is kept from call to call and grows.
template <typename T>
class Buffer {
 public:
  T* need(int64_t n) {
    if (n > size_) {
      memory_.reset(static_cast<T*>(::operator new(static_cast<size_t>(n) * sizeof(T), std::align_val_t{64})));
      size_ = n;
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  std::unique_ptr<T, Free> memory_;
  int64_t size_ = 0;
};
