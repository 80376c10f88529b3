// Checks the kernels of every instruction set that this processor has against plain loops, on random calls and whole
// networks. All numbers are small and whole, so that results must be equal, in whatever order products are added.
#include <cstdio>
#include <random>
#include <string>

#include "check/reference.h"
#include "network.h"

namespace tapernet {
namespace {

class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}

  int between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(engine_); }
  std::vector<float> floats(int count, int low = -3, int high = 3) {
    std::vector<float> result(count);
    for (float& x : result) x = static_cast<float>(between(low, high));
    return result;
  }
  std::vector<float> with_nan(int count) {
    std::vector<float> result = floats(count);
    for (float& x : result) x = between(0, 30) ? x : NAN;
    return result;
  }

 private:
  std::mt19937 engine_;
};

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  const auto equal = [](float x, float y) { return x == y || (std::isnan(x) && std::isnan(y)); };
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), equal);
}

// Each check makes one random call of `k` and of the reference, and tells whether they leave the same numbers.

bool check_dense(const Kernels& k, Random& r) {
  const int pixels = r.between(1, 20), middle = r.between(0, pixels), blocks = r.between(1, 6);
  const int begin = r.between(0, blocks - 1), segments = r.between(1, 9), longest = r.between(1, 16), area = 400;
  std::vector<Segment> list;
  int products = 0;
  for (int i = 0; i < segments; ++i) {
    list.push_back({r.between(0, area - longest), products * kLanes, r.between(1, longest)});
    products += list.back().length;
  }
  std::vector<int> chunks{0};
  for (int i = 1; i < segments; ++i) {
    if (r.between(0, 2) == 0) chunks.push_back(i);
  }
  chunks.push_back(segments);
  // Pixels from the middle on leave out the first and the last segment.
  std::vector<int> fewer;
  for (int bound : chunks) fewer.push_back(std::max(0, std::min(bound, segments - 1) - 1));
  const std::vector<float> in = r.floats(area + pixels * 5), weights = r.floats(blocks * products * kLanes);
  // What a budget drops has neither scale nor shift.
  const int last = r.between(1, kLanes);
  std::vector<float> scale = r.floats(blocks * kLanes), shift = r.floats(blocks * kLanes);
  std::fill(scale.end() - kLanes + last, scale.end(), 0.0f);
  std::fill(shift.end() - kLanes + last, shift.end(), 0.0f);
  const bool far = r.between(0, 1);
  const auto run = [&](const Kernels& kernels) {
    std::vector<float> out(blocks * pixels * kLanes, 7.0f);
    std::vector<const float*> inputs;
    std::vector<float*> outputs;
    for (int p = 0; p < pixels; ++p) {
      inputs.push_back(in.data() + p * 5);
      outputs.push_back(out.data() + p * kLanes);
    }
    const PixelGroup groups[] = {{0, middle, list.data(), chunks.data()},
                                 {middle, pixels, list.data() + 1, fewer.data()}};
    kernels.dense({inputs.data(), outputs.data(), groups, 2, static_cast<int>(chunks.size()) - 1, weights.data(),
                   products * kLanes, begin, blocks, last, pixels * kLanes, scale.data(), shift.data(), -40.0f, 90.0f,
                   far});
    return out;
  };
  return same(run(k), run(reference::kernels));
}

bool check_depthwise(const Kernels& k, Random& r) {
  const int pixels = r.between(1, 15), taps = r.between(1, 9), stride = r.between(1, 2) * kLanes;
  std::vector<int32_t> offsets(taps);
  for (int32_t& offset : offsets) offset = r.between(0, 10) * kLanes;
  const std::vector<float> in = r.floats(pixels * stride + 11 * kLanes), weights = r.floats(taps * kLanes);
  const std::vector<float> scale = r.floats(kLanes), shift = r.floats(kLanes);
  const auto run = [&](const Kernels& kernels) {
    std::vector<float> out(pixels * kLanes);
    kernels.depthwise({in.data(), out.data(), pixels, stride, taps, offsets.data(), weights.data(), scale.data(),
                       shift.data(), -9.0f, 20.0f});
    return out;
  };
  return same(run(k), run(reference::kernels));
}

