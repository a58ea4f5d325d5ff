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

void Member::barrier() {
  if (count == 1) return team->taken.store(0, std::memory_order_relaxed);
  const unsigned before = turn++;
  if (team->arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
    team->arrived.store(0, std::memory_order_relaxed);
    team->taken.store(0, std::memory_order_relaxed);
    team->passed.fetch_add(1, std::memory_order_release);
    team->passed.notify_all();
  } else {
    while (team->passed.load(std::memory_order_acquire) == before) await(team->passed, before);
  }
}

Team::Team(int threads) : count(threads) {
  for (int i = 1; i < threads; ++i) threads_.emplace_back(&Team::serve, this, i);
}

Team::~Team() {
  stopping_ = true;
  job_.fetch_add(1, std::memory_order_release);
  job_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void Team::run(const std::function<void(Member&)>& work) {
  Member member{this, 0, count, passed.load(std::memory_order_relaxed)};
  work_ = &work;
  if (count > 1) {
    job_.fetch_add(1, std::memory_order_release);
    job_.notify_all();
  }
  work(member);
  member.barrier();
}

void Team::serve(int index) {
  for (unsigned done = 0;;) {
    await(job_, done);
    const unsigned next = job_.load(std::memory_order_acquire);
    if (next == done) continue;
    done = next;
    if (stopping_) return;
    Member member{this, index, count, passed.load(std::memory_order_acquire)};
    (*work_)(member);
    member.barrier();
  }
}
