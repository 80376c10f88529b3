// A few threads that wait for work.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace tapernet {

// Runs tasks on the calling thread and up to `workers` others. Calls from several threads at once share the workers.
// The caller takes whatever no worker has taken, so that it never waits for one that does not exist (after a fork).
class Threads {
 public:
  ~Threads() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  // Calls task(i) for i in [0, count); rethrows the first exception.
  void run(int count, int workers, const std::function<void(int)>& task) {
    if (count <= 1 || workers <= 0) {
      for (int i = 0; i < count; ++i) task(i);
      return;
    }
    const auto job = std::make_shared<Job>(count, task);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      while (static_cast<int>(threads_.size()) < workers) threads_.emplace_back([this] { serve(); });
      for (int i = 0; i < workers; ++i) jobs_.push_back(job);
    }
    wake_.notify_all();
    job->work();
    job->wait();
  }

 private:
  struct Job {
    Job(int count, const std::function<void(int)>& task) : count(count), task(task) {}

    void work() {
      for (int i; (i = next.fetch_add(1)) < count;) {
        try {
          task(i);
        } catch (...) {
          const std::lock_guard<std::mutex> lock(mutex);
          if (!error) error = std::current_exception();
        }
        const std::lock_guard<std::mutex> lock(mutex);
        if (++done == count) finished.notify_all();
      }
    }
    void wait() {
      std::unique_lock<std::mutex> lock(mutex);
      finished.wait(lock, [this] { return done == count; });
      if (error) std::rethrow_exception(error);
    }

    const int count;
    const std::function<void(int)>& task;  // outlives the job's work: the caller waits
    std::atomic<int> next{0};
    std::mutex mutex;
    std::condition_variable finished;
    int done = 0;
    std::exception_ptr error;
  };

  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
      if (stop_) return;
      const std::shared_ptr<Job> job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      job->work();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<Job>> jobs_;
  std::vector<std::thread> threads_;
  bool stop_ = false;
};

}  // namespace tapernet