std::vector<Window> windows(Random& r, int outputs, int size) {
  std::vector<Window> result;
  for (int i = 0; i < outputs; ++i) {
    const int begin = r.between(0, size - 1), end = r.between(begin + 1, size);
    result.push_back({begin, end, end - begin + r.between(0, 1)});
  }
  return result;
}

bool check_pool(const Kernels& k, Random& r) {
  const int height = r.between(1, 4), width = r.between(1, 7), size = 8;
  const std::vector<Window> rows = windows(r, height, size), columns = windows(r, width, size);
  const std::vector<float> in = r.with_nan(size * size * kLanes);
  const bool average = r.between(0, 1);
  const int divisor = r.between(0, 3);
  const auto run = [&](const Kernels& kernels) {
    std::vector<float> out(height * width * kLanes);
    kernels.pool({in.data(), size * kLanes, out.data(), width * kLanes, rows.data(), columns.data(), height, width,
                  average, divisor, -1.0f, 2.0f});
    return out;
  };
  return same(run(k), run(reference::kernels));
}

bool check_affine_and_add(const Kernels& k, Random& r) {
  const int pixels = r.between(1, 9);
  const std::vector<float> a = r.with_nan(pixels * kLanes), b = r.with_nan(pixels * kLanes);
  const std::vector<float> scale = r.floats(kLanes), shift = r.floats(kLanes);
  const auto run = [&](const Kernels& kernels) {
    std::vector<float> out(2 * pixels * kLanes);
    kernels.affine(a.data(), out.data(), pixels, scale.data(), shift.data(), 0.0f, INFINITY);
    kernels.add(a.data(), b.data(), out.data() + pixels * kLanes, pixels, -2.0f, 4.0f);
    return out;
  };
  return same(run(k), run(reference::kernels));
}

bool check_layout(const Kernels& k, Random& r) {
  const int lanes = r.between(1, kLanes), channels = r.between(1, lanes), pixels = r.between(1, 13);
  const int stride = pixels + r.between(0, 3);
  const std::vector<float> planar = r.floats(kLanes * stride), blocks = r.floats(pixels * kLanes);
  const auto run = [&](const Kernels& kernels) {
    std::vector<float> out(pixels * lanes + channels * stride);
    kernels.interleave(planar.data(), stride, channels, pixels, out.data(), lanes);
    kernels.deinterleave(blocks.data(), channels, pixels, out.data() + pixels * lanes, stride);
    return out;
  };
  return same(run(k), run(reference::kernels));
}

bool check_planes(const Kernels& k, Random& r) {
  const int channels = r.between(1, kLanes), kernel = r.between(1, 5), dilation = r.between(1, 2), stride = r.between(1, 3);
  const int columns = 8 * r.between(1, 5), pixels = (columns - 1) * stride + (kernel - 1) * dilation + 1 + r.between(0, 3);
  const int plane = columns + r.between(0, 5), channel = kernel * plane + r.between(0, 5);
  const std::vector<float> in = r.floats(pixels * kLanes);
  const auto run = [&](const Kernels& kernels) {
    std::vector<float> out(channels * channel), apart(kLanes * pixels);
    kernels.planes({in.data(), channels, pixels, kernel, dilation, stride, columns, apart.data(), pixels, out.data(),
                    channel, plane});
    return out;
  };
  return same(run(k), run(reference::kernels));
}

