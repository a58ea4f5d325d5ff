// Threads that run one function together, with barriers in it. Knows no kernel.
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
  unsigned turn = 0;

  // Wait for all members.
  void barrier();
  // f(first, last) of up to `most` of n things at a time until all are taken, so that nobody waits for a member that is
  // slow, or that has no processor just now. Once between two barriers.
  template <typename F>
  void share(int64_t n, int64_t most, F&& f) const;
  // The part [first, last) of n things that is this member's.
  void split(int64_t n, int64_t* first, int64_t* last) const {
    *first = n * index / count;
    *last = n * (index + 1) / count;
  }
};

struct Team {
  explicit Team(int threads);
  ~Team();
  Team(const Team&) = delete;

  // Run `work` on all threads, the caller's among them; returns when all are done.
  void run(const std::function<void(Member&)>& work);

  int count;
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<unsigned> passed{0};  // barriers so far
  alignas(64) std::atomic<int64_t> taken{0};    // of what is shared since the last one

 private:
  void serve(int index);

  const std::function<void(Member&)>* work_ = nullptr;
  alignas(64) std::atomic<unsigned> job_{0};
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> threads_;
};

template <typename F>
void Member::share(int64_t n, int64_t most, F&& f) const {
  for (int64_t first; (first = team->taken.fetch_add(most, std::memory_order_relaxed)) < n;) f(first, std::min(first + most, n));
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
