// The LSTM over all of time in one kernel, and the transpose of its derivative, for NVIDIA GPUs of the Hopper kind.
//
// Every block of threads keeps the columns (backward: the rows) of w_h that belong to its own units, 8 JT of the H, for
// the whole sequence: in registers, in shared memory, or in both. It keeps the cells of these units too.
// A team of blocks has all units, of 16 MT `passes` sequences; teams share nothing. From step to step the blocks of a
// team hand each other h (forward) or dz (backward), through the L2 cache or as a cluster through their shared memory,
// in the very order in which the matrix units take it, so that it goes from there into their registers.
//
// There is no barrier between blocks. What is handed over says itself that it is new: one bit of each word (each pair
// of words, in the backward pass of 16-bit types) turns over whenever a slot is written again, and who reads it waits
// for its turn. Two slots are enough: who writes step s has read all of step s - 1, and who wrote that had read all of
// s - 2.
//   forward, 16 bits: |h| <= 1, so the highest bit of the exponent is free; a NaN travels as 1.5.
//   else: the lowest bit of the fraction. TF32 does not read it; of dz in 16 bits every fourth number has one bit less.
//
// Products are mma.sync of m16n8k16 (bfloat16, float16) and m16n8k8 (TF32), summed in float32; the warps of a block
// split the sum, and add their parts up in shared memory. A block may have several squads of warps that take its passes
// in turn, each with sums of its own, so that one multiplies while another waits. All else is float32. A library is
// built for a few kernels, each a `Cut`, whose shape is all constants: half of the time of a step was the bookkeeping
// of one that was not.

#include <cstdint>
#include <string>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

#ifdef LSTMJAX_EMULATED
#include "cuda_on_cpu.h"  // the tests: what follows, by threads that are not
#else
#include <cuda_runtime.h>

#define LSTMJAX_STREAM Ctx<ffi::PlatformStream<cudaStream_t>>
using Stream = cudaStream_t;

extern __shared__ __align__(16) char shared_bytes[];
__device__ __forceinline__ char* shared_memory() { return shared_bytes; }

