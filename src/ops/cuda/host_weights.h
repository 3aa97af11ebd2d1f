// Weights of a checkpoint on their way through host memory. Pure; the loading thread.
#pragma once

#include <initializer_list>
#include <memory>

#include "fathom/weight.h"

namespace fathom {

// Owned memory; not zeroed.
HostTensor host_tensor(DType dtype, std::initializer_list<int64_t> shape);

// `weight` with its values in memory: the same, or what its bytes give.
Result<HostWeight> in_memory(const HostWeight& weight);

// `weight` with values of dtype `as`: the same, or converted in memory.
Result<HostWeight> stored_as(const HostWeight& weight, DType as);

// The bytes of `weight`'s values: its own, or those of its memory, which is kept alive.
std::shared_ptr<const ByteSource> bytes_of(const HostWeight& weight);

}  // namespace fathom
