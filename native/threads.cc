// The threads of this binding's ops: TensorFlow's, which only its C++ interface gives, and our own.
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "ops.h"
#include "tensorflow/core/framework/op_kernel.h"

void ParallelFor(TF_OpKernelContext* context, int64_t n, const std::function<void(int64_t)>& work) {
  using tsl::thread::ThreadPool;
  ThreadPool* threads =
      reinterpret_cast<tensorflow::OpKernelContext*>(context)->device()->tensorflow_cpu_worker_threads()->workers;
  const int64_t block = std::max<int64_t>(1, n / (threads->NumThreads() * 4));
  const ThreadPool::SchedulingParams params(ThreadPool::SchedulingStrategy::kFixedBlockSize, absl::nullopt, block);
  std::mutex mutex;
  std::exception_ptr problem;
  threads->ParallelFor(n, params, [&](int64_t begin, int64_t end) {
    try {
      for (int64_t i = begin; i < end; i++) work(i);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex);
      if (problem == nullptr) problem = std::current_exception();
    }
  });
  if (problem != nullptr) std::rethrow_exception(problem);
}

namespace {

// How often a thread looks for work before it sleeps: about as long as the time between two steps of decoding. And a caller
// for the last of its work, before it lets others run.
constexpr int kSpins = 20000, kCallerSpins = 2000;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// How this thread rounds and treats the smallest numbers: TensorFlow has its kernels run with denormal numbers as zero.
unsigned FloatMode() {
#if defined(__x86_64__)
  return __builtin_ia32_stmxcsr();
#else
  return 0;
#endif
}

void SetFloatMode(unsigned mode) {
#if defined(__x86_64__)
  __builtin_ia32_ldmxcsr(mode);
#else
  (void)mode;
#endif
}

int64_t CountThreads() {
  cpu_set_t set;
  int64_t count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  for (const char* name : {"OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"}) {
    const char* value = std::getenv(name);
    const int64_t limit = value == nullptr ? 0 : std::atoll(value);
    if (limit > 0) count = std::min(count, limit);
  }
  return std::max<int64_t>(1, count);
}

// Threads that wait for numbered work. Lives as long as the process. A call ends when its work is done, not when every thread
// has looked: one that the machine has put aside holds nobody up.
class Pool {
 public:
  Pool() {
    for (int64_t i = 1; i < ThreadCount(); i++) std::thread([this] { Serve(); }).detach();
  }

  void Run(int64_t n, const std::function<void(int64_t)>& work) {
    std::lock_guard<std::mutex> one(callers_);
    work_ = &work;
    n_ = n;
    mode_.store(FloatMode(), std::memory_order_relaxed);
    left_.store(n, std::memory_order_relaxed);
    tickets_.store(n);
    if (asleep_.load() > 0) {
      std::lock_guard<std::mutex> lock(sleep_);
      wake_.notify_all();
    }
    Take();
    for (int spins = 0; left_.load(std::memory_order_acquire) > 0; spins++) {
      if (spins < kCallerSpins) Pause();
      else sched_yield();
    }
    if (problem_ != nullptr) std::rethrow_exception(std::exchange(problem_, nullptr));
  }

 private:
  // A ticket belongs to the call under way, which does not end before its last ticket is worked off: work_ and n_ may be
  // read after taking one, and only then.
  void Take() {
    for (int64_t ticket = tickets_.load(); ticket > 0;) {
      if (!tickets_.compare_exchange_weak(ticket, ticket - 1)) continue;
      try {
        (*work_)(n_ - ticket);
      } catch (...) {
        std::lock_guard<std::mutex> lock(sleep_);
        if (problem_ == nullptr) problem_ = std::current_exception();
      }
      left_.fetch_sub(1, std::memory_order_release);
      ticket = tickets_.load();
    }
  }

  void Serve() {
    for (;;) {
      for (int spins = 0; tickets_.load(std::memory_order_acquire) == 0; spins++) {
        if (spins < kSpins) {
          Pause();
          if (spins % 64 == 63) sched_yield();
          continue;
        }
        std::unique_lock<std::mutex> lock(sleep_);
        asleep_++;
        wake_.wait(lock, [&] { return tickets_.load() > 0; });
        asleep_--;
        spins = 0;
      }
      // As the caller's, so that it makes no difference which thread computes what.
      SetFloatMode(mode_.load(std::memory_order_relaxed));
      Take();
    }
  }

  std::mutex callers_, sleep_;
  std::condition_variable wake_;
  std::atomic<int64_t> tickets_{0}, left_{0}, asleep_{0};
  const std::function<void(int64_t)>* work_ = nullptr;
  int64_t n_ = 0;
  std::atomic<unsigned> mode_{FloatMode()};
  std::exception_ptr problem_;
};

}  // namespace

int64_t ThreadCount() {
  static const int64_t count = CountThreads();
  return count;
}

void TightParallelFor(int64_t n, const std::function<void(int64_t)>& work) {
  if (n <= 1 || ThreadCount() == 1) {
    for (int64_t i = 0; i < n; i++) work(i);
    return;
  }
  static Pool* pool = new Pool();
  pool->Run(n, work);
}