// Relaxed at the scope of the GPU: from and to the L2 cache, each word or pair of words whole.
__device__ __forceinline__ uint4 read_through(const uint4* from) {
  unsigned long long low, high;
  asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];" : "=l"(low), "=l"(high) : "l"(from) : "memory");
  return make_uint4((uint32_t)low, (uint32_t)(low >> 32), (uint32_t)high, (uint32_t)(high >> 32));
}
// Again, if `stale`: a predicate rather than a branch for each.
__device__ __forceinline__ void read_again(uint4& v, const uint4* from, uint32_t stale) {
  unsigned long long low = (unsigned long long)v.y << 32 | v.x, high = (unsigned long long)v.w << 32 | v.z;
  asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.u32 p, %3, 0;\n\t@p ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];\n\t}"
               : "+l"(low), "+l"(high)
               : "l"(from), "r"(stale)
               : "memory");
  v = make_uint4((uint32_t)low, (uint32_t)(low >> 32), (uint32_t)high, (uint32_t)(high >> 32));
}
__device__ __forceinline__ void write_through(uint32_t* to, uint32_t word) {
  asm volatile("st.relaxed.gpu.global.b32 [%0], %1;" ::"l"(to), "r"(word) : "memory");
}
__device__ __forceinline__ void write_through(uint32_t* to, uint32_t first, uint32_t second) {
  const unsigned long long pair = (unsigned long long)second << 32 | first;
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(to), "l"(pair) : "memory");
}
// The same within a cluster of blocks, from this block's shared memory and to that of the block `rank`.
__device__ __forceinline__ uint4 read_shared(const uint4* from) {
  unsigned long long low, high;
  asm volatile("ld.relaxed.cluster.shared::cta.v2.b64 {%0, %1}, [%2];"
               : "=l"(low), "=l"(high)
               : "r"((uint32_t)__cvta_generic_to_shared(from))
               : "memory");
  return make_uint4((uint32_t)low, (uint32_t)(low >> 32), (uint32_t)high, (uint32_t)(high >> 32));
}
__device__ __forceinline__ uint32_t of_peer(const void* here, int rank) {
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"((uint32_t)__cvta_generic_to_shared(here)), "r"(rank));
  return there;
}
__device__ __forceinline__ void write_peer(uint32_t there, int offset, uint32_t word) {
  asm volatile("st.relaxed.cluster.shared::cluster.b32 [%0], %1;" ::"r"(there + offset), "r"(word) : "memory");
}
__device__ __forceinline__ void write_peer(uint32_t there, int offset, uint32_t first, uint32_t second) {
  const unsigned long long pair = (unsigned long long)second << 32 | first;
  asm volatile("st.relaxed.cluster.shared::cluster.b64 [%0], %1;" ::"r"(there + offset), "l"(pair) : "memory");
}
using Peer = uint32_t;
__device__ __forceinline__ void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.aligned;\n\tbarrier.cluster.wait.aligned;" ::: "memory");
}
__device__ __forceinline__ void barrier_of(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
__device__ __forceinline__ float once(const float* from) { return __ldcs(from); }
__device__ __forceinline__ void trap() { __trap(); }
__device__ __forceinline__ bool any_of_warp(bool x) { return __any_sync(0xFFFFFFFFu, x); }
__device__ __forceinline__ uint32_t from_lane_xor(uint32_t x, int mask) {
  return __shfl_xor_sync(0xFFFFFFFFu, x, mask);
}
__device__ __forceinline__ uint32_t max_halves(uint32_t x, uint32_t y) {
  uint32_t z;
  asm("max.s16x2 %0, %1, %2;" : "=r"(z) : "r"(x), "r"(y));
  return z;
}
__device__ __forceinline__ uint32_t bfloat16_bits(float x) {
  uint16_t y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ uint32_t float16_bits(float x) {
  uint16_t y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ uint32_t tf32_bits(float x) {
  uint32_t y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return y;
}

#define LSTMJAX_MMA(NAME, KIND)                                                                              \
  __device__ __forceinline__ void NAME(float (&d)[4], const uint4& a, const uint2& b) {                      \
    asm volatile("mma.sync.aligned." KIND " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                            \
                 : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));                              \
  }
LSTMJAX_MMA(mma_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")
LSTMJAX_MMA(mma_f16, "m16n8k16.row.col.f32.f16.f16.f32")
LSTMJAX_MMA(mma_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
#undef LSTMJAX_MMA

// The blocks of a team wait for each other, so all have to be there at once: they are a cluster, or all of the grid is
// launched as one, or there is an error.
template <class Kernel, class Arguments>
const char* start(Kernel kernel, int blocks, int threads, size_t shared, Arguments args, int cluster, void* exchange,
                  size_t bytes, int filling, Stream stream) {
  cudaError_t wrong = cudaSuccess;
  if (bytes) wrong = cudaMemsetAsync(exchange, filling, bytes, stream);
  if (!wrong) wrong = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
  if (!wrong && cluster > 8) wrong = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  cudaLaunchAttribute how[1];
  if (cluster) {
    how[0].id = cudaLaunchAttributeClusterDimension;
    how[0].val.clusterDim = {(unsigned)cluster, 1, 1};
  } else {
    how[0].id = cudaLaunchAttributeCooperative;
    how[0].val.cooperative = 1;
  }
  cudaLaunchConfig_t config{dim3(blocks), dim3(threads), shared, stream, how, 1};
  if (!wrong) wrong = cudaLaunchKernelEx(&config, kernel, args);
  return wrong ? cudaGetErrorString(wrong) : nullptr;
}
#endif

struct Args {
  const float* xw;       // [T, B, 4H]: x w_x + b
  const float* zh0;      // [B, 4H]: h0 w_h
  const void* w_h;       // [H, 4H], in the dtype of the products
  const float* c0;       // [B, H]
  const float* h0;       // [B, H]
  const uint8_t* flags;  // [T, B]: 1 where a step counts, 2 where the state starts anew before it; null: all, the first
  void* hs;              // [T, B, H]: float32, or the dtype of the products if `narrow`
  float* h;              // [B, H]
  float* c;              // [B, H]
  float* a;              // [T, B, 4H]: the four tanh; null: not kept
  float* cs;             // [T, B, H]: c after each step; null: not kept
  const float* dhs;      // [T, B, H]
  const float* dh_in;    // [B, H]
  const float* dc_in;    // [B, H]
  void* dz;              // [T, B, 4H], in the dtype of the products
  float* dh;             // [B, H]: of h0, but for what goes through the products of the first steps
  float* dc;             // [B, H]: of c0
  uint4* exchange;
  int T, B, passes, reverse, hold, narrow;
};

// Bytes of shared memory that a block may have, and registers that a thread may have for weights. Tests make them few.
#ifndef LSTMJAX_SHARED
#define LSTMJAX_SHARED (227 * 1024)
#define LSTMJAX_REGISTERS 100
#endif
constexpr int SHARED = LSTMJAX_SHARED, REGISTERS = LSTMJAX_REGISTERS;
constexpr uint32_t OPEN = 0x41414141;

// --- the dtypes of products ------------------------------------------------------------------------------------------

struct BFloat16 {
  static constexpr bool wide = false;
  static constexpr uint32_t nan_code = 0x3FC0;  // 1.5
  __device__ static uint32_t narrow(float x) { return bfloat16_bits(x); }
  __device__ static uint32_t raw(const void* w, size_t n) { return static_cast<const uint16_t*>(w)[n]; }
  __device__ static void mma(float (&d)[4], const uint4& a, const uint2& b) { mma_bf16(d, a, b); }
};

struct Float16 {
  static constexpr bool wide = false;
  static constexpr uint32_t nan_code = 0x3E00;  // 1.5
  __device__ static uint32_t narrow(float x) { return float16_bits(x); }
  __device__ static uint32_t raw(const void* w, size_t n) { return static_cast<const uint16_t*>(w)[n]; }
  __device__ static void mma(float (&d)[4], const uint4& a, const uint2& b) { mma_f16(d, a, b); }
};

struct TF32 {
  static constexpr bool wide = true;
  static constexpr uint32_t nan_code = 0;
  __device__ static uint32_t narrow(float x) { return tf32_bits(x); }
  __device__ static uint32_t raw(const void* w, size_t n) { return tf32_bits(static_cast<const float*>(w)[n]); }
  __device__ static void mma(float (&d)[4], const uint4& a, const uint2& b) { mma_tf32(d, a, b); }
};

// --- what is handed over ---------------------------------------------------------------------------------------------

// How a kernel is cut.
//   H, JT, MT: units; blocks of 8 of them, and tiles of 16 rows, that a block of threads takes
//   TEAM, CLUSTER: blocks of threads that have all units; whether they are a cluster, and hand over by shared memory
//   WARPS, SQUADS: warps that do a pass together, and how many such squads a block has
//   ONE: whether a squad goes over its rows once in a step, so that the state of a cell stays in registers
template <class E_, bool BACK_, int H_, int JT_, int MT_, int TEAM_, bool CLUSTER_, bool ONE_, int WARPS_, int SQUADS_>
struct Cut {
  using E = E_;
  static constexpr bool BACK = BACK_, CLUSTER = CLUSTER_, ONE = ONE_;
  static constexpr int H = H_, JT = JT_, MT = MT_, TEAM = TEAM_, WARPS = WARPS_, THREADS = 32 * WARPS;
  static constexpr int SQUADS = SQUADS_, ALL = WARPS * SQUADS;
  static constexpr int BLOCKS = TEAM * JT;  // of 8 units; those from H on are padding
  // Tiles of the summed axis. Forward these are units, 16 of them or 8 in TF32; backward the 8 units of a block and two
  // of their gates, or one in TF32.
  static constexpr int TILES = BACK ? BLOCKS * (E::wide ? 4 : 2) : (E::wide ? BLOCKS : BLOCKS / 2);
  static constexpr int COLUMNS = BACK ? JT : 4 * JT;         // tiles of 8 columns
  static constexpr int SHARE = (TILES + WARPS - 1) / WARPS;  // of a warp in the tiles
  static constexpr bool EVEN = TILES % WARPS == 0;
  // Weights stay in registers where they are few enough, and as many tiles are on their way at once as find room.
  static constexpr int WEIGHTS = 2 * SHARE * COLUMNS, SUMS = 4 * MT * COLUMNS;
  static constexpr int SUM_FLOATS = WARPS * MT * COLUMNS * 128;
  // Of the tiles of a warp, those whose weights it holds: all, or what shared memory has no room for.
  static constexpr int FIT = (SHARED - 16384 - 8 * SQUADS * SUM_FLOATS) / (WARPS * COLUMNS * 256);
  static constexpr int HELD = WEIGHTS <= (ALL > 8 ? 40 : REGISTERS) ? SHARE : SHARE > FIT ? SHARE - FIT : 0;
  static constexpr int LEFT = TILES > HELD * WARPS ? TILES - HELD * WARPS : 0;
  static constexpr int ROOM =
      (ALL > 12 ? 128 : ALL > 8 ? 168 : 250) - 84 - SUMS - 2 * HELD * COLUMNS - (LEFT ? 16 : 0);
  static constexpr bool WHOLE = 4 * MT * SHARE <= ROOM;
  static constexpr int AHEAD = WHOLE ? SHARE : ROOM / (8 * MT) > 0 ? ROOM / (8 * MT) : 1;
  static constexpr int LOTS = (SHARE + AHEAD - 1) / AHEAD;
  static constexpr int CELLS = MT * JT * 128, MINE = (CELLS + THREADS - 1) / THREADS;
  static constexpr int SLOT = TILES * MT * 32;  // in units of 16 bytes
  __host__ __device__ static size_t shared(int passes) {
    return (size_t)256 * LEFT * COLUMNS + 8 * SQUADS * SUM_FLOATS +
           (ONE ? 0 : (size_t)12 * passes * CELLS) + (CLUSTER ? (size_t)32 * passes * SLOT : 0);
  }
};

// Which squad a thread is in, and its number there.
template <class K>
__device__ __forceinline__ int squad_of() {
  return K::SQUADS == 1 ? 0 : threadIdx.x / K::THREADS;
}
template <class K>
__device__ __forceinline__ int thread_of() {
  return K::SQUADS == 1 ? threadIdx.x : threadIdx.x % K::THREADS;
}

// All threads of the squad are here.
template <class K>
__device__ __forceinline__ void squad_barrier() {
  if (K::SQUADS == 1)
    __syncthreads();
  else
    barrier_of(1 + squad_of<K>(), K::THREADS);
}

// The bits of a word that turn over.
template <class K>
__device__ __forceinline__ uint32_t turned(int s) {
  return s & 2 ? (K::E::wide || K::BACK ? 1u : 0x40004000u) : 0u;
}

// Not 0 where any word is that of an earlier turn.
template <class K>
__device__ __forceinline__ uint32_t stale(const uint4& v, uint32_t turn) {
  if (K::E::wide) return ((v.x ^ turn) | (v.y ^ turn) | (v.z ^ turn) | (v.w ^ turn)) & 1u;
  if (K::BACK) return ((v.x ^ turn) | (v.z ^ turn)) & 1u;
  return ((v.x ^ turn) | (v.y ^ turn) | (v.z ^ turn) | (v.w ^ turn)) & 0x40000000u;
}

// As the matrix units take it. Backward in 16 bits a pair of words is one row, so the middle two change places.
template <class K>
__device__ __forceinline__ uint4 operand(const uint4& v, uint32_t turn) {
  if (K::E::wide) return make_uint4(v.x & ~1u, v.y & ~1u, v.z & ~1u, v.w & ~1u);
  if (K::BACK) return make_uint4(v.x, v.z, v.y, v.w);
  return make_uint4(v.x ^ turn, v.y ^ turn, v.z ^ turn, v.w ^ turn);
}

// Tiles on their way: one lot, or while one is multiplied the next.
template <class K>
struct Ahead {
  uint4 tile[K::LOTS > 1 ? 2 : 1][K::AHEAD][K::MT];
};

template <class K>
__device__ __forceinline__ bool has(int i, int warp) {
  return i + 1 < K::SHARE || K::EVEN ? i < K::SHARE : i < K::SHARE && i * K::WARPS + warp < K::TILES;
}

template <class K>
__device__ __forceinline__ const uint4* tile_of(const uint4* x, int i, int m, int warp, int lane) {
  return x + ((i * K::WARPS + warp) * K::MT + m) * 32 + lane;
}

template <class K>
__device__ __forceinline__ void fetch(Ahead<K>& v, const uint4* x, int lot, int warp, int lane) {
#pragma unroll
  for (int i = 0; i < K::AHEAD; i++)
#pragma unroll
    for (int m = 0; m < K::MT; m++)
      if (has<K>(lot * K::AHEAD + i, warp)) {
        const uint4* from = tile_of<K>(x, lot * K::AHEAD + i, m, warp, lane);
        v.tile[lot & 1][i][m] = K::CLUSTER ? read_shared(from) : read_through(from);
      }
}

// The weights of this thread: in registers, or where they are in shared memory.
template <class K>
struct Weights {
  uint2 held[K::HELD ? K::HELD : 1][K::COLUMNS];
  const uint2* shared;
  __device__ __forceinline__ uint2 at(int i, int k, int warp, int lane) const {
    return i < K::HELD ? held[i < K::HELD ? i : 0][k]
                       : shared[(((i - K::HELD) * K::WARPS + warp) * K::COLUMNS + k) * 32 + lane];
  }
};

// The sum over this warp's tiles of what was handed over times the weights, left in `sums`. The first lot is fetched.
template <class K>
__device__ __forceinline__ void product(float* sums, Ahead<K>& v, const uint4* x, const Weights<K>& weights,
                                        uint32_t turn, int warp, int lane) {
  constexpr int MT = K::MT, NT = K::COLUMNS;
  float acc[MT][NT][4];
  uint32_t most[MT][2];
#pragma unroll
  for (int m = 0; m < MT; m++) {
    most[m][0] = most[m][1] = 0;
#pragma unroll
    for (int k = 0; k < NT; k++)
#pragma unroll
      for (int e = 0; e < 4; e++) acc[m][k][e] = 0.0f;
  }
#pragma unroll
  for (int lot = 0; lot < K::LOTS; lot++) {
    if (lot + 1 < K::LOTS) fetch<K>(v, x, lot + 1, warp, lane);
    auto& tile = v.tile[lot & 1];
    for (uint32_t tries = 0;; tries++) {
      uint32_t wrong = 0;
#pragma unroll
      for (int i = 0; i < K::AHEAD; i++)
#pragma unroll
        for (int m = 0; m < MT; m++)
          if (has<K>(lot * K::AHEAD + i, warp)) wrong |= stale<K>(tile[i][m], turn);
      if (!wrong) break;
      if (tries > (1u << 24)) trap();  // seconds: a fault, not a wait
#pragma unroll
      for (int i = 0; i < K::AHEAD; i++)
#pragma unroll
        for (int m = 0; m < MT; m++)
          if (has<K>(lot * K::AHEAD + i, warp)) {
            const uint4* from = tile_of<K>(x, lot * K::AHEAD + i, m, warp, lane);
            if (K::CLUSTER)
              tile[i][m] = read_shared(from);
            else
              read_again(tile[i][m], from, stale<K>(tile[i][m], turn));
          }
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < K::AHEAD; i++) {
      if (has<K>(lot * K::AHEAD + i, warp)) {
        uint4 u[MT];
#pragma unroll
        for (int m = 0; m < MT; m++) {
          u[m] = operand<K>(tile[i][m], turn);
          if (!K::E::wide && !K::BACK) {
            most[m][0] = max_halves(max_halves(most[m][0], u[m].x), u[m].z);
            most[m][1] = max_halves(max_halves(most[m][1], u[m].y), u[m].w);
          }
        }
#pragma unroll
        for (int k = 0; k < NT; k++) {
          const uint2 b = weights.at(lot * K::AHEAD + i, k, warp, lane);
#pragma unroll
          for (int m = 0; m < MT; m++) K::E::mma(acc[m][k], u[m], b);
        }
      }
    }
  }
  if (!K::E::wide && !K::BACK) {
    // Rows in which a NaN has come become NaN, which times 0 is NaN.
    bool bad = false;
    uint32_t rows[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const uint32_t code = K::E::nan_code;
        rows[m][r] = (most[m][r] & 0xFFFFu) == code || (most[m][r] >> 16) == code ? 0x7FFF7FFFu : 0u;
        bad = bad || rows[m][r];
      }
    if (any_of_warp(bad)) {
#pragma unroll
      for (int m = 0; m < MT; m++)
#pragma unroll
        for (int k = 0; k < NT; k++) K::E::mma(acc[m][k], make_uint4(rows[m][0], rows[m][1], 0, 0), make_uint2(0, 0));
    }
  }
  float4* out = reinterpret_cast<float4*>(sums) + warp * MT * NT * 32 + lane;
#pragma unroll
  for (int m = 0; m < MT; m++)
#pragma unroll
    for (int k = 0; k < NT; k++)
      out[(m * NT + k) * 32] = make_float4(acc[m][k][0], acc[m][k][1], acc[m][k][2], acc[m][k][3]);
}

// --- the parts of a step ---------------------------------------------------------------------------------------------

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

// To a few units of roundoff, near 0 too.
__device__ __forceinline__ float tanh_of(float x) {
  const float y = x * x;
  const float near = x * (1.0f + y * (-1.0f / 3 + y * (2.0f / 15 + y * (-17.0f / 315 + y * (62.0f / 2835)))));
  const float far = 1.0f - __fdividef(2.0f, 1.0f + __expf(2.0f * x));
  return y < 0.09f ? near : far;
}

// This block's part of w_h, as the matrix units take it: the two words of a lane for a tile and a tile of columns.
template <class K>
__device__ uint2 weight_of(const void* w_h, int member, int tile, int k, int lane) {
  constexpr int H = K::H;
  const int g = lane >> 2, t = lane & 3;
  auto at = [&](int row, int gate, int column) -> uint32_t {
    return row < H && column < H ? K::E::raw(w_h, (size_t)row * 4 * H + gate * H + column) : 0u;
  };
  if (K::BACK) {
    const int unit = (member * K::JT + k) * 8 + g;
    if (K::E::wide) {
      const int other = (tile >> 2) * 8 + 2 * t, gate = tile & 3;
      return make_uint2(at(unit, gate, other), at(unit, gate, other + 1));
    }
    const int other = (tile >> 1) * 8 + 2 * t, gate = 2 * (tile & 1);
    return make_uint2(at(unit, gate, other) | at(unit, gate, other + 1) << 16,
                      at(unit, gate + 1, other) | at(unit, gate + 1, other + 1) << 16);
  }
  const int unit = (member * K::JT + (k >> 2)) * 8 + g, gate = k & 3;
  if (K::E::wide) {
    const int other = tile * 8 + 2 * t;
    return make_uint2(at(other, gate, unit), at(other + 1, gate, unit));
  }
  const int other = tile * 16 + 2 * t;
  return make_uint2(at(other, gate, unit) | at(other + 1, gate, unit) << 16,
                    at(other + 8, gate, unit) | at(other + 9, gate, unit) << 16);
}

template <class K>
__device__ __forceinline__ void fill(Weights<K>& weights, uint2* shared, const void* w_h, int member, int warp,
                                     int lane) {
#pragma unroll
  for (int i = 0; i < K::HELD; i++)
#pragma unroll
    for (int k = 0; k < K::COLUMNS; k++)
      weights.held[i][k] =
          has<K>(i, warp) ? weight_of<K>(w_h, member, i * K::WARPS + warp, k, lane) : make_uint2(0, 0);
  weights.shared = shared;
#pragma unroll 4
  for (int n = threadIdx.x >> 5; n < K::LEFT * K::COLUMNS; n += K::ALL)
    shared[n * 32 + lane] = weight_of<K>(w_h, member, K::HELD * K::WARPS + n / K::COLUMNS, n % K::COLUMNS, lane);
}

// A cell that a thread has: where it is among the sums, and whose.
template <class K>
struct Cell {
  int tile, j, lane, e;  // tile of rows and block of units, that block alone, lane and number within its four sums
  int row, unit;         // of the first pass
  bool there;
  __device__ Cell(int i, int group, int passes, int member) {
    const int q = thread_of<K>() + i * K::THREADS;
    there = K::CELLS % K::THREADS == 0 || q < K::CELLS;
    tile = q >> 7;
    j = tile % K::JT;
    lane = (q & 127) >> 2;
    e = q & 3;
    row = group * passes * 16 * K::MT + tile / K::JT * 16 + (lane >> 2) + 8 * (e >> 1);
    unit = (member * K::JT + j) * 8 + 2 * (lane & 3) + (e & 1);
  }
  // Where its first sum is, and that of the same gate of another warp SUM_FLOATS / WARPS further.
  __device__ int sum() const { return (tile / K::JT * K::COLUMNS + (K::BACK ? j : 4 * j)) * 128 + lane * 4 + e; }
};

// Where the blocks of a team hand over: two slots for each pass, in memory, or in the shared memory of each.
template <class K>
struct Exchange {
  uint4* base;
  int passes;
  Peer peers[K::CLUSTER ? K::TEAM : 1];
  __device__ Exchange(const Args& p, char* shared, int group) : passes(K::ONE ? K::SQUADS : p.passes) {
    base = K::CLUSTER ? reinterpret_cast<uint4*>(shared) : p.exchange + (size_t)group * 2 * passes * K::SLOT;
    if (K::CLUSTER) {
      // Every bit that turns over begins as that of the turn before the first.
      for (int n = threadIdx.x; n < 2 * passes * K::SLOT; n += 32 * K::ALL)
        base[n] = make_uint4(OPEN, OPEN, OPEN, OPEN);
#pragma unroll
      for (int rank = 0; rank < K::TEAM; rank++) peers[K::CLUSTER ? rank : 0] = of_peer(base, rank);
      cluster_barrier();
    }
  }
  __device__ __forceinline__ int place(int s, int n) const {
    return ((s & 1) * (K::ONE ? K::SQUADS : passes) + n) * K::SLOT;
  }
  __device__ __forceinline__ const uint4* slot(int s, int n) const { return base + place(s, n); }
  // `word` counts words of 4 bytes within a slot.
  template <class... Words>
  __device__ __forceinline__ void write(int s, int n, int word, Words... words) const {
    if (K::CLUSTER) {
#pragma unroll
      for (int rank = 0; rank < K::TEAM; rank++)
        write_peer(peers[K::CLUSTER ? rank : 0], place(s, n) * 16 + word * 4, words...);
    } else {
      write_through(reinterpret_cast<uint32_t*>(base + place(s, n)) + word, words...);
    }
  }
  // Nobody leaves while others may write into its memory.
  __device__ void close() const {
    if (K::CLUSTER) cluster_barrier();
  }
};

// What a cell keeps from step to step: in registers, or where there are several passes in shared memory.
template <class K>
struct State {
  float mine[K::MINE][3];
  float* shared;
  __device__ __forceinline__ float get(int n, int i, int k) const {
    return K::ONE ? mine[i][k] : shared[(n * 3 + k) * K::CELLS + thread_of<K>() + i * K::THREADS];
  }
  __device__ __forceinline__ void set(int n, int i, int k, float x) {
    if (K::ONE)
      mine[i][k] = x;
    else
      shared[(n * 3 + k) * K::CELLS + thread_of<K>() + i * K::THREADS] = x;
  }
};

template <class E>
__device__ __forceinline__ void store(void* to, size_t n, float value, bool narrow) {
  if (narrow && !E::wide)
    static_cast<uint16_t*>(to)[n] = (uint16_t)E::narrow(value);
  else
    static_cast<float*>(to)[n] = value;
}

template <class K>
__global__ void __launch_bounds__(32 * K::ALL, 1) forward(const Args p) {
  using E = typename K::E;
  constexpr int H = K::H, MT = K::MT, MINE = K::MINE;
  const int squad = squad_of<K>(), warp = thread_of<K>() >> 5, lane = threadIdx.x & 31;
  const int group = blockIdx.x / K::TEAM, member = blockIdx.x % K::TEAM;
  const int B = p.B, T = p.T, passes = K::ONE ? K::SQUADS : p.passes;
  char* memory = shared_memory();
  uint2* shared_weights = reinterpret_cast<uint2*>(memory);
  float* sums = reinterpret_cast<float*>(memory + 256 * K::LEFT * K::COLUMNS);
  State<K> state;  // c, h, and h as the product sees it: 0 before a sequence begins
  state.shared = sums + 2 * K::SQUADS * K::SUM_FLOATS;
  const Exchange<K> exchange(p, reinterpret_cast<char*>(state.shared + (K::ONE ? 0 : 3 * passes * K::CELLS)), group);
  Weights<K> weights;
  fill<K>(weights, shared_weights, p.w_h, member, warp, lane);
  sums += 2 * squad * K::SUM_FLOATS;

  for (int n = squad; n < passes; n += K::SQUADS)
#pragma unroll
    for (int i = 0; i < MINE; i++) {
      const Cell<K> cell(i, group, passes, member);
      if (!cell.there) continue;
      const int row = cell.row + n * 16 * MT;
      const bool real = row < B && cell.unit < H;
      state.set(n, i, 0, real ? p.c0[(size_t)row * H + cell.unit] : 0.0f);
      state.set(n, i, 1, real ? p.h0[(size_t)row * H + cell.unit] : 0.0f);
      state.set(n, i, 2, 0.0f);
    }
  __syncthreads();

  float ahead[MINE][4];
  int flags_ahead[MINE][2];  // of the step, and of the one after it
  auto prefetch = [&](int s, int n) {
    const int t = p.reverse ? T - 1 - s : s;
#pragma unroll
    for (int i = 0; i < MINE; i++) {
      const Cell<K> cell(i, group, passes, member);
      const int row = cell.row + n * 16 * MT;
      const bool real = cell.there && row < B && cell.unit < H;
      const float* xw = p.xw + ((size_t)t * B + row) * (4 * H) + cell.unit;
#pragma unroll
      for (int k = 0; k < 4; k++) ahead[i][k] = real ? once(xw + k * H) : 0.0f;
      flags_ahead[i][0] = s == 0 ? 3 : 1;
      flags_ahead[i][1] = 1;
      if (p.flags) {
        const uint8_t* flag = p.flags + (size_t)t * B + row;
        if (real) flags_ahead[i][0] = *flag;
        if (real && s + 1 < T) flags_ahead[i][1] = flag[p.reverse ? -B : B];
      }
    }
  };

  prefetch(0, squad);
  Ahead<K> v;
  int side = 0;
  for (int s = 0; s < T; s++) {
    const int t = p.reverse ? T - 1 - s : s;
    for (int n = squad; n < passes; n += K::SQUADS) {
      const bool last = K::ONE || n + K::SQUADS >= passes, end = last && s + 1 == T;
      float* sum = sums + side;
      side = K::SUM_FLOATS - side;
      float z[MINE][4];
      int flags[MINE][2];
#pragma unroll
      for (int i = 0; i < MINE; i++) {
#pragma unroll
        for (int k = 0; k < 4; k++) z[i][k] = ahead[i][k];
        flags[i][0] = flags_ahead[i][0];
        flags[i][1] = flags_ahead[i][1];
      }
      if (!end) prefetch(last ? s + 1 : s, last ? squad : n + K::SQUADS);
      if (s > 0) product<K>(sum, v, exchange.slot(s - 1, n), weights, turned<K>(s - 1), warp, lane);
      // What the next pass takes was written a pass ago or more.
      if (!K::ONE && !end && (s > 0 || last))
        fetch<K>(v, exchange.slot(last ? s : s - 1, last ? squad : n + K::SQUADS), 0, warp, lane);
      squad_barrier<K>();

      float y[MINE], gates[MINE][4], c_kept[MINE];
#pragma unroll
      for (int i = 0; i < MINE; i++) {
        const Cell<K> cell(i, group, passes, member);
        if (!cell.there) continue;
        const int row = cell.row + n * 16 * MT;
        if (s > 0) {
          const float* part = sum + cell.sum();
#pragma unroll
          for (int w = 0; w < K::WARPS; w++)
#pragma unroll
            for (int k = 0; k < 4; k++) z[i][k] += part[w * (K::SUM_FLOATS / K::WARPS) + k * 128];
        }
        float c = state.get(n, i, 0);
        if ((flags[i][0] & 2) && row < B && cell.unit < H) {
          const float* first = p.zh0 + (size_t)row * 4 * H + cell.unit;
#pragma unroll
          for (int k = 0; k < 4; k++) z[i][k] += first[k * H];
          c = p.c0[(size_t)row * H + cell.unit];
        }
        const float gi = sigmoid(z[i][0]), gf = sigmoid(z[i][1]), gg = tanh_of(z[i][2]), go = sigmoid(z[i][3]);
        c = gf * c + gi * gg;
        const float h = go * tanh_of(c);
        float seen = h;
        y[i] = h;
        if (flags[i][0] & 1) {
          state.set(n, i, 0, c);
          state.set(n, i, 1, h);
          if (p.flags) state.set(n, i, 2, h);
        } else {
          c = state.get(n, i, 0);
          y[i] = p.hold ? state.get(n, i, 1) : 0.0f;
          seen = state.get(n, i, 2);
        }
        if (flags[i][1] & 2) seen = 0.0f;
        if (s + 1 < T) {
          const int block = member * K::JT + cell.j, m = cell.tile / K::JT;
          const uint32_t turn = turned<K>(s);
          if (E::wide) {
            const int word = (cell.e >> 1) + 2 * (cell.e & 1);
            exchange.write(s, n, ((block * MT + m) * 32 + cell.lane) * 4 + word, (E::narrow(seen) & ~1u) | turn);
          } else {
            const uint32_t mine = seen == seen ? E::narrow(seen) : E::nan_code;
            const uint32_t other = from_lane_xor(mine, 1);
            const int word = (block & 1) * 2 + (cell.e >> 1);
            if (!(cell.e & 1))
              exchange.write(s, n, (((block >> 1) * MT + m) * 32 + cell.lane) * 4 + word, (mine | other << 16) ^ turn);
          }
        }
        gates[i][0] = gi;
        gates[i][1] = gf;
        gates[i][2] = gg;
        gates[i][3] = go;
        c_kept[i] = c;
      }
      if (K::ONE && !end) fetch<K>(v, exchange.slot(s, squad), 0, warp, lane);
#pragma unroll
      for (int i = 0; i < MINE; i++) {
        const Cell<K> cell(i, group, passes, member);
        const int row = cell.row + n * 16 * MT;
        if (!cell.there || row >= B || cell.unit >= H) continue;
        const size_t at = (size_t)t * B + row;
        store<E>(p.hs, at * H + cell.unit, y[i], p.narrow);
        if (p.a) {
          float* a = p.a + at * (4 * H) + cell.unit;
          a[0] = 2 * gates[i][0] - 1;
          a[H] = 2 * gates[i][1] - 1;
          a[2 * H] = gates[i][2];
          a[3 * H] = 2 * gates[i][3] - 1;
          p.cs[at * H + cell.unit] = c_kept[i];
        }
      }
    }
  }
  for (int n = squad; n < passes; n += K::SQUADS)
#pragma unroll
    for (int i = 0; i < MINE; i++) {
      const Cell<K> cell(i, group, passes, member);
      const int row = cell.row + n * 16 * MT;
      if (!cell.there || row >= B || cell.unit >= H) continue;
      p.c[(size_t)row * H + cell.unit] = state.get(n, i, 0);
      p.h[(size_t)row * H + cell.unit] = state.get(n, i, 1);
    }
  exchange.close();
}

template <class K>
__global__ void __launch_bounds__(32 * K::ALL, 1) backward(const Args p) {
  using E = typename K::E;
  constexpr int H = K::H, MT = K::MT, MINE = K::MINE;
  const int squad = squad_of<K>(), warp = thread_of<K>() >> 5, lane = threadIdx.x & 31;
  const int group = blockIdx.x / K::TEAM, member = blockIdx.x % K::TEAM;
  const int B = p.B, T = p.T, passes = K::ONE ? K::SQUADS : p.passes;
  char* memory = shared_memory();
  uint2* shared_weights = reinterpret_cast<uint2*>(memory);
  float* sums = reinterpret_cast<float*>(memory + 256 * K::LEFT * K::COLUMNS);
  State<K> state;  // dc, what of dh goes past a step that does not count, and what of dc has reached c0
  state.shared = sums + 2 * K::SQUADS * K::SUM_FLOATS;
  const Exchange<K> exchange(p, reinterpret_cast<char*>(state.shared + (K::ONE ? 0 : 3 * passes * K::CELLS)), group);
  Weights<K> weights;
  fill<K>(weights, shared_weights, p.w_h, member, warp, lane);
  sums += 2 * squad * K::SUM_FLOATS;

  for (int n = squad; n < passes; n += K::SQUADS)
#pragma unroll
    for (int i = 0; i < MINE; i++) {
      const Cell<K> cell(i, group, passes, member);
      if (!cell.there) continue;
      const int row = cell.row + n * 16 * MT;
      const bool real = row < B && cell.unit < H;
      state.set(n, i, 0, real ? p.dc_in[(size_t)row * H + cell.unit] : 0.0f);
      state.set(n, i, 1, real ? p.dh_in[(size_t)row * H + cell.unit] : 0.0f);
      state.set(n, i, 2, 0.0f);
    }
  __syncthreads();

  float ahead[MINE][7];  // the four tanh, c after and before the step, dy
  int flags_ahead[MINE];
  auto prefetch = [&](int s, int n) {
    const int t = p.reverse ? s : T - 1 - s;
#pragma unroll
    for (int i = 0; i < MINE; i++) {
      const Cell<K> cell(i, group, passes, member);
      const int row = cell.row + n * 16 * MT;
      const bool real = cell.there && row < B && cell.unit < H;
      const size_t at = (size_t)t * B + row;
      flags_ahead[i] = s + 1 == T ? 3 : 1;
      if (p.flags && real) flags_ahead[i] = p.flags[at];
      const bool start = s + 1 == T || (flags_ahead[i] & 2);
      const float* c = p.cs + at * H + cell.unit;
      const float* c_before = start       ? p.c0 + (size_t)row * H + cell.unit
                              : p.reverse ? c + (size_t)B * H
                                          : c - (size_t)B * H;
#pragma unroll
      for (int k = 0; k < 4; k++) ahead[i][k] = real ? once(p.a + at * (4 * H) + k * H + cell.unit) : 0.0f;
      ahead[i][4] = real ? once(c) : 0.0f;
      ahead[i][5] = real ? once(c_before) : 0.0f;
      ahead[i][6] = real ? once(p.dhs + at * H + cell.unit) : 0.0f;
    }
  };

  prefetch(0, squad);
  Ahead<K> v;
  int side = 0;
  for (int s = 0; s < T; s++) {
    const int t = p.reverse ? s : T - 1 - s;
    for (int n = squad; n < passes; n += K::SQUADS) {
      const bool last = K::ONE || n + K::SQUADS >= passes, end = last && s + 1 == T;
      float* sum = sums + side;
      side = K::SUM_FLOATS - side;
      // All that does not wait for dh.
      float slope[MINE][4], c_slope[MINE], dy[MINE], gf[MINE];
      int flags[MINE];
#pragma unroll
      for (int i = 0; i < MINE; i++) {
        const float ai = ahead[i][0], af = ahead[i][1], gg = ahead[i][2], ao = ahead[i][3];
        const float tanh_c = tanh_of(ahead[i][4]);
        gf[i] = 0.5f * af + 0.5f;
        slope[i][0] = 0.25f * gg * (1 - ai * ai);
        slope[i][1] = 0.25f * ahead[i][5] * (1 - af * af);
        slope[i][2] = (0.5f * ai + 0.5f) * (1 - gg * gg);
        slope[i][3] = 0.25f * tanh_c * (1 - ao * ao);
        c_slope[i] = (0.5f * ao + 0.5f) * (1 - tanh_c * tanh_c);
        dy[i] = ahead[i][6];
        flags[i] = flags_ahead[i];
      }
      if (!end) prefetch(last ? s + 1 : s, last ? squad : n + K::SQUADS);
      if (s > 0) product<K>(sum, v, exchange.slot(s - 1, n), weights, turned<K>(s - 1), warp, lane);
      // What the next pass takes was written a pass ago or more.
      if (!K::ONE && !end && (s > 0 || last))
        fetch<K>(v, exchange.slot(last ? s : s - 1, last ? squad : n + K::SQUADS), 0, warp, lane);
      squad_barrier<K>();

      float dz[MINE][4];
#pragma unroll
      for (int i = 0; i < MINE; i++) {
        const Cell<K> cell(i, group, passes, member);
        if (!cell.there) continue;
        float dh = state.get(n, i, 1);
        if (s > 0) {
          const float* part = sum + cell.sum();
#pragma unroll
          for (int w = 0; w < K::WARPS; w++) dh += part[w * (K::SUM_FLOATS / K::WARPS)];
        }
        const float before = dh;
        dh += dy[i];
        const float dc = state.get(n, i, 0) + dh * c_slope[i];
        const bool counts = flags[i] & 1, first = flags[i] & 2;
#pragma unroll
        for (int k = 0; k < 4; k++) dz[i][k] = counts ? (k == 3 ? dh : dc) * slope[i][k] : 0.0f;
        if (counts) {
          state.set(n, i, 1, 0.0f);
          state.set(n, i, 0, first ? 0.0f : dc * gf[i]);
          if (first) state.set(n, i, 2, state.get(n, i, 2) + dc * gf[i]);
        } else {
          state.set(n, i, 1, before);
        }
        if (s + 1 < T) {
          const int block = member * K::JT + cell.j, m = cell.tile / K::JT;
          const uint32_t turn = turned<K>(s);
          // Past the first step of a sequence nothing goes on.
          uint32_t words[4];
#pragma unroll
          for (int k = 0; k < 4; k++) words[k] = first ? 0u : E::narrow(dz[i][k]);
          if (E::wide) {
            const int word = (cell.e >> 1) + 2 * (cell.e & 1);
#pragma unroll
            for (int k = 0; k < 4; k++)
              exchange.write(s, n, (((block * 4 + k) * MT + m) * 32 + cell.lane) * 4 + word, (words[k] & ~1u) | turn);
          } else {
            // An even thread packs the gates i and f of two units, the odd one beside it g and o.
            const bool odd = cell.e & 1;
            const uint32_t got = from_lane_xor(odd ? words[0] | words[1] << 16 : words[2] | words[3] << 16, 1);
            const uint32_t mine = odd ? words[2] | words[3] << 16 : words[0] | words[1] << 16;
            const uint32_t left = odd ? got : mine, right = odd ? mine : got;
            const uint32_t one = (left & 0xFFFFu) | right << 16, two = left >> 16 | (right & 0xFFFF0000u);
            exchange.write(s, n, (((block * 2 + odd) * MT + m) * 32 + cell.lane) * 4 + 2 * (cell.e >> 1),
                           (one & ~1u) | turn, two);
          }
        }
      }
      if (K::ONE && !end) fetch<K>(v, exchange.slot(s, squad), 0, warp, lane);
#pragma unroll
      for (int i = 0; i < MINE; i++) {
        const Cell<K> cell(i, group, passes, member);
        const int row = cell.row + n * 16 * MT;
        if (!cell.there || row >= B || cell.unit >= H) continue;
        const size_t at = ((size_t)t * B + row) * (4 * H) + cell.unit;
#pragma unroll
        for (int k = 0; k < 4; k++) store<E>(p.dz, at + k * H, dz[i][k], true);
      }
    }
  }
  for (int n = squad; n < passes; n += K::SQUADS)
#pragma unroll
    for (int i = 0; i < MINE; i++) {
      const Cell<K> cell(i, group, passes, member);
      const int row = cell.row + n * 16 * MT;
      if (!cell.there || row >= B || cell.unit >= H) continue;
      p.dc[(size_t)row * H + cell.unit] = state.get(n, i, 2) + state.get(n, i, 0);
      p.dh[(size_t)row * H + cell.unit] = state.get(n, i, 1);
    }
  exchange.close();
}

// --- the call --------------------------------------------------------------------------------------------------------

struct Asked {
  ffi::DataType dtype;
  int H, units, rows, team, cluster, warps, squads, groups;
  size_t exchange_bytes;
};

template <class K>
ffi::Error launch(const Args& p, const Asked& asked, Stream stream) {
  const size_t needed = K::CLUSTER ? 0 : (size_t)32 * asked.groups * p.passes * K::SLOT;
  if (asked.exchange_bytes < needed) return ffi::Error(ffi::ErrorCode::kInvalidArgument, "the exchange is too small");
  void (*kernel)(const Args);
  if constexpr (K::BACK)
    kernel = backward<K>;
  else
    kernel = forward<K>;
  // Every bit that turns over begins as that of the turn before the first.
  const char* wrong = start(kernel, asked.groups * K::TEAM, 32 * K::ALL, K::shared(p.passes), p,
                            K::CLUSTER ? K::TEAM : 0, p.exchange, needed, OPEN & 0xFF, stream);
  return wrong ? ffi::Error(ffi::ErrorCode::kInternal, std::string("the LSTM kernel did not start: ") + wrong)
               : ffi::Error::Success();
}

// Which kernels this library has, a line of LSTMJAX_KERNEL(...) each, is written for the compiler.
template <bool BACK>
ffi::Error choose(const Args& p, const Asked& asked, Stream stream) {
#define LSTMJAX_KERNEL(BACKWARD, TYPE, E, H_, JT, MT, TEAM, CLUSTER, ONE, WARPS, SQUADS)                     \
  if (BACK == BACKWARD && asked.dtype == ffi::DataType::TYPE && asked.H == H_ && asked.units == JT &&        \
      asked.rows == MT && asked.team == TEAM && !asked.cluster == !CLUSTER && (p.passes == SQUADS) == ONE && \
      asked.warps == WARPS && asked.squads == SQUADS)                                                        \
    return launch<Cut<E, BACKWARD, H_, JT, MT, TEAM, CLUSTER, ONE, WARPS, SQUADS>>(p, asked, stream);
#include "kernels.inc"
  return ffi::Error(ffi::ErrorCode::kInvalidArgument, "this library has no such kernel");
}

template <class T>
T* data(ffi::AnyBuffer buffer) {
  return buffer.element_count() ? static_cast<T*>(buffer.untyped_data()) : nullptr;
}

template <class T>
T* data(ffi::Result<ffi::AnyBuffer>& buffer) {
  return data<T>(*buffer);
}

static Args args_of(ffi::AnyBuffer rows, int32_t passes, int32_t reverse) {
  Args p{};
  p.T = (int)rows.dimensions()[0];
  p.B = (int)rows.dimensions()[1];
  p.passes = passes;
  p.reverse = reverse;
  return p;
}

static ffi::Error forward_call(Stream stream, ffi::AnyBuffer xw, ffi::AnyBuffer zh0, ffi::AnyBuffer w_h,
                               ffi::AnyBuffer h0, ffi::AnyBuffer c0, ffi::AnyBuffer flags,
                               ffi::Result<ffi::AnyBuffer> hs, ffi::Result<ffi::AnyBuffer> h,
                               ffi::Result<ffi::AnyBuffer> c, ffi::Result<ffi::AnyBuffer> a,
                               ffi::Result<ffi::AnyBuffer> cs, ffi::Result<ffi::AnyBuffer> exchange, int32_t units,
                               int32_t rows, int32_t team, int32_t cluster, int32_t warps, int32_t squads,
                               int32_t groups, int32_t passes, int32_t reverse, int32_t hold) {
  Args p = args_of(xw, passes, reverse);
  p.hold = hold;
  p.narrow = hs->element_type() != ffi::DataType::F32;
  p.xw = data<float>(xw);
  p.zh0 = data<float>(zh0);
  p.w_h = w_h.untyped_data();
  p.h0 = data<float>(h0);
  p.c0 = data<float>(c0);
  p.flags = data<uint8_t>(flags);
  p.hs = hs->untyped_data();
  p.h = data<float>(h);
  p.c = data<float>(c);
  p.a = data<float>(a);
  p.cs = data<float>(cs);
  p.exchange = data<uint4>(exchange);
  const Asked asked{w_h.element_type(),    (int)w_h.dimensions()[0], units, rows, team, cluster, warps, squads,
                    groups, exchange->size_bytes()};
  return choose<false>(p, asked, stream);
}

static ffi::Error backward_call(Stream stream, ffi::AnyBuffer dhs, ffi::AnyBuffer dh_in, ffi::AnyBuffer dc_in,
                                ffi::AnyBuffer w_h, ffi::AnyBuffer c0, ffi::AnyBuffer a, ffi::AnyBuffer cs,
                                ffi::AnyBuffer flags, ffi::Result<ffi::AnyBuffer> dz, ffi::Result<ffi::AnyBuffer> dh,
                                ffi::Result<ffi::AnyBuffer> dc, ffi::Result<ffi::AnyBuffer> exchange, int32_t units,
                                int32_t rows, int32_t team, int32_t cluster, int32_t warps, int32_t squads,
                                int32_t groups, int32_t passes, int32_t reverse) {
  Args p = args_of(dhs, passes, reverse);
  p.dhs = data<float>(dhs);
  p.dh_in = data<float>(dh_in);
  p.dc_in = data<float>(dc_in);
  p.w_h = w_h.untyped_data();
  p.c0 = data<float>(c0);
  p.a = data<float>(a);
  p.cs = data<float>(cs);
  p.flags = data<uint8_t>(flags);
  p.dz = dz->untyped_data();
  p.dh = data<float>(dh);
  p.dc = data<float>(dc);
  p.exchange = data<uint4>(exchange);
  const Asked asked{w_h.element_type(),    (int)w_h.dimensions()[0], units, rows, team, cluster, warps, squads,
                    groups, exchange->size_bytes()};
  return choose<true>(p, asked, stream);
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(lstmjax_forward, forward_call,
                              ffi::Ffi::Bind()
                                  .LSTMJAX_STREAM()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int32_t>("units")
                                  .Attr<int32_t>("rows")
                                  .Attr<int32_t>("team")
                                  .Attr<int32_t>("cluster")
                                  .Attr<int32_t>("warps")
                                  .Attr<int32_t>("squads")
                                  .Attr<int32_t>("groups")
                                  .Attr<int32_t>("passes")
                                  .Attr<int32_t>("reverse")
                                  .Attr<int32_t>("hold"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(lstmjax_backward, backward_call,
                              ffi::Ffi::Bind()
                                  .LSTMJAX_STREAM()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int32_t>("units")
                                  .Attr<int32_t>("rows")
                                  .Attr<int32_t>("team")
                                  .Attr<int32_t>("cluster")
                                  .Attr<int32_t>("warps")
                                  .Attr<int32_t>("squads")
                                  .Attr<int32_t>("groups")
                                  .Attr<int32_t>("passes")
                                  .Attr<int32_t>("reverse"));
