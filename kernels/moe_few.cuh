// The two products of few tokens with their experts. A block walks items (64 rows of one expert's
// matrix, all of its columns): one thread copies weights into a ring, four warps multiply them
// with the tokens as the narrow side of wgmma, four more bring what belongs to an item: scales, and
// in down the rows of tokens, which they quantize.
#pragma once

#include "moe_few_items.cuh"
#include "number.cuh"
#include "wgmma.cuh"

namespace fathom::kernels {

// ---- The thread that copies weights.

template <Format kFormat, bool kDown>
struct WeightCopy {
  static constexpr int kColumns = kFormat == Format::kFp8 ? 128 : 64;
  const MoeFew& m;
  const MoeFewPlan& plan;
  const MoeFewShared& sh;

  __device__ void load(const MoeItem& item, int32_t step, int32_t stage) const {
    uint8_t* to = sh.ring + stage * kMoeStageBytes;
    const MoeFewExpert& expert = m.experts[item.expert];
    const int32_t base = item.part > 0 ? item.part * m.width : 0;
    barrier_expect(sh.full + stage, kMoeStageBytes);
    if constexpr (kDown) {
      copy_tile_streaming(to, &expert.down, sh.full + stage, base + step * kColumns,
                          item.tile * 64);
    } else {
      copy_box_streaming(to, &expert.gate_up, sh.full + stage, step * kColumns, 0, 0,
                         base / 8 + item.tile * 4);
    }
  }
  // The ring's first turn over the block's first item.
  __device__ int32_t ahead(const MoeItem& item) const {
    const int32_t steps = min(plan.steps, plan.stages);
    for (int32_t step = 0; step < steps; ++step) load(item, step, step);
    return steps;
  }
  // The first item is the block's own, further ones go to whoever asks: blocks may share an SM, or
  // have rows of many tokens to bring. The last to ask in vain leaves zero behind.
  __device__ int32_t* given() const {
    return m.arrivals + kMoeFewTokensMax / kMoeRouteTokens + (kDown ? 1 : 0);
  }
  __device__ int32_t item_of_ticket(int32_t ticket, int32_t count) const {
    const auto blocks = static_cast<int32_t>(gridDim.x);
    if (ticket == max(count - blocks, 0) + blocks - 1) *given() = 0;
    return blocks + ticket;
  }
  __device__ void publish(int32_t n, int32_t item, int32_t count) const {
    sh.claims[n % kMoeClaims] = item < count ? item : -1;
    barrier_arrive(sh.known + n % kMoeClaims);
  }
  __device__ void rest(const MoeItems<kDown>& items, int32_t done) const {
    const int32_t count = items.count();
    RingAt at;
    int32_t turn = 0;  // steps so far
    auto i = static_cast<int32_t>(blockIdx.x);
    publish(0, i, count);
    if (i >= count) item_of_ticket(atomicAdd(given(), 1), count);
    for (int32_t n = 1; i < count; ++n) {
      const MoeItem item = items.get(i);
      const int32_t ticket = atomicAdd(given(), 1);
      for (int32_t step = 0; step < plan.steps; ++step, ++turn) {
        if (turn >= plan.stages) barrier_wait(sh.empty + at.stage, at.parity ^ 1);
        if (turn >= done) load(item, step, at.stage);
        at.next(plan.stages);
        if (step > 0) continue;
        i = item_of_ticket(ticket, count);
        publish(n, i, count);
      }
    }
  }
};

// The block's n-th item, or -1. By readers of all warps.
__device__ inline int32_t item_of(const MoeFewShared& sh, int32_t n) {
  barrier_wait(sh.known + n % kMoeClaims, n / kMoeClaims % 2);
  return sh.claims[n % kMoeClaims];
}

// ---- The warps that bring an item's scales and rows.

__device__ inline int32_t swizzled(int32_t row, int32_t byte) {
  return row * kMoeStepBytes + ((byte & 127) ^ ((row & 7) << 4));
}

template <Format kFormat, int kTokens, bool kDown>
struct ItemCopy {
  static constexpr int kEach = kMoeStepsMax / kMoeHelpers;
  const MoeFew& m;
  const MoeFewPlan& plan;
  const MoeFewShared& sh;
  int32_t thread;  // of the helpers

