// Memory on whole cache lines, and on large pages where the system has them.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace tapernet {

// A zeroed array of floats that starts on a cache line.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t floats) : floats_(floats) {
    const bool large = floats * sizeof(float) >= kPage;
    const size_t unit = large ? kPage : kLine, bytes = (floats * sizeof(float) + kLine) / kLine * kLine;
    data_.reset(static_cast<float*>(std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit)));
    if (!data_) throw std::bad_alloc();
#if defined(__linux__)
    // Weights that are read once for an image would miss the table of pages as often as the cache. A wish, not a need.
    if (large) madvise(data_.get(), bytes / kPage * kPage, MADV_HUGEPAGE);
#endif
    std::memset(data_.get(), 0, bytes);
  }

  float* data() { return data_.get(); }
  const float* data() const { return data_.get(); }
  size_t size() const { return floats_; }
  size_t bytes() const { return floats_ * sizeof(float); }

 private:
  static constexpr size_t kLine = 64;
  static constexpr size_t kPage = 2 << 20;
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float[], Free> data_;
  size_t floats_ = 0;
};

}  // namespace tapernet
