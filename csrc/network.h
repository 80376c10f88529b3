// The operations of a network with their weights, and what becomes of them at a budget and an image size.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "available.h"
#include "channelwise.h"
#include "conv.h"
#include "op.h"
#include "terminating.h"
#include "threads.h"

namespace tapernet {

// A batch of images in PyTorch's order, [image][channel][row][column], read or written by a call.
using Images = float*;

// Workspaces that no call uses now: as many as calls and threads were ever under way at once, whatever their budgets.
class Workspaces {
 public:
  Workspace take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (free_.empty()) return {};
    Workspace workspace = std::move(free_.back());
    free_.pop_back();
    return workspace;
  }
  void give_back(Workspace workspace) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(workspace));
  }

 private:
  std::mutex mutex_;
  std::vector<Workspace> free_;
};

class Network {
 public:
  explicit Network(const Kernels& kernels) : kernels(kernels) {}

  int add_value(Value value) {
    values.push_back(std::move(value));
    return static_cast<int>(values.size()) - 1;
  }
  void add(std::unique_ptr<Op> op) { ops.push_back(std::move(op)); }
  size_t bytes() const {
    size_t sum = 0;
    for (const auto& op : ops) sum += op->bytes();
    return sum;
  }

  const Kernels& kernels;
  std::vector<Value> values;
  std::vector<std::unique_ptr<Op>> ops;
  std::vector<int> inputs, outputs;
  Threads threads;
  Workspaces workspaces;
};

// A network at a budget, for images of one size. Nothing in it changes after it is made, so that any number of threads
// may run it at once.
class Plan {
 public:
  Plan(std::shared_ptr<Network> network, const Setting& setting, const std::vector<Size>& sizes)
      : network_(std::move(network)) {
    const Network& n = *network_;
    if (sizes.size() != n.inputs.size()) throw std::invalid_argument("one size is needed for each input");
    std::vector<Size> size(n.values.size());
    views_.resize(n.values.size());
    for (size_t i = 0; i < sizes.size(); ++i) see(n.inputs[i], size[n.inputs[i]] = sizes[i], setting);
    for (const auto& op : n.ops) {
      std::vector<Size> of_inputs;
      Context context{setting, n.kernels, {}, {}};
      for (int input : op->inputs) {
        of_inputs.push_back(size[input]);
        context.inputs.push_back(views_[input]);
      }
      const Size out = size[op->output] = op->output_size(of_inputs);
      if (out.height < 1 || out.width < 1) {
        throw std::invalid_argument(op->name + ": the image is too small, nothing is left of it");
      }
      see(op->output, out, setting);
      context.output = views_[op->output];
      steps_.push_back(op->plan(context));
    }
    place_values();
  }

  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  // Runs all images of the inputs; `seconds`, if given, gets the time of each operation added.
  void run(const std::vector<Images>& inputs, const std::vector<Images>& outputs, int images, int threads,
           std::vector<double>* seconds = nullptr) {
    const int share = divide_up(images, std::max(1, threads));
    const int at_once = std::min(share, images_at_once_);
    const int tasks = divide_up(images, at_once);
    const int helpers = tasks == 1 ? threads - 1 : 0;
    network_->threads.run(tasks, std::min(threads, tasks) - 1, [&](int task) {
      const int first = task * at_once;
      run_some(inputs, outputs, first, std::min(at_once, images - first), helpers, seconds);
    });
  }

  const Network& network() const { return *network_; }
  const View& view(int value) const { return views_[value]; }
  size_t bytes() const {
    size_t sum = 0;
    for (const auto& step : steps_) sum += step->bytes();
    return sum;
  }
  size_t workspace_bytes() const { return (workspace_floats_ * images_at_once_ + scratch_floats_) * sizeof(float); }

 private:
  static constexpr int kMostImages = 16;
  static constexpr size_t kMostFloats = 4 << 20;  // of a workspace, about

  void see(int id, Size size, const Setting& setting) {
    const Value& value = network_->values[id];
    views_[id] = {id, Layout(value, size), value.kept(setting.kept)};
  }

  // The operations between which a value must be kept; inputs are there before the first one.
  struct Life {
    int first = -1, last = -1;
    bool meets(const Life& other) const { return first <= other.last && other.first <= last; }
  };

  std::vector<Life> lives() const {
    const Network& n = *network_;
    const int ops = static_cast<int>(n.ops.size());
    std::vector<Life> result(views_.size());
    for (int i = 0; i < ops; ++i) {
      result[n.ops[i]->output] = {i, i};
      for (int id : n.ops[i]->inputs) result[id].last = i;
    }
    for (int id : n.outputs) result[id].last = ops;
    return result;
  }

  // Gives every value a place in the workspace that is free as long as it is kept.
  void place_values() {
    const std::vector<Life> of_value = lives();
    offsets_.assign(views_.size(), 0);
    size_t largest = 1;
    for (int id = 0; id < static_cast<int>(views_.size()); ++id) {
      size_t& at = offsets_[id];
      for (bool moved = true; moved;) {
        moved = false;
        for (int other = 0; other < id; ++other) {
          const size_t end = offsets_[other] + floats_of(other);
          if (of_value[id].meets(of_value[other]) && at < end && offsets_[other] < at + floats_of(id)) {
            at = end;
            moved = true;
          }
        }
      }
      workspace_floats_ = std::max(workspace_floats_, at + floats_of(id));
      largest = std::max(largest, floats_of(id));
    }
    choose_images_at_once(largest);
    scratch_floats_ = scratch_floats(1);
  }