  // Scales of an item's weights, two a step (gate and up, or down's twice): on their way in
  // registers while rows are brought.
  struct Scales {
    float first[kEach];
    float second[kEach];
  };
  __device__ Scales ask_scales(const MoeItem& item) const {
    Scales s = {};
    if constexpr (kFormat != Format::kFp8) return s;
    const MoeFewExpert& e = m.experts[item.expert];
    const int32_t base = item.part > 0 ? item.part * m.width / 128 : 0;
    const float* first = kDown ? e.down_scales + item.tile / 2 * e.down_stride + base
                               : e.gate_up_scales + (base + item.tile / 4) * e.gate_up_stride;
    const float* second = kDown ? first : first + e.width / 128 * e.gate_up_stride;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int32_t step = min(thread + i * kMoeHelpers, plan.steps - 1);
      s.first[i] = first[step];
      s.second[i] = second[step];
    }
    return s;
  }
  __device__ void store_scales(const Scales& s, int32_t buffer) const {
    if constexpr (kFormat != Format::kFp8) return;
    float* to = sh.w_scales + buffer * 2 * plan.steps;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int32_t step = thread + i * kMoeHelpers;
      if (step >= plan.steps) break;
      to[step] = s.first[i];
      to[plan.steps + step] = s.second[i];
    }
  }
  // gate_up: scales of all tokens, [step][token].
  __device__ void load_token_scales() const {
    const int32_t all = plan.steps * m.tokens;
    for (int32_t i = thread; i < all; i += kMoeHelpers) {
      const int32_t token = i / plan.steps;
      const int32_t step = i - token * plan.steps;
      sh.x_scales[step * kTokens + token] = __ldcg(m.code_scales + i);
    }
  }
  // The buffer of item n is free. Loads are on their way before.
  __device__ void wait_for_buffer(int32_t n) const {
    if (n >= 2) barrier_wait(sh.item_empty + n % 2, (n / 2 - 1) % 2);
  }
  __device__ const __nv_bfloat16* inner(int64_t row) const {
    return static_cast<const __nv_bfloat16*>(m.inner) + row * m.width;
  }
  // down: one job is eight columns a lane: 16 lanes a group of e4m3, 8 a step of bf16.
  __device__ void load_rows(const MoeItems<kDown>& items, const MoeItem& item, int32_t n) const {
    constexpr int kLanes = kFormat == Format::kFp8 ? 16 : 8;
    constexpr int kAtOnce = 8;
    const int32_t lane = thread % 32;
    uint8_t* list = sh.places + thread / 32 * 32;
    __syncwarp();
    if ((item.tokens >> lane & 1U) != 0)
      list[__popc(item.tokens & ((1U << lane) - 1U))] = static_cast<uint8_t>(lane);
    __syncwarp();
    const int32_t jobs = __popc(item.tokens) * plan.steps;
    const int32_t first = thread / kLanes;
    const int32_t of_warp = thread / 32 * (32 / kLanes);
    constexpr int kStride = kMoeHelpers / kLanes;
    for (int32_t base = 0; base < jobs; base += kAtOnce * kStride) {
      uint4 v[kAtOnce];
      int32_t token[kAtOnce];
      int32_t step[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        if (base + j * kStride + of_warp >= jobs) break;
        const int32_t job = min(base + j * kStride + first, jobs - 1);
        const int32_t at = job / plan.steps;
        step[j] = job - at * plan.steps;
        token[j] = list[at];
        const __nv_bfloat16* row = inner(items.row(item, token[j]));
        v[j] =
            __ldcg(reinterpret_cast<const uint4*>(row + step[j] * (8 * kLanes)) + thread % kLanes);
      }
      if (base == 0) wait_for_buffer(n);
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        if (base + j * kStride + of_warp >= jobs) break;
        store_job(v[j], base + j * kStride + first < jobs ? token[j] : -1, step[j], n % 2);
      }
    }
  }
  __device__ void store_job(const uint4& v, int32_t token, int32_t step, int32_t buffer) const {
    uint8_t* tile = sh.x + (buffer * plan.steps + step) * (kTokens * kMoeStepBytes);
    if constexpr (kFormat != Format::kFp8) {
      if (token >= 0) *reinterpret_cast<uint4*>(tile + swizzled(token, thread % 8 * 16)) = v;
      return;
    }
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
    float x[8];
    float largest = 1e-4F;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[2 * i] = __uint_as_float(words[i] << 16);
      x[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000U);
      largest = fmaxf(largest, fmaxf(fabsf(x[2 * i]), fabsf(x[2 * i + 1])));
    }
