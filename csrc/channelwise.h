// Operations that treat every channel by itself.
#pragma once

#include "op.h"
#include "window.h"

namespace tapernet {

class Depthwise : public Op {
 public:
  // Weights in PyTorch's order, [channel][1][kernel_h][kernel_w]; packed [block][tap][16]. `value` is the output, whose
  // channels are the input's.
  Depthwise(const float* weight, const Value& value, const Sliding& window, Epilogue epilogue)
      : value_(value), window_(window), epilogue_(std::move(epilogue)) {
    const int taps = window.taps();
    weights_ = Buffer(static_cast<size_t>(value.blocks()) * taps * kLanes);
    for (const int place : value.places()) {
      for (int t = 0; t < taps; ++t) weights_.data()[(place / kLanes * taps + t) * kLanes + place % kLanes] = *weight++;
    }
  }

  Size output_size(const std::vector<Size>& in) const override { return window_.output(in[0]); }
  std::unique_ptr<Step> plan(const Context& c) const override { return std::make_unique<At>(*this, c); }
  size_t bytes() const override { return weights_.bytes() + epilogue_.bytes(); }

 private:
  class At : public Step {
   public:
    At(const Depthwise& op, const Context& c)
        : op_(op), run_(c.kernels.depthwise), in_(c.inputs[0]), out_(c.output), finish_(op.epilogue_, op.value_, c) {
      for (int h = 0; h < op.window_.kernel_h; ++h) {
        for (int w = 0; w < op.window_.kernel_w; ++w) {
          offsets_.push_back(static_cast<int32_t>(op.window_.tap(in_.layout, h, w)));
        }
      }
    }
    void run(Workspace& w, int images) const override {
      const int taps = static_cast<int>(offsets_.size());
      for (int image = 0; image < images; ++image) {
        each_block(out_.kept, [&](int block) {
          const float* in = in_.image(w, image) + block * in_.layout.block();
          float* out = out_.image(w, image) + block * out_.layout.block() + out_.layout.origin();
          for (int y = 0; y < out_.layout.height; ++y) {
            run_({in + op_.window_.patch(in_.layout, y, 0), out + y * out_.layout.row(), out_.layout.width,
                  static_cast<ptrdiff_t>(op_.window_.stride_w) * kLanes, taps, offsets_.data(),
                  op_.weights_.data() + static_cast<ptrdiff_t>(block) * taps * kLanes,
                  finish_.scale.data() + block * kLanes, finish_.shift.data() + block * kLanes, finish_.low,
                  finish_.high});
          }
        });
      }
    }
    size_t bytes() const override { return finish_.bytes(); }

   private:
    const Depthwise& op_;
    void (*run_)(const DepthwiseCall&);
    View in_, out_;
    Finish finish_;
    std::vector<int32_t> offsets_;
  };

  Value value_;
  Sliding window_;
  Epilogue epilogue_;
  Buffer weights_;
};

// One axis of a pooling: fixed windows as in PyTorch's MaxPool2d and AvgPool2d, or adaptive ones.
struct PoolAxis {
  int kernel, stride, padding;
  bool round_up;     // ceil_mode
  bool count_padding;
  int adaptive;      // outputs; 0 for fixed windows

  int outputs(int size) const {
    if (adaptive) return adaptive;
    const int room = size + 2 * padding - kernel;
    int count = (round_up ? divide_up(room, stride) : room / stride) + 1;
    // The last window starts inside the image or its padding on the near side.
    if (round_up && (count - 1) * stride >= size + padding) --count;
    return count;
  }

  std::vector<Window> windows(int size) const {
    std::vector<Window> result;
    for (int i = 0, n = outputs(size); i < n; ++i) {
      if (adaptive) {
        const int begin = i * size / n, end = divide_up((i + 1) * size, n);
        result.push_back({begin, end, end - begin});
      } else {
        const int start = i * stride - padding, padded_end = std::min(start + kernel, size + padding);
        const int begin = std::max(start, 0), end = std::min(padded_end, size);
        result.push_back({begin, end, count_padding ? padded_end - start : end - begin});
      }
    }
    return result;
  }
};

class Pool : public Op {
 public:
  Pool(PoolAxis rows, PoolAxis columns, bool average, int divisor, float low, float high)
      : rows_(rows), columns_(columns), average_(average), divisor_(divisor), low_(low), high_(high) {}

  Size output_size(const std::vector<Size>& in) const override {
    return {rows_.outputs(in[0].height), columns_.outputs(in[0].width)};
  }
  std::unique_ptr<Step> plan(const Context& c) const override { return std::make_unique<At>(*this, c); }

 private:
  class At : public Step {
   public:
    At(const Pool& op, const Context& c)
        : op_(op), run_(c.kernels.pool), in_(c.inputs[0]), out_(c.output), rows_(op.rows_.windows(in_.layout.height)),
          columns_(op.columns_.windows(in_.layout.width)) {}
    void run(Workspace& w, int images) const override {
      for (int image = 0; image < images; ++image) {
        each_block(out_.kept, [&](int block) {
          run_({in_.image(w, image) + block * in_.layout.block() + in_.layout.origin(), in_.layout.row(),
                out_.image(w, image) + block * out_.layout.block() + out_.layout.origin(), out_.layout.row(),
                rows_.data(), columns_.data(), out_.layout.height, out_.layout.width, op_.average_, op_.divisor_,
                op_.low_, op_.high_});
        });
      }
    }