  // Many images share a read of the weights; few keep their values in the cache.
  void choose_images_at_once(size_t largest_value) {
    const size_t weights = network_->bytes() / sizeof(float);
    const size_t most = std::min<size_t>(kMostImages, kMostFloats / std::max<size_t>(1, workspace_floats_));
    images_at_once_ = static_cast<int>(std::max<size_t>(1, std::min(weights / (2 * largest_value), most)));
  }

  size_t scratch_floats(int threads) const {
    size_t most = 0;
    for (const auto& step : steps_) most = std::max(most, step->scratch_floats(images_at_once_, threads));
    return most;
  }

  size_t floats_of(int id) const { return (views_[id].layout.image() + kLanes - 1) / kLanes * kLanes; }

  void run_some(const std::vector<Images>& inputs, const std::vector<Images>& outputs, int first, int images,
                int helpers, std::vector<double>* seconds) {
    Workspace workspace = take_workspace(helpers);
    const Network& n = *network_;
    for (size_t i = 0; i < inputs.size(); ++i) read(inputs[i], n.inputs[i], first, images, workspace);
    for (size_t i = 0; i < steps_.size(); ++i) {
      const auto start = std::chrono::steady_clock::now();
      clear_border(n.ops[i]->output, images, workspace);
      steps_[i]->run(workspace, images);
      if (seconds) seconds->at(i) += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    for (size_t i = 0; i < outputs.size(); ++i) write(outputs[i], n.outputs[i], first, images, workspace);
    network_->workspaces.give_back(std::move(workspace));
  }

  // A workspace that no call uses, made large enough for this plan.
  Workspace take_workspace(int helpers) {
    Workspace w = network_->workspaces.take();
    const size_t memory = workspace_floats_ * images_at_once_ + kLanes;
    if (w.memory.size() < memory) w.memory = Buffer(memory);
    const size_t scratch = helpers == 0 ? scratch_floats_ : scratch_floats(helpers + 1);
    if (w.scratch.size() < scratch) w.scratch = Buffer(scratch);
    w.values.clear();
    for (size_t offset : offsets_) w.values.push_back(w.memory.data() + offset * images_at_once_);
    w.threads = &network_->threads;
    w.helpers = helpers;
    return w;
  }

  void clear_border(int id, int images, const Workspace& w) const {
    const View& view = views_[id];
    const Layout& l = view.layout;
    if (l.halo == 0) return;
    const ptrdiff_t side = static_cast<ptrdiff_t>(l.halo) * l.lanes, inner = static_cast<ptrdiff_t>(l.width) * l.lanes;
    for (int image = 0; image < images; ++image) {
      const auto clear = [&](int block) {
        float* row = view.image(w, image) + block * l.block();
        std::fill_n(row, l.halo * l.row() + side, 0.0f);
        row += l.halo * l.row();
        for (int y = 0; y + 1 < l.height; ++y, row += l.row()) std::fill_n(row + side + inner, 2 * side, 0.0f);
        std::fill_n(row + side + inner, side + l.halo * l.row(), 0.0f);
      };
      each_block_of(view, clear);
    }
  }

  template <class F>
  static void each_block_of(const View& view, F f) {
    for (const Kept& run : view.kept) {
      for (int b = 0; b < divide_up(run.channels, view.layout.lanes); ++b) f(run.first_block + b);
    }
  }

  void read(Images from, int id, int first, int images, const Workspace& w) const {
    clear_border(id, images, w);
    const Layout& l = views_[id].layout;
    const ptrdiff_t plane = static_cast<ptrdiff_t>(l.height) * l.width;
    each_stretch(id, first, images, w, [&](ptrdiff_t channel, int count, float* block) {
      for (int y = 0; y < l.height; ++y) {
        network_->kernels.interleave(from + channel * plane + y * l.width, plane, count, l.width, block + y * l.row(),
                                     l.lanes);
      }
    });
  }

  void write(Images to, int id, int first, int images, const Workspace& w) const {
    const Layout& l = views_[id].layout;
    const ptrdiff_t plane = static_cast<ptrdiff_t>(l.height) * l.width;
    each_stretch(id, first, images, w, [&](ptrdiff_t channel, int count, const float* block) {
      for (int y = 0; y < l.height; ++y) {
        network_->kernels.deinterleave(block + y * l.row(), count, l.width, to + channel * plane + y * l.width, plane);
      }
    });
  }

  // Calls f(channel, count, block) for every block of the workspace's images: the first channel that it holds, counted
  // over all images of the batch, how many it holds, and its first pixel.
  template <class F>
  void each_stretch(int id, int first, int images, const Workspace& w, F f) const {
    const View& view = views_[id];
    const ptrdiff_t of_image = channels(view.kept);
    for (int image = 0; image < images; ++image) {
      ptrdiff_t channel = (first + image) * of_image;
      for (const Kept& run : view.kept) {
        for (int done = 0; done < run.channels; done += view.layout.lanes) {
          const int block = run.first_block + done / view.layout.lanes;
          f(channel + done, std::min(view.layout.lanes, run.channels - done),
            view.image(w, image) + block * view.layout.block() + view.layout.origin());
        }
        channel += run.channels;
      }
    }
  }

  std::shared_ptr<Network> network_;
  std::vector<View> views_;
  std::vector<std::unique_ptr<Step>> steps_;
  std::vector<size_t> offsets_;  // of each value in a workspace of one image
  size_t workspace_floats_ = 0, scratch_floats_ = 0;
  int images_at_once_ = 1;
};

}  // namespace tapernet
