// All kernels as compiled in this translation unit.
#pragma once

#include "kernel_channelwise.h"
#include "kernel_dense.h"
#include "kernel_layout.h"
#include "kernel_rounded.h"
#include "kernel_terminating.h"

namespace {

constexpr tapernet::Kernels make_kernels(const char* name) {
  return {name, dense, depthwise, pool, affine, add, interleave, deinterleave, planes, partial_sums,
          range, round_to_bytes, rounded_sums, false, survivors};
}

}  // namespace