   private:
    const Pool& op_;
    void (*run_)(const PoolCall&);
    View in_, out_;
    std::vector<Window> rows_, columns_;
  };

  PoolAxis rows_, columns_;
  bool average_;
  int divisor_;
  float low_, high_;
};

// clamp(x * scale + shift): a batch-norm, a profile or a ReLU that no operation before it could take in.
class Affine : public Op {
 public:
  Affine(const Value& value, Epilogue epilogue) : value_(value), epilogue_(std::move(epilogue)) {}

  Size output_size(const std::vector<Size>& in) const override { return in[0]; }
  std::unique_ptr<Step> plan(const Context& c) const override { return std::make_unique<At>(*this, c); }
  size_t bytes() const override { return epilogue_.bytes(); }

 private:
  class At : public Step {
   public:
    At(const Affine& op, const Context& c)
        : affine_(c.kernels.affine), in_(c.inputs[0]), out_(c.output), finish_(op.epilogue_, op.value_, c) {}
    void run(Workspace& w, int images) const override {
      for (int image = 0; image < images; ++image) {
        each_block(out_.kept, [&](int block) {
          const float* in = in_.image(w, image) + block * in_.layout.block() + in_.layout.origin();
          float* out = out_.image(w, image) + block * out_.layout.block() + out_.layout.origin();
          for (int y = 0; y < out_.layout.height; ++y) {
            affine_(in + y * in_.layout.row(), out + y * out_.layout.row(), out_.layout.width,
                    finish_.scale.data() + block * kLanes, finish_.shift.data() + block * kLanes, finish_.low,
                    finish_.high);
          }
        });
      }
    }
    size_t bytes() const override { return finish_.bytes(); }

   private:
    decltype(Kernels::affine) affine_;
    View in_, out_;
    Finish finish_;
  };

  Value value_;
  Epilogue epilogue_;
};

// The sum of two values of the same channels.
class Add : public Op {
 public:
  Add(float low, float high) : low_(low), high_(high) {}

  Size output_size(const std::vector<Size>& in) const override {
    if (in[0].height != in[1].height || in[0].width != in[1].width) {
      throw std::invalid_argument(name + ": the two sides of a sum differ in height or width");
    }
    return in[0];
  }
  std::unique_ptr<Step> plan(const Context& c) const override { return std::make_unique<At>(*this, c); }

 private:
  class At : public Step {
   public:
    At(const Add& op, const Context& c)
        : op_(op), add_(c.kernels.add), a_(c.inputs[0]), b_(c.inputs[1]), out_(c.output) {}
    void run(Workspace& w, int images) const override {
      for (int image = 0; image < images; ++image) {
        each_block(out_.kept, [&](int block) {
          const float* a = a_.image(w, image) + block * a_.layout.block() + a_.layout.origin();
          const float* b = b_.image(w, image) + block * b_.layout.block() + b_.layout.origin();
          float* out = out_.image(w, image) + block * out_.layout.block() + out_.layout.origin();
          for (int y = 0; y < out_.layout.height; ++y) {
            add_(a + y * a_.layout.row(), b + y * b_.layout.row(), out + y * out_.layout.row(), out_.layout.width,
                 op_.low_, op_.high_);
          }
        });
      }
    }

   private:
    const Add& op_;
    decltype(Kernels::add) add_;
    View a_, b_, out_;
  };

  float low_, high_;
};

// Values one after the other along their channels.
class Concat : public Op {
 public:
  Size output_size(const std::vector<Size>& in) const override {
    for (const Size& size : in) {
      if (size.height != in[0].height || size.width != in[0].width) {
        throw std::invalid_argument(name + ": what is concatenated differs in height or width");
      }
    }
    return in[0];
  }
  std::unique_ptr<Step> plan(const Context& c) const override { return std::make_unique<At>(c); }

 private:
  class At : public Step {
   public:
    explicit At(const Context& c) : ins_(c.inputs), out_(c.output) {}
    void run(Workspace& w, int images) const override {
      for (int image = 0; image < images; ++image) {
        int before = 0;
        for (const View& in : ins_) {
          each_block(in.kept, [&](int block) { copy(w, image, in, block, before + block); });
          before += in.layout.blocks;
        }
      }
    }

   private:
    void copy(Workspace& w, int image, const View& in, int from, int to) const {
      const float* source = in.image(w, image) + from * in.layout.block() + in.layout.origin();
      float* target = out_.image(w, image) + to * out_.layout.block() + out_.layout.origin();
      for (int y = 0; y < out_.layout.height; ++y) {
        std::copy_n(source + y * in.layout.row(), static_cast<size_t>(out_.layout.width) * kLanes,
                    target + y * out_.layout.row());
      }
    }
    std::vector<View> ins_;
    View out_;
  };
};

}  // namespace tapernet