bool check_partial_sums(const Kernels& k, Random& r) {
  const int filters = r.between(1, 9), checks = r.between(1, 3), chunks = r.between(1, 3);
  const int columns = 8 << r.between(0, 2), row = columns + r.between(0, 9), reach = 50;
  std::vector<Tap> taps;
  std::vector<int32_t> bounds{0};
  for (int i = 0; i < checks * chunks * filters; ++i) {
    for (int n = r.between(0, 5); n > 0; --n) taps.push_back({r.between(0, reach), r.floats(1)[0]});
    bounds.push_back(static_cast<int32_t>(taps.size()));
  }
  const std::vector<float> in = r.floats(reach + kTilePixels / columns * row + columns);
  const std::vector<float> start = r.floats(filters), thresholds = r.floats(checks * filters);
  std::vector<uint64_t> exist(filters);
  for (uint64_t& bits : exist) bits = r.between(0, 4) ? ~uint64_t{0} >> r.between(0, 63) : 0;
  const bool emits = r.between(0, 1);
  const auto run = [&](const Kernels& kernels) {
    std::vector<float> sums(filters * kTilePixels), emitted(filters * kTilePixels);
    std::vector<uint64_t> alive = exist;
    kernels.partial_sums({in.data(), row, columns, taps.data(), bounds.data(), checks, chunks, filters, start.data(),
                          thresholds.data(), sums.data(), emits ? emitted.data() : nullptr, alive.data()});
    for (uint64_t bits : alive) {
      for (int i = 0; i < kTilePixels; ++i) emitted.push_back(static_cast<float>(bits >> i & 1));
    }
    return emitted;
  };
  return same(run(k), run(reference::kernels));
}

bool check_survivors(const Kernels& k, Random& r) {
  const int filters = r.between(1, 20), segments = r.between(1, 6), area = 600;
  const int blocks = r.between(0, 5);  // zero: of different lengths
  std::vector<Segment> list;
  int products = 0;
  for (int i = 0; i < segments; ++i) {
    const int length = (blocks ? blocks : r.between(1, 5)) * kLanes;
    list.push_back({r.between(0, area), products, length});
    products += length;
  }
  const bool begun = r.between(0, 1), by_pixel = r.between(0, 1);
  std::vector<int32_t> pixels(kTilePixels);
  for (int32_t& pixel : pixels) pixel = r.between(0, area);
  std::vector<uint64_t> alive(filters);
  for (uint64_t& bits : alive) bits = r.between(0, 5) ? uint64_t{1} << r.between(0, 63) | r.between(0, 4095) : 0;
  const std::vector<float> in = r.floats(2 * area + 5 * kLanes), weights = r.floats(filters * products);
  const std::vector<float> bias = r.floats(filters);
  const auto run = [&](const Kernels& kernels) {
    std::vector<float> sums(2 * kLanes * kTilePixels, 7.0f);
    kernels.survivors({alive.data(), filters, in.data(), pixels.data(), list.data(), segments, blocks,
                       weights.data(), products, begun ? nullptr : bias.data(), sums.data(), by_pixel ? 1 : kTilePixels,
                       by_pixel ? kLanes : 1});
    return sums;
  };
  return same(run(k), run(reference::kernels));
}

// A network of every operation, with a channel group that the budget cuts.
class Builder {
 public:
  Builder(const Kernels& kernels, Random& r) : network(std::make_shared<Network>(kernels)), r_(r) {}

  int value(std::vector<Run> runs, int lanes = kLanes) {
    Value value;
    value.runs = std::move(runs);
    value.lanes = lanes;
    return network->add_value(std::move(value));
  }
  int conv(int in, std::vector<Run> runs, const Sliding& s, bool whole = false) {
    const int out = reading(in, std::move(runs), s);
    return conv(in, out, s, whole, 3, epilogue(out));
  }
  // One that is not followed by a clamp, with weights up to `most`.
  int plain_conv(int in, std::vector<Run> runs, const Sliding& s, int most) {
    const int out = reading(in, std::move(runs), s);
    const std::vector<float> ones(channels(out), 1.0f), zeros(channels(out));
    return conv(in, out, s, false, most, {{{ones, zeros}}, -1, -INFINITY, INFINITY});
  }
  int depthwise(int in, const Sliding& s) {
    const int out = reading(in, network->values[in].runs, s);
    const std::vector<float> weights = r_.floats(channels(out) * s.taps());
    return add(std::make_unique<Depthwise>(weights.data(), network->values[out], s, epilogue(out)), {in}, out);
  }
  int terminating(int in, std::vector<Run> runs, const Sliding& s) {
    const int out = reading(in, std::move(runs), s), filters = channels(out);
    const std::vector<float> weights = r_.floats(channels(in) * filters * s.taps());
    std::vector<std::vector<float>> thresholds{r_.floats(filters), r_.floats(filters)};
    const std::vector<float> steps(r_.between(0, 2) == 0 ? filters : 0, 1.0f);
    Checks checks{thresholds, std::vector<float>(filters), r_.floats(filters), true, {}, kMost, true, steps};
    auto op = std::make_unique<Terminating>(weights.data(), network->values[in], network->values[out], s, 0,
                                            std::move(checks));
    return add(std::move(op), {in}, out);
  }
  // The greatest, or the sum: an average divided by one, so that it is whole.
  int pool(int in, const PoolAxis& axis, bool sums) {
    auto op = std::make_unique<Pool>(axis, axis, sums, 1, -INFINITY, INFINITY);
    return add(std::move(op), {in}, value(network->values[in].runs));
  }
  int affine(int in) {
    const int out = value(network->values[in].runs);
    return add(std::make_unique<Affine>(network->values[out], epilogue(out)), {in}, out);
  }
  int sum(int a, int b) { return add(std::make_unique<Add>(0.0f, kMost), {a, b}, value(network->values[a].runs)); }
  int concat(int a, int b) {
    std::vector<Run> runs = network->values[a].runs;
    for (const Run& run : network->values[b].runs) runs.push_back(run);
    return add(std::make_unique<Concat>(), {a, b}, value(runs));
  }

