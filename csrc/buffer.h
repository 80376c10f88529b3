// Memory on whole cache lines.
#pragma once

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
    const size_t bytes = (floats * sizeof(float) + kLine) / kLine * kLine;
    data_.reset(static_cast<float*>(std::aligned_alloc(kLine, bytes)));
    if (!data_) throw std::bad_alloc();
    std::memset(data_.get(), 0, bytes);
  }

  float* data() { return data_.get(); }
  const float* data() const { return data_.get(); }
  size_t size() const { return floats_; }
  size_t bytes() const { return floats_ * sizeof(float); }

 private:
  static constexpr size_t kLine = 64;
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float[], Free> data_;
  size_t floats_ = 0;
};

}  // namespace tapernet