#pragma unroll
    for (int offset = 8; offset > 0; offset /= 2)
      largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, offset));
    const float scale = group_scale(largest, m.ue8m0);
    const float inverse = __frcp_rn(scale);
#pragma unroll
    for (float& one : x) {  // one / scale, rounded as a division is
      const float guess = one * inverse;
      one = fmaf(fmaf(-guess, scale, one), inverse, guess);
    }
    uint32_t codes[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t low =
          __nv_cvt_float2_to_fp8x2(make_float2(x[4 * i], x[4 * i + 1]), __NV_SATFINITE, __NV_E4M3);
      const uint32_t high = __nv_cvt_float2_to_fp8x2(make_float2(x[4 * i + 2], x[4 * i + 3]),
                                                     __NV_SATFINITE, __NV_E4M3);
      codes[i] = low | high << 16;
    }
    if (token < 0) return;
    *reinterpret_cast<uint2*>(tile + swizzled(token, thread % 16 * 8)) =
        make_uint2(codes[0], codes[1]);
    if (thread % 16 == 0) sh.x_scales[(buffer * plan.steps + step) * kTokens + token] = scale;
  }
  // scales: of the first item, if they are asked for already.
  __device__ void run(const MoeItems<kDown>& items, Scales scales, bool asked) const {
    for (int32_t n = 0;; ++n) {
      const int32_t i = item_of(sh, n);
      if (i < 0) return;
      const MoeItem item = items.get(i);
      const int32_t buffer = n % 2;
      if (n > 0 || !asked) scales = ask_scales(item);
      if constexpr (kDown) {
        load_rows(items, item, n);
      } else {
        wait_for_buffer(n);
      }
      store_scales(scales, buffer);
      publish_to_wgmma();
      barrier_arrive(sh.item_full + buffer);
    }
  }
};

// ---- The warpgroup that multiplies.

__device__ inline float silu_times(float gate, float up) {
  gate = round_number(Format::kBF16, gate);
  up = round_number(Format::kBF16, up);
  return gate / (1.0F + expf(-gate)) * up;
}

template <Format kFormat, int kTokens, bool kDown>
struct ItemProduct {
  static constexpr int kCount = kTokens / 2;
  const MoeFew& m;
  const MoeFewPlan& plan;
  const MoeFewShared& sh;
  RingAt issued;
  RingAt done;

  __device__ void issue(float (&d)[kCount], int32_t set, int32_t step, bool keep) {
    barrier_wait(sh.full + issued.stage, issued.parity);
    const uint64_t w = wgmma_tile(shared_address(sh.ring + issued.stage * kMoeStageBytes));
    const uint64_t x =
        wgmma_tile(shared_address(sh.x + (set * plan.steps + step) * (kTokens * kMoeStepBytes)));
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k)
      Wgmma<kFormat, kTokens>::run(d, w + 2 * k, x + 2 * k, keep || k > 0 ? 1 : 0);
    wgmma_commit();
    issued.next(plan.stages);
  }
  __device__ void release() {
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(sh.empty + done.stage);
    done.next(plan.stages);
  }
  template <int kPending>
  __device__ void add(float (&total)[kCount], float (&block)[kCount], int32_t buffer, int32_t set,
                      int32_t step) {
    wgmma_wait<kPending>();
    wgmma_use(block);
    release();
    const float* w = sh.w_scales + buffer * 2 * plan.steps + step;
    const float upper = w[0];
    const float lower = kDown ? upper : w[plan.steps];
    const float* x = sh.x_scales + (set * plan.steps + step) * kTokens + threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
      const float2 s = *reinterpret_cast<const float2*>(x + 8 * j);
      total[4 * j] += block[4 * j] * (s.x * upper);
      total[4 * j + 1] += block[4 * j + 1] * (s.y * upper);
      total[4 * j + 2] += block[4 * j + 2] * (s.x * lower);
      total[4 * j + 3] += block[4 * j + 3] * (s.y * lower);
    }
  }
  __device__ void sum(float (&total)[kCount], int32_t buffer, int32_t set) {
    if constexpr (kFormat == Format::kFp8) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) total[i] = 0.0F;
      float even[kCount];
      float odd[kCount];
      int32_t step = 0;
      for (; step + 1 < plan.steps; step += 2) {
        issue(even, set, step, false);
        issue(odd, set, step + 1, false);
        add<1>(total, even, buffer, set, step);
        add<0>(total, odd, buffer, set, step + 1);
      }
      if (step < plan.steps) {
        issue(even, set, step, false);
        add<0>(total, even, buffer, set, step);
      }
    } else {
      issue(total, set, 0, false);
      for (int32_t step = 1; step < plan.steps; ++step) {
        issue(total, set, step, true);
        wgmma_wait<1>();
        release();
      }
      wgmma_wait<0>();
      wgmma_use(total);
      release();
    }
  }
  __device__ void store(const MoeItems<kDown>& items, const MoeItem& item,
                        const float (&total)[kCount]) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int warp = static_cast<int>(threadIdx.x / 32);
