// The part of GCC's OpenMP runtime that the CPU kernels call, on std::thread: ThreadSanitizer understands its starts,
// ends and locks, and not those of libgomp. A kernel that comes to need more of the runtime does not link.
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace {

struct Team {
  const unsigned size;
  std::mutex mutex;
  std::condition_variable changed;
  unsigned waiting = 0, barriers = 0;

  explicit Team(unsigned threads) : size(threads) {}

  void barrier() {
    std::unique_lock<std::mutex> lock(mutex);
    const unsigned now = barriers;
    if (++waiting == size) {
      waiting = 0;
      ++barriers;
      changed.notify_all();
    }
    changed.wait(lock, [&] { return barriers != now; });
  }
};

thread_local Team *team = nullptr;
thread_local unsigned number = 0;

} // namespace

extern "C" {

void GOMP_parallel(void (*region)(void *), void *data, unsigned threads, unsigned) {
  Team mine(threads);
  auto run = [&](unsigned thread) {
    team = &mine;
    number = thread;
    region(data);
    team = nullptr;
    number = 0;
  };
  std::vector<std::thread> others;
  for (unsigned thread = 1; thread < threads; ++thread) others.emplace_back(run, thread);
  run(0);
  for (std::thread &other : others) other.join();
}

void GOMP_barrier() { team->barrier(); }
int omp_get_thread_num() { return int(number); }
int omp_get_num_threads() { return team ? int(team->size) : 1; }

} // extern "C"
