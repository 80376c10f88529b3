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

// A factor and a summand for each channel.
struct Variant {
  std::vector<float> scale, shift;
};

// A budget.
struct Setting {
  std::vector<int> kept;       // channels of each group
  int range = 0;               // which of an operation's variants it takes, if there are several
  std::vector<Variant> norms;  // of each batch-norm, what it does to the channels that are kept
  // Of each terminating convolution, check and filter: the products before the check.
  std::vector<std::vector<std::vector<int>>> positions;
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

// result = clamp(norm(x * scale + shift)), with a variant for each range of budgets where ranges have their own.
struct Epilogue {
  std::vector<Variant> variants;  // of all channels
  int norm;                       // number of the batch-norm, or -1
  float low, high;

  size_t bytes() const {
    size_t sum = 0;
    for (const Variant& v : variants) sum += (v.scale.size() + v.shift.size()) * sizeof(float);
    return sum;
  }
};

// An epilogue at a budget: scale and shift by the channels' places, with zeros in the lanes that the budget drops.
struct Finish {
  Buffer scale, shift;
  float low, high;

  Finish(const Epilogue& epilogue, const Value& value, const Context& c)
      : scale(static_cast<size_t>(value.blocks()) * kLanes), shift(scale.size()), low(epilogue.low),
        high(epilogue.high) {
    const Setting& setting = c.setting;
    const Variant& own = epilogue.variants.at(epilogue.variants.size() > 1 ? setting.range : 0);
    const Variant* norm = epilogue.norm < 0 ? nullptr : &setting.norms.at(epilogue.norm);
    size_t first = 0, number = 0;  // channels before those of a run: of all, and of the kept ones
    for (size_t r = 0; r < value.runs.size(); first += value.runs[r++].size) {
      const Kept& kept = c.output.kept.at(r);
      for (int i = 0; i < kept.channels; ++i, ++number) {
        float& a = scale.data()[kept.first_block * kLanes + i];
        float& b = shift.data()[kept.first_block * kLanes + i];
        a = own.scale.at(first + i);
        b = own.shift.at(first + i);
        if (!norm) continue;
        a *= norm->scale.at(number);
        b = b * norm->scale.at(number) + norm->shift.at(number);
      }
    }
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
