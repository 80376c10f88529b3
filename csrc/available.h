// The kernels that this processor runs.
#pragma once

#include <vector>

#include "kernels.h"

namespace tapernet {

// Best first; the portable ones, which are always there, come last.
const std::vector<const Kernels*>& available_kernels();

}  // namespace tapernet