  const std::shared_ptr<Network> network;

 private:
  static constexpr float kMost = 6.0f;  // so that numbers stay small, and sums exact

  int conv(int in, int out, const Sliding& s, bool whole, int most, Epilogue epilogue) {
    const std::vector<float> weights = r_.floats(channels(in) * channels(out) * s.taps(), -most, most);
    auto op = std::make_unique<Conv>(std::vector<const float*>{weights.data()}, network->values[in],
                                     network->values[out], s, 1, whole, std::move(epilogue));
    return add(std::move(op), {in}, out);
  }
  int channels(int id) const { return network->values[id].channels(); }
  int reading(int in, std::vector<Run> runs, const Sliding& s) {
    network->values[in].halo = std::max(network->values[in].halo, s.halo());
    return value(std::move(runs));
  }
  Epilogue epilogue(int out) {
    return {{{r_.floats(channels(out), 1, 2), r_.floats(channels(out))}}, -1, 0.0f, kMost};
  }
  int add(std::unique_ptr<Op> op, std::vector<int> inputs, int output) {
    op->inputs = std::move(inputs);
    op->output = output;
    network->add(std::move(op));
    return output;
  }

  Random& r_;
};

std::vector<float> run_network(const Kernels& kernels, Random r) {
  Builder b(kernels, r);
  const int cut = r.between(1, 40), kept = r.between(1, cut), side = r.between(5, 34), images = r.between(1, 5);
  const int given = r.between(1, 20);
  const Sliding one{1, 1, 1, 1, 1, 1, 0, 0, 0, 0}, three{3, 3, 1, 1, 1, 1, 1, 1, 1, 1};
  const Sliding apart{3, 3, 2, 1, 1, 1, 1, 1, 1, 1};
  const int in = b.value({{given, -1}}, std::min(given, kLanes));
  b.network->inputs.push_back(in);
  const int first = b.conv(in, {{cut, 0}}, three);
  const int joined = b.concat(b.sum(b.depthwise(first, three), b.affine(first)), b.conv(first, {{9, -1}}, one));
  const int stopped = b.terminating(joined, {{cut, 0}}, r.between(0, 1) ? three : apart);
  const int small = b.pool(b.pool(stopped, {2, 2, 0, true, false, 0}, false), {0, 1, 0, false, false, 1}, true);
  b.network->outputs.push_back(stopped);
  b.network->outputs.push_back(b.conv(small, {{7, -1}}, one, true));
  const int terms = (kept + 9) * 9 + 1;
  std::vector<std::vector<int>> positions(2);
  for (int f = 0; f < kept; ++f) {
    positions[0].push_back(r.between(1, terms / 2));
    positions[1].push_back(r.between(terms / 2 + 1, terms));
  }
  Plan plan(b.network, {{kept}, 0, {}, {positions}}, {{side, side}});
  std::vector<float> input = r.floats(images * given * side * side, 0, 4);
  const Layout& layout = plan.view(stopped).layout;
  const int pixels = images * kept * layout.height * layout.width;
  std::vector<float> out(pixels + images * 7);
  plan.run({input.data()}, {out.data(), out.data() + pixels}, images, r.between(1, 2));
  return out;
}