#pragma unroll
    for (int i = 0; i < kTokens / 4; ++i) {
      const int32_t token = 8 * (i / 2) + lane % 4 * 2 + i % 2;
      if ((item.tokens >> token & 1U) == 0) continue;
      const float first = total[4 * (i / 2) + i % 2];
      const float second = total[4 * (i / 2) + 2 + i % 2];
      const int64_t row = items.row(item, token);
      if constexpr (kDown) {
        float* to = m.rows + row * m.hidden + item.tile * 64 + warp * 16 + lane / 4;
        to[0] = first;
        to[8] = second;
      } else {
        auto* to = static_cast<__nv_bfloat16*>(m.inner) + row * m.width;
        to[item.tile * 32 + warp * 8 + lane / 4] = __float2bfloat16_rn(silu_times(first, second));
      }
    }
  }
  __device__ void run(const MoeItems<kDown>& items) {
    for (int32_t n = 0;; ++n) {
      const int32_t i = item_of(sh, n);
      if (i < 0) return;
      const MoeItem item = items.get(i);
      const int32_t buffer = n % 2;
      if (!kDown && n == 0) barrier_wait(sh.x_full, 0);
      barrier_wait(sh.item_full + buffer, n / 2 % 2);
      float total[kCount];
      sum(total, buffer, kDown ? buffer : 0);
      barrier_arrive(sh.item_empty + buffer);
      store(items, item, total);
    }
  }
};

__device__ inline void init_barriers(const MoeFewShared& sh, int32_t stages) {
  for (int s = 0; s < stages; ++s) {
    barrier_init(sh.full + s, 1);
    barrier_init(sh.empty + s, kMoeMathThreads / 32);
  }
  for (int i = 0; i < 2; ++i) {
    barrier_init(sh.item_full + i, kMoeHelpers);
    barrier_init(sh.item_empty + i, kMoeMathThreads);
  }
  for (int i = 0; i < kMoeClaims; ++i) barrier_init(sh.known + i, 1);
  barrier_init(sh.x_full, 1 + kMoeHelpers);
  barrier_init_done();
}

// By the threads that multiply, of the blocks whose weights come last.
__device__ inline void store_residual(const MoeFew& m) {
  if (m.norm.weight == nullptr) return;
  const int32_t quads = m.hidden / 4;
  const auto at = [](const Rows& rows, int64_t token, int64_t column) {
    return reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(rows.data) + token * rows.stride +
                                    column);
  };
  const auto sum = [](uint32_t a, uint32_t b) {
    return pack_pair(__uint_as_float(a << 16) + __uint_as_float(b << 16),
                     __uint_as_float(a & 0xFFFF0000U) + __uint_as_float(b & 0xFFFF0000U));
  };
  const auto block = static_cast<int32_t>(gridDim.x - 1 - blockIdx.x);
  for (int32_t i = block * kMoeMathThreads + static_cast<int32_t>(threadIdx.x);
       i < m.tokens * quads; i += static_cast<int32_t>(gridDim.x * kMoeMathThreads)) {
    uint2* to = at(m.norm.residual, i / quads, 4 * (i % quads));
    const uint2 a = __ldcg(to);
    const uint2 b = __ldcg(at(m.norm.part, i / quads, 4 * (i % quads)));
    *to = make_uint2(sum(a.x, b.x), sum(a.y, b.y));
  }
}

