// The Python module: a network is built operation by operation, planned at a budget, and run on arrays.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <optional>
#include <string>

#include "network.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace tapernet {
namespace {

using Array = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;

std::vector<float> numbers(const Array& a) { return {a.data(), a.data() + a.size()}; }

Sliding sliding(const std::vector<int>& v) {
  if (v.size() != 10) throw std::invalid_argument("a window has ten numbers");
  return {v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9]};
}

PoolAxis pool_axis(const std::vector<int>& v) {
  if (v.size() != 6) throw std::invalid_argument("an axis has six numbers");
  return {v[0], v[1], v[2], v[3] != 0, v[4] != 0, v[5]};
}

using Runs = std::vector<std::tuple<int, int, int>>;                  // size, group and repeat of each
using Variants = std::vector<std::tuple<Array, Array>>;  // scale and shift of each

std::vector<Variant> variants(const Variants& given) {
  std::vector<Variant> result;
  for (const auto& [scale, shift] : given) result.push_back({numbers(scale), numbers(shift)});
  return result;
}

// Adds an operation and the value that it computes; returns the value's number.
int add(Network& n, std::unique_ptr<Op> op, const std::string& name, std::vector<int> inputs, int output) {
  op->name = name;
  op->inputs = std::move(inputs);
  op->output = output;
  n.add(std::move(op));
  return output;
}

int add_value(Network& n, const Runs& runs, int lanes = kLanes) {
  Value value;
  for (const auto& [size, group, repeat] : runs) value.runs.push_back({size, group, repeat});
  value.lanes = lanes;
  return n.add_value(std::move(value));
}

// A value with the channels of another one, in the same places.
int add_like(Network& n, int other) { return n.add_value({n.values.at(other).runs}); }

void need_halo(Network& n, int value, const Sliding& window) {
  n.values.at(value).halo = std::max(n.values.at(value).halo, window.halo());
}

// The arrays are given by their addresses, because that takes a tenth of the time that passing arrays takes. The caller
// (tapernet.engine.program) has checked that they have the plan's shapes.
std::vector<Images> images(const std::vector<uintptr_t>& addresses) {
  std::vector<Images> result;
  for (uintptr_t address : addresses) result.push_back(reinterpret_cast<float*>(address));
  return result;
}

std::vector<double> run(Plan& plan, const std::vector<uintptr_t>& inputs, const std::vector<uintptr_t>& outputs,
                        int count, int threads, bool timed) {
  if (inputs.size() != plan.network().inputs.size() || outputs.size() != plan.network().outputs.size()) {
    throw std::invalid_argument("the call has another number of arrays than the network");
  }
  std::vector<double> seconds(timed ? plan.network().ops.size() : 0);
  if (count < 1) return seconds;
  const nb::gil_scoped_release release;
  plan.run(images(inputs), images(outputs), count, timed ? 1 : threads, timed ? &seconds : nullptr);
  return seconds;
}

std::tuple<int, int, int> shape(const Plan& plan, int value) {
  const Layout& layout = plan.view(value).layout;
  return {channels(plan.view(value).kept), layout.height, layout.width};
}

std::vector<std::string> names(const std::vector<const Kernels*>& kernels) {
  std::vector<std::string> result;
  for (const Kernels* k : kernels) result.emplace_back(k->name);
  return result;
}

const Kernels& kernels_named(const std::string& name) {
  for (const Kernels* k : available_kernels()) {
    if (name == k->name) return *k;
  }
  throw std::invalid_argument("this processor does not run the kernels '" + name + "'");
}

}  // namespace
}  // namespace tapernet