bool check_network(const Kernels& k, Random& r) {
  const unsigned seed = static_cast<unsigned>(r.between(0, 1 << 30));
  return same(run_network(k, Random(seed)), run_network(reference::kernels, Random(seed)));
}

// One convolution of numbers that need more bits than a bfloat16 has, on one side of the products: exact all the same.
std::vector<float> run_conv(const Kernels& kernels, Random r) {
  Builder b(kernels, r);
  const int given = r.between(1, 70), cut = r.between(1, 70), kept = r.between(1, cut), group = r.between(-1, 0);
  const int height = r.between(1, 20), width = r.between(1, 40), images = r.between(1, 4), most = r.between(0, 1) ? 2 : 900;
  const int kernel = r.between(1, 5), stride = r.between(1, 2), dilation = r.between(1, 2), pad = dilation * kernel / 2;
  const Sliding window{kernel, kernel, stride, r.between(1, 2), dilation, dilation, pad, pad, pad, pad};
  const int in = b.value({{given, -1}}, std::min(given, kLanes));
  b.network->inputs.push_back(in);
  // With a group, the budget cuts the output; and the input of a second convolution.
  int out = b.plain_conv(in, {{cut, group}}, window, most);
  if (most == 2) out = b.conv(b.affine(out), {{30, -1}}, window);
  b.network->outputs.push_back(out);
  Plan plan(b.network, {{kept}, 0, {}, {}}, {{height, width}});
  const std::vector<float> input = r.floats(images * given * height * width, -(900 / most), 900 / most);
  const Layout& layout = plan.view(out).layout;
  std::vector<float> result(static_cast<size_t>(images) * channels(plan.view(out).kept) * layout.height * layout.width);
  plan.run({const_cast<float*>(input.data())}, {result.data()}, images, r.between(1, 2));
  return result;
}

bool check_conv(const Kernels& k, Random& r) {
  const unsigned seed = static_cast<unsigned>(r.between(0, 1 << 30));
  return same(run_conv(k, Random(seed)), run_conv(reference::kernels, Random(seed)));
}

struct Check {
  const char* name;
  bool (*run)(const Kernels&, Random&);
  int times;
};

constexpr Check kChecks[] = {
    {"dense", check_dense, 400},
    {"depthwise", check_depthwise, 200},
    {"pool", check_pool, 200},
    {"affine, add", check_affine_and_add, 100},
    {"interleave, deinterleave", check_layout, 300},
    {"planes", check_planes, 300},
    {"partial_sums", check_partial_sums, 300},
    {"survivors", check_survivors, 300},
    {"convolutions", check_conv, 200},
    {"networks", check_network, 30},
};

// Runs all checks; tells whether they held.
bool check(const Kernels& k, int share) {
  bool held = true;
  for (const Check& c : kChecks) {
    int failed = 0;
    Random r(1);
    for (int i = 0; i < c.times / share; ++i) failed += !c.run(k, r);
    if (failed) std::printf("%s: %s differs from plain loops in %d of %d calls\n", k.name, c.name, failed, c.times / share);
    held = held && failed == 0;
  }
  std::printf("%s: %s\n", k.name, held ? "as plain loops" : "WRONG");
  return held;
}

}  // namespace
}  // namespace tapernet

// With names of instruction sets as arguments, those and no others must run; emulators do a part of the calls, as they are
// slow.
int main(int count, char** names) {
  using namespace tapernet;
  bool held = true;
  std::vector<std::string> ran;
  for (const Kernels* kernels : available_kernels()) {
    held = check(*kernels, count > 1 ? 6 : 1) && held;
    ran.emplace_back(kernels->name);
  }
  if (count > 1 && ran != std::vector<std::string>(names + 1, names + count)) {
    std::printf("WRONG: other instruction sets ran than were asked for\n");
    return 1;
  }
  return held ? 0 : 1;
}
