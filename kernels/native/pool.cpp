#include "pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int kSpins = 2000;  // some tens of microseconds: from one layer's call to the next

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Until `value` is no longer `old`: awake for a moment, then asleep.
template <typename T>
void await(const std::atomic<T>& value, T old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    relax();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

Team::Team(int threads) : count(threads), parts_(new Part[static_cast<size_t>(threads)]) {
  for (int i = 1; i < threads; ++i) threads_.emplace_back(&Team::serve, this, i);
}

Team::~Team() {
  stopping_ = true;
  job_.fetch_add(1, std::memory_order_release);
  job_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void Team::run(const std::function<void(Member&)>& work) {
  work_ = &work;
  first_ = phase_.load(std::memory_order_relaxed);
  if (count > 1) {
    inside_.store(0, std::memory_order_release);
    job_.fetch_add(1, std::memory_order_release);
    job_.notify_all();
  }
  Member member{this, 0, count, first_};
  work(member);
  if (count == 1) return;
  for (uint32_t inside = inside_.fetch_or(1, std::memory_order_acq_rel) | 1; inside > 1;) {
    await(inside_, inside);
    inside = inside_.load(std::memory_order_acquire);
  }
}

void Team::serve(int index) {
  for (uint32_t seen = 0;;) {
    await(job_, seen);
    seen = job_.load(std::memory_order_acquire);
    if (stopping_) return;
    if (!enter()) continue;
    Member member{this, index, count, first_};
    (*work_)(member);
    leave();
  }
}

// Whether the job is still open: then it stays until this thread leaves.
bool Team::enter() {
  uint32_t inside = inside_.load(std::memory_order_relaxed);
  while (!(inside & 1))
    if (inside_.compare_exchange_weak(inside, inside + 2, std::memory_order_acq_rel)) return true;
  return false;
}

void Team::leave() {
  if (inside_.fetch_sub(2, std::memory_order_acq_rel) == 3) inside_.notify_all();
}

void Team::finished(uint32_t phase, int64_t things, int64_t n) {
  if (done_.fetch_add(things, std::memory_order_acq_rel) + things < n) return;
  done_.store(0, std::memory_order_relaxed);
  phase_.store(phase + 1, std::memory_order_release);
  phase_.notify_all();
}

void Team::await_end(uint32_t phase) {
  while (phase_.load(std::memory_order_acquire) == phase) await(phase_, phase);
}