NB_MODULE(_native, m) {
  using namespace tapernet;
  m.doc() = "Native kernels of tapernet; tapernet.engine is their public face.";

  m.def("multiplies_bytes", [](const std::string& name) { return kernels_named(name).multiplies_bytes; }, "name"_a,
        "Whether the processor multiplies bytes in these kernels.");
  m.def("kernels", [] { return names(available_kernels()); }, "The instruction sets that this processor has, best first.");

  nb::class_<Network>(m, "Network")
      .def("__init__", [](Network* self, const std::string& name) {
        new (self) Network(kernels_named(name));
      }, "kernels"_a)
      .def("bytes", &Network::bytes, "Bytes of packed weights.")
      .def("input", [](Network& n, const Runs& runs, bool narrow) {
        int channels = 0;
        for (const auto& [size, group, repeat] : runs) channels += size;
        const int value = add_value(n, runs, narrow ? std::min(channels, kLanes) : kLanes);
        n.inputs.push_back(value);
        return value;
      }, "runs"_a, "narrow"_a)
      .def("output", [](Network& n, int value) { n.outputs.push_back(value); }, "value"_a)
      .def("conv", [](Network& n, const std::string& name, int input, const std::vector<Array>& weights,
                      const Runs& runs, const std::vector<int>& window, int groups,
                      bool whole, const Variants& given, int norm, float low, float high) {
        const Sliding s = sliding(window);
        need_halo(n, input, s);
        const int output = add_value(n, runs);
        std::vector<const float*> pointers;
        for (const Array& w : weights) pointers.push_back(w.data());
        auto op = std::make_unique<Conv>(pointers, n.values.at(input), n.values.at(output), s, groups,
                                         whole, Epilogue{variants(given), norm, low, high});
        return add(n, std::move(op), name, {input}, output);
      }, "name"_a, "input"_a, "weights"_a, "runs"_a, "window"_a, "groups"_a, "whole"_a, "variants"_a, "norm"_a,
           "low"_a, "high"_a)
      .def("depthwise", [](Network& n, const std::string& name, int input, const Array& weight,
                           const std::vector<int>& window, const Variants& given, int norm, float low, float high) {
        const Sliding s = sliding(window);
        need_halo(n, input, s);
        const int output = add_like(n, input);
        auto op = std::make_unique<Depthwise>(weight.data(), n.values.at(output), s,
                                              Epilogue{variants(given), norm, low, high});
        return add(n, std::move(op), name, {input}, output);
      }, "name"_a, "input"_a, "weight"_a, "window"_a, "variants"_a, "norm"_a, "low"_a, "high"_a)
      .def("terminating", [](Network& n, const std::string& name, int input, const Array& weight,
                             const Runs& runs, const std::vector<int>& window, int slot,
                             const std::vector<std::vector<float>>& thresholds, const std::optional<Array>& bias,
                             bool bias_first, const std::optional<Array>& input_size, float high,
                             const std::optional<Array>& steps) {
        const Sliding s = sliding(window);
        need_halo(n, input, s);
        const int output = add_value(n, runs);
        const size_t filters = static_cast<size_t>(n.values.at(output).channels());
        const std::vector<float> zeros(filters);
        Checks checks{thresholds, zeros, zeros, bias.has_value(), {}, high, false, {}};
        if (bias) checks.bias = numbers(*bias);
        if (bias_first) checks.start = checks.bias;
        if (input_size) checks.input_size = numbers(*input_size);
        if (steps) checks.steps = numbers(*steps);
        for (const auto& of_check : thresholds) {
          for (float t : of_check) checks.emits = checks.emits || t > 0;
        }
        auto op = std::make_unique<Terminating>(weight.data(), n.values.at(input), n.values.at(output), s, slot,
                                                std::move(checks));
        return add(n, std::move(op), name, {input}, output);
      }, "name"_a, "input"_a, "weight"_a, "runs"_a, "window"_a, "slot"_a, "thresholds"_a, "bias"_a.none(),
           "bias_first"_a, "input_size"_a.none(), "high"_a, "steps"_a.none())
      .def("pool", [](Network& n, const std::string& name, int input, const std::vector<int>& rows,
                      const std::vector<int>& columns, bool average, int divisor, float low, float high) {
        auto op = std::make_unique<Pool>(pool_axis(rows), pool_axis(columns), average, divisor, low, high);
        return add(n, std::move(op), name, {input}, add_like(n, input));
      }, "name"_a, "input"_a, "rows"_a, "columns"_a, "average"_a, "divisor"_a, "low"_a, "high"_a)
      .def("affine", [](Network& n, const std::string& name, int input, const Variants& given, int norm, float low,
                        float high) {
        const int output = add_like(n, input);
        auto op = std::make_unique<Affine>(n.values.at(output), Epilogue{variants(given), norm, low, high});
        return add(n, std::move(op), name, {input}, output);
      }, "name"_a, "input"_a, "variants"_a, "norm"_a, "low"_a, "high"_a)
      .def("add", [](Network& n, const std::string& name, int a, int b, float low, float high) {
        if (n.values.at(a).runs != n.values.at(b).runs) {
          throw std::invalid_argument(name + ": the two sides of a sum have other channels");
        }
        return add(n, std::make_unique<Add>(low, high), name, {a, b}, add_like(n, a));
      }, "name"_a, "a"_a, "b"_a, "low"_a, "high"_a)
      .def("concat", [](Network& n, const std::string& name, const std::vector<int>& inputs) {
        Value value;
        for (int input : inputs) {
          for (const Run& run : n.values.at(input).runs) value.runs.push_back(run);
        }
        return add(n, std::make_unique<Concat>(), name, inputs, n.add_value(std::move(value)));
      }, "name"_a, "inputs"_a)
      .def_prop_ro("op_names", [](const Network& n) {
        std::vector<std::string> names;
        for (const auto& op : n.ops) names.push_back(op->name);
        return names;
      });

  nb::class_<Plan>(m, "Plan")
      .def("__init__", [](Plan* self, std::shared_ptr<Network> network, std::vector<int> kept, int range,
                          const Variants& norms, std::vector<std::vector<std::vector<int>>> positions,
                          const std::vector<std::tuple<int, int>>& sizes) {
        std::vector<Size> of_inputs;
        for (const auto& [height, width] : sizes) of_inputs.push_back({height, width});
        new (self) Plan(std::move(network), {std::move(kept), range, variants(norms), std::move(positions)}, of_inputs);
      }, "network"_a, "kept"_a, "range"_a, "norms"_a, "positions"_a, "sizes"_a)
      .def("input_shape", [](const Plan& p, int i) { return shape(p, p.network().inputs.at(i)); }, "index"_a)
      .def("output_shape", [](const Plan& p, int i) { return shape(p, p.network().outputs.at(i)); }, "index"_a)
      .def("bytes", &Plan::bytes, "Bytes that this budget adds to the weights.")
      .def("workspace_bytes", &Plan::workspace_bytes, "Bytes that one thread of a call works in.")
      .def("run", run, "inputs"_a, "outputs"_a, "count"_a, "threads"_a, "timed"_a = false,
           "Runs the network on `count` images; with `timed`, on one thread, returns each operation's seconds.");
}
