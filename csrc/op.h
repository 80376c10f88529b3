// An operation of the network, and what becomes of it at a budget.
#pragma once

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "buffer.h"
#include "kernels.h"
#include "layout.h"
#include "threads.h"

namespace tapernet {

// What selects among an operation's variants: nothing, the budget's range (a profile, and a first and last layer, for
// each), or the batch-norm statistics of the budget.
enum class Selector { none, range, norm };

// A budget: kept channels of each group, and which variants it takes.
struct Setting {
  std::vector<int> kept;
  int range = 0;
  int norm = 0;
  // Of each terminating convolution, check and filter: the products before the check.
  std::vector<std::vector<std::vector<int>>> positions;

  int pick(Selector selector) const {
    return selector == Selector::range ? range : selector == Selector::norm ? norm : 0;
  }
};

// Memory of a call: every value of a number of images, and what an operation needs while it runs.
struct Workspace {
  std::vector<float*> values;
  Buffer memory;
  Buffer scratch;
  Threads* threads = nullptr;  // that may help with a part of an operation
  int helpers = 0;             // how many of them: none where every thread has images of its own

  void divide(int tasks, const std::function<void(int)>& task) const {
    if (threads && helpers > 0) return threads->run(tasks, std::min(helpers, tasks - 1), task);
    for (int i = 0; i < tasks; ++i) task(i);
  }
};

// A value as an operation sees it at a budget.
struct View {
  int id;
  Layout layout;
  std::vector<Kept> kept;

  float* image(const Workspace& w, int image) const { return w.values[id] + image * layout.image(); }
};

// What an operation needs to know to make its step.
struct Context {
  const Setting& setting;
  const Kernels& kernels;
  std::vector<View> inputs;
  View output;
};

// An operation at a budget and an image size: everything is worked out, and nothing changes any more.
class Step {
 public:
  virtual ~Step() = default;
  // Runs the first `images` of the workspace. The border of the output is zero already.
  virtual void run(Workspace& workspace, int images) const = 0;
  // What it needs of the workspace's scratch for so many images on so many threads.
  virtual size_t scratch_floats(int /*images*/, int /*threads*/) const { return 0; }
  // Memory that this budget needs beside the network's weights.
  virtual size_t bytes() const { return 0; }
};

class Op {
 public:
  std::string name;
  std::vector<int> inputs;
  int output = -1;

  virtual ~Op() = default;
  virtual Size output_size(const std::vector<Size>& inputs) const = 0;
  virtual std::unique_ptr<Step> plan(const Context& context) const = 0;
  // Bytes of weights.
  virtual size_t bytes() const { return 0; }
};

// A number for each channel of a value, in its blocks, with zeros in the lanes that a budget drops.
inline Buffer per_channel(const std::vector<float>& full, const Value& value, const std::vector<Kept>& kept) {
  Buffer result(static_cast<size_t>(value.blocks()) * kLanes);
  size_t from = 0;
  for (size_t r = 0; r < kept.size(); ++r) {
    float* const to = result.data() + static_cast<size_t>(kept[r].first_block) * kLanes;
    std::copy_n(full.data() + from, kept[r].channels, to);
    from += value.runs[r].size;
  }
  return result;
}

// result = clamp(x * scale + shift), with a variant for each batch-norm statistics or range of budgets.
struct Epilogue {
  struct Variant {
    std::vector<float> scale, shift;  // of each channel
  };
  std::vector<Variant> variants;
  Selector selector = Selector::none;
  float low, high;

  size_t bytes() const {
    size_t sum = 0;
    for (const Variant& v : variants) sum += (v.scale.size() + v.shift.size()) * sizeof(float);
    return sum;
  }
};

// An epilogue at a budget.
struct Finish {
  Buffer scale, shift;
  float low, high;

  Finish(const Epilogue& epilogue, const Value& value, const Context& c) : low(epilogue.low), high(epilogue.high) {
    const Epilogue::Variant& variant = epilogue.variants.at(c.setting.pick(epilogue.selector));
    scale = per_channel(variant.scale, value, c.output.kept);
    shift = per_channel(variant.shift, value, c.output.kept);
  }
  size_t bytes() const { return scale.bytes() + shift.bytes(); }
};

// Calls f(block) for every block that holds a kept channel.
template <class F>
void each_block(const std::vector<Kept>& kept, F f) {
  for (const Kept& run : kept) {
    for (int block = 0; block < run.blocks(); ++block) f(run.first_block + block);
  }
}

}  // namespace tapernet