// All of the tokens' rows, a tile a step.
template <Format kFormat, int kTokens>
__device__ void load_tokens(const MoeFewPlan& plan, const MoeFewShared& sh, const CUtensorMap* x) {
  constexpr int kColumns = kFormat == Format::kFp8 ? 128 : 64;
  constexpr int kBytes = kTokens * kMoeStepBytes;
  barrier_expect(sh.x_full, static_cast<uint32_t>(plan.steps * kBytes));
  for (int32_t step = 0; step < plan.steps; ++step)
    copy_tile(sh.x + step * kBytes, x, sh.x_full, step * kColumns, 0);
}

// Which threads of a block do what.
struct MoeRoles {
  static constexpr int kCopier = kMoeMathThreads + kMoeHelpers;

  __device__ static bool copies() { return threadIdx.x == kCopier; }
  __device__ static bool helps() { return threadIdx.x >= kMoeMathThreads && threadIdx.x < kCopier; }
};

// gate_up waits for the router: for its scores alone where they are posted, so that chosen weights
// are asked for while it ends. They say that all before the router is over: its blocks post after
// their own wait.
template <Format kFormat, int kTokens>
__device__ void await_router(const MoeFew& m, const MoeFewPlan& plan, const MoeFewShared& sh,
                             const CUtensorMap* x_map) {
  const uint32_t* posts = moe_choose_everywhere(kTokens) ? m.posts : nullptr;
  const auto wait = [&](bool loads) {
    wait_for_earlier_kernels();
    let_next_kernel_start();
    if (loads) load_tokens<kFormat, kTokens>(plan, sh, x_map);
  };
  if (posts == nullptr) wait(MoeRoles::copies());
  list_experts<kTokens, false>(m, sh, posts);
  if (posts != nullptr && !MoeRoles::copies()) wait(threadIdx.x == kMoeMathThreads);
}

// By one block of down: gate_up's have all read them, or down would not have started.
__device__ inline void clear_posts(const MoeFew& m) {
  const int32_t words = m.tokens * m.router.experts;
  for (auto i = static_cast<int32_t>(threadIdx.x); i < words; i += kMoeFewThreads) m.posts[i] = 0;
}

// gate_up: the block's first item may be the shared expert's, whose weights are known before the
// router ends. down: the choices are known, because gate_up lets it start after its own wait.
template <Format kFormat, int kTokens, bool kDown>
__global__ void __launch_bounds__(kMoeFewThreads, kTokens > 16 ? 1 : 2)
    product_kernel(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ MoeFew m,
                   const __grid_constant__ MoeFewPlan plan) {
  extern __shared__ __align__(1024) uint8_t bytes[];
  const MoeFewShared sh(bytes, plan, m, kDown ? 2 : 1);
  const MoeItems<kDown> items(m, sh);
  const WeightCopy<kFormat, kDown> weights{m, plan, sh};
  const bool copier = MoeRoles::copies();
  const bool helper = MoeRoles::helps();
  const ItemCopy<kFormat, kTokens, kDown> brings{
      m, plan, sh, static_cast<int32_t>(threadIdx.x) - kMoeMathThreads};
  static_assert(kMoeFewThreads / 32 >= kMoeRouteTokens);
  if (copier) init_barriers(sh, plan.stages);
  if (kDown) list_experts<kTokens, kDown>(m, sh, nullptr);
  const auto first = static_cast<int32_t>(blockIdx.x);
  const bool known = first < (kDown ? items.count() : items.ahead());
  int32_t done = 0;
  if (known && copier) done = weights.ahead(items.get(first));
  typename ItemCopy<kFormat, kTokens, kDown>::Scales scales = {};
  if (known && helper) scales = brings.ask_scales(items.get(first));
  if constexpr (kDown) {
    wait_for_earlier_kernels();
    let_next_kernel_start();
    if (moe_choose_everywhere(kTokens) && m.posts != nullptr && blockIdx.x == 0) clear_posts(m);
    __syncthreads();
  } else {
    await_router<kFormat, kTokens>(m, plan, sh, &x_map);
    if (helper) {
      if constexpr (kFormat == Format::kFp8) brings.load_token_scales();
      barrier_arrive(sh.x_full);
    }
  }
  if (threadIdx.x < kMoeMathThreads) {
    if constexpr (!kDown) store_residual(m);
    ItemProduct<kFormat, kTokens, kDown> product{m, plan, sh, {}, {}};
    product.run(items);
  } else if (helper) {
    brings.run(items, scales, known);
  } else if (copier) {
    weights.rest(items, done);
    if (!kDown) barrier_wait(sh.x_full, 0);  // no copy outlives its block
  }
}

}  // namespace fathom::kernels
