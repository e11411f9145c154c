// The LSTM over all of time in one kernel, and the transpose of its derivative, for NVIDIA GPUs from Hopper on.
//
// Every block of threads keeps the rows or columns of w_h that belong to its own units (8 JT of the H) in shared memory
// for the whole sequence, and the cells of these units too. A group of blocks has all units of 16 MT `passes` sequences;
// groups share nothing. From step to step the blocks of a group hand each other h (forward) or dz (backward) through the
// L2 cache, in the very order in which the matrix units take it, so that it goes from the cache into their registers.
//
// There is no barrier between blocks. What is handed over says itself that it is new: one bit of each word (each pair of
// words, in the backward pass of 16-bit types) turns over whenever a slot is written again, and who reads it waits for
// its turn. Two slots are enough: who writes step s has read all of step s - 1, and who wrote that had read all of s - 2.
//   forward, 16 bits: |h| <= 1, so the highest bit of the exponent is free; a NaN travels as 1.5.
//   else: the lowest bit of the fraction. TF32 does not read it; of dz in 16 bits every fourth number has one bit less.
//
// Products are mma.sync of m16n8k16 (bfloat16, float16) and m16n8k8 (TF32), summed in float32; the warps of a block split
// the sum, and add their parts up in shared memory. All else is float32. Shapes and flags are in `Args`.

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
__device__ __forceinline__ void write_through(uint32_t* to, uint32_t word) {
  asm volatile("st.relaxed.gpu.global.b32 [%0], %1;" ::"l"(to), "r"(word) : "memory");
}
__device__ __forceinline__ void write_through(uint32_t* to, uint32_t first, uint32_t second) {
  const unsigned long long pair = (unsigned long long)second << 32 | first;
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(to), "l"(pair) : "memory");
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

#define LSTMJAX_MMA(NAME, KIND)                                                                            \
  __device__ __forceinline__ void NAME(float (&d)[4], const uint4& a, const uint2& b) {                    \
    asm volatile("mma.sync.aligned." KIND " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                          \
                 : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));                            \
  }
LSTMJAX_MMA(mma_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")
LSTMJAX_MMA(mma_f16, "m16n8k16.row.col.f32.f16.f16.f32")
LSTMJAX_MMA(mma_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
#undef LSTMJAX_MMA

// The blocks wait for each other, so all have to be there at once: a cooperative launch, or an error.
template <class Kernel, class Arguments>
const char* start(Kernel kernel, int blocks, int threads, size_t shared, Arguments args, void* exchange, size_t bytes,
                  int filling, Stream stream) {
  cudaError_t wrong = cudaMemsetAsync(exchange, filling, bytes, stream);
  if (!wrong) wrong = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
  void* given[] = {&args};
  if (!wrong)
    wrong = cudaLaunchCooperativeKernel((const void*)kernel, dim3(blocks), dim3(threads), given, shared, stream);
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
  int T, B, H;
  int blocks;            // of 8 units in all; those from H on are padding
  int team;              // thread blocks in a group
  int passes, buffers;
  int reverse, hold, narrow;
};

constexpr int WARPS = 8, THREADS = 32 * WARPS;

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

// Tiles of the summed axis. Forward these are units, 16 of them or 8 in TF32; backward the 8 units of a block and two of
// their gates, or one in TF32.
template <class E, bool BACK>
__host__ __device__ constexpr int tiles_of(int blocks) {
  return BACK ? blocks * (E::wide ? 4 : 2) : (E::wide ? blocks : blocks / 2);
}

// The bits of a word that turn over; and which bits of which words say that they have.
template <class E, bool BACK>
__device__ __forceinline__ uint32_t turned(int phase) {
  constexpr uint32_t mask = E::wide || BACK ? 1u : 0x40004000u;
  return phase ? mask : 0u;
}

template <class E, bool BACK>
__device__ __forceinline__ bool is_new(const uint4& v, uint32_t turn) {
  if (E::wide) return (((v.x ^ turn) | (v.y ^ turn) | (v.z ^ turn) | (v.w ^ turn)) & 1u) == 0;
  if (BACK) return (((v.x ^ turn) | (v.z ^ turn)) & 1u) == 0;
  return (((v.x ^ turn) | (v.y ^ turn) | (v.z ^ turn) | (v.w ^ turn)) & 0x40000000u) == 0;
}

// As the matrix units take it. Backward in 16 bits a pair of words is one row, so the middle two change places.
template <class E, bool BACK>
__device__ __forceinline__ uint4 operand(const uint4& v, uint32_t turn) {
  if (E::wide) return make_uint4(v.x & ~1u, v.y & ~1u, v.z & ~1u, v.w & ~1u);
  if (BACK) return make_uint4(v.x, v.z, v.y, v.w);
  return make_uint4(v.x ^ turn, v.y ^ turn, v.z ^ turn, v.w ^ turn);
}

// The sum over this warp's tiles of what was handed over times the weights: acc += x w.
template <class E, bool BACK, int NT, int MT>
__device__ __forceinline__ void product(float (&acc)[MT][NT][4], const uint4* x, const uint2* weights, int tiles,
                                        uint32_t turn, int warp, int lane) {
  constexpr int AHEAD = 8 / MT;  // tiles on their way at once
  const int n = (tiles - warp + WARPS - 1) / WARPS;
  uint4 now[AHEAD][MT], next[AHEAD][MT];
  uint32_t most[MT][2];
#pragma unroll
  for (int m = 0; m < MT; m++) most[m][0] = most[m][1] = 0;

  auto fetch = [&](uint4(&v)[AHEAD][MT], int first) {
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
#pragma unroll
      for (int m = 0; m < MT; m++)
        if (first + i < n) v[i][m] = read_through(x + (((first + i) * WARPS + warp) * MT + m) * 32 + lane);
  };

  fetch(next, 0);
  for (int first = 0; first < n; first += AHEAD) {
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
#pragma unroll
      for (int m = 0; m < MT; m++) now[i][m] = next[i][m];
    if (first + AHEAD < n) fetch(next, first + AHEAD);
    for (uint32_t tries = 0;; tries++) {
      bool ready = true;
#pragma unroll
      for (int i = 0; i < AHEAD; i++)
#pragma unroll
        for (int m = 0; m < MT; m++) ready = ready && (first + i >= n || is_new<E, BACK>(now[i][m], turn));
      if (ready) break;
      if (tries > (1u << 23)) trap();  // seconds: a fault, not a wait
#pragma unroll
      for (int i = 0; i < AHEAD; i++)
#pragma unroll
        for (int m = 0; m < MT; m++)
          if (first + i < n && !is_new<E, BACK>(now[i][m], turn))
            now[i][m] = read_through(x + (((first + i) * WARPS + warp) * MT + m) * 32 + lane);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      if (first + i < n) {
        const uint2* w = weights + ((first + i) * WARPS + warp) * NT * 32 + lane;
        uint4 v[MT];
#pragma unroll
        for (int m = 0; m < MT; m++) {
          v[m] = operand<E, BACK>(now[i][m], turn);
          if (!E::wide && !BACK) {
            most[m][0] = max_halves(max_halves(most[m][0], v[m].x), v[m].z);
            most[m][1] = max_halves(max_halves(most[m][1], v[m].y), v[m].w);
          }
        }
#pragma unroll
        for (int k = 0; k < NT; k++) {
          const uint2 b = w[k * 32];
#pragma unroll
          for (int m = 0; m < MT; m++) E::mma(acc[m][k], v[m], b);
        }
      }
    }
  }
  if (!E::wide && !BACK) {
    // Rows in which a NaN has come become NaN, which times 0 is NaN.
    bool bad = false;
    uint32_t rows[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
      for (int r = 0; r < 2; r++) {
        rows[m][r] = (most[m][r] & 0xFFFFu) == E::nan_code || (most[m][r] >> 16) == E::nan_code ? 0x7FFF7FFFu : 0u;
        bad = bad || rows[m][r];
      }
    if (any_of_warp(bad)) {
#pragma unroll
      for (int m = 0; m < MT; m++)
#pragma unroll
        for (int k = 0; k < NT; k++) E::mma(acc[m][k], make_uint4(rows[m][0], rows[m][1], 0, 0), make_uint2(0, 0));
    }
  }
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

// This block's part of w_h, in the order in which the matrix units take it: [tile, column tile, lane, 2].
template <class E, bool BACK, int JT>
__device__ void fill(uint2* weights, const Args& p, int member, int tiles) {
  constexpr int NT = BACK ? JT : 4 * JT;
  const int H = p.H;
  auto at = [&](int row, int gate, int column) -> uint32_t {
    return row < H && column < H ? E::raw(p.w_h, (size_t)row * 4 * H + gate * H + column) : 0u;
  };
#pragma unroll 4
  for (int n = threadIdx.x; n < tiles * NT * 32; n += THREADS) {
    const int lane = n & 31, k = (n >> 5) % NT, tile = (n >> 5) / NT, g = lane >> 2, t = lane & 3;
    uint2 b;
    if (BACK) {
      const int unit = (member * JT + k) * 8 + g;
      if (E::wide) {
        const int other = (tile >> 2) * 8 + 2 * t, gate = tile & 3;
        b = make_uint2(at(unit, gate, other), at(unit, gate, other + 1));
      } else {
        const int other = (tile >> 1) * 8 + 2 * t, gate = 2 * (tile & 1);
        b.x = at(unit, gate, other) | at(unit, gate, other + 1) << 16;
        b.y = at(unit, gate + 1, other) | at(unit, gate + 1, other + 1) << 16;
      }
    } else {
      const int unit = (member * JT + (k >> 2)) * 8 + g, gate = k & 3;
      if (E::wide) {
        const int other = tile * 8 + 2 * t;
        b = make_uint2(at(other, gate, unit), at(other + 1, gate, unit));
      } else {
        const int other = tile * 16 + 2 * t;
        b.x = at(other, gate, unit) | at(other + 1, gate, unit) << 16;
        b.y = at(other + 8, gate, unit) | at(other + 9, gate, unit) << 16;
      }
    }
    weights[n] = b;
  }
}

// A cell that a thread has: where it is in a tile of sums, and whose.
struct Cell {
  int m, j, lane, e;  // tile of rows, block of units, lane and number within its four sums
  int row, unit;
  bool real;
  template <int JT>
  __device__ static Cell of(int q, int first_row, int first_block, const Args& p) {
    Cell cell;
    cell.m = (q >> 7) / JT;
    cell.j = (q >> 7) % JT;
    cell.lane = (q & 127) >> 2;
    cell.e = q & 3;
    cell.row = first_row + cell.m * 16 + (cell.lane >> 2) + 8 * (cell.e >> 1);
    cell.unit = (first_block + cell.j) * 8 + 2 * (cell.lane & 3) + (cell.e & 1);
    cell.real = cell.row < p.B && cell.unit < p.H;
    return cell;
  }
};

template <class E>
__device__ __forceinline__ void store(void* to, size_t n, float value, bool narrow) {
  if (narrow && !E::wide)
    static_cast<uint16_t*>(to)[n] = (uint16_t)E::narrow(value);
  else
    static_cast<float*>(to)[n] = value;
}

template <class E, int JT, int MT>
__global__ void __launch_bounds__(THREADS, 1) forward(const Args p) {
  constexpr int NT = 4 * JT, CELLS = MT * JT * 128, MINE = (CELLS + THREADS - 1) / THREADS;
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
  const int team = blockIdx.x / p.team, member = blockIdx.x % p.team;
  const int tiles = tiles_of<E, false>(p.blocks), H = p.H, B = p.B, T = p.T;
  uint2* weights = reinterpret_cast<uint2*>(shared_memory());
  float* sums = reinterpret_cast<float*>(weights + tiles * NT * 32);
  const int size = WARPS * MT * NT * 128;
  float* c_state = sums + size * p.buffers;
  float* h_state = c_state + p.passes * CELLS;
  float* seen = h_state + p.passes * CELLS;  // h as the product sees it: 0 before a sequence begins

  fill<E, false, JT>(weights, p, member, tiles);
  for (int n = 0; n < p.passes; n++)
    for (int q = tid; q < CELLS; q += THREADS) {
      const Cell cell = Cell::of<JT>(q, (team * p.passes + n) * 16 * MT, member * JT, p);
      const size_t at = (size_t)cell.row * H + cell.unit;
      c_state[n * CELLS + q] = cell.real ? p.c0[at] : 0.0f;
      h_state[n * CELLS + q] = cell.real ? p.h0[at] : 0.0f;
      seen[n * CELLS + q] = 0.0f;
    }
  __syncthreads();

  float ahead[MINE][4];
  auto prefetch = [&](int s, int n) {
    const int t = p.reverse ? T - 1 - s : s;
#pragma unroll
    for (int i = 0; i < MINE; i++) {
      const int q = tid + i * THREADS;
      const Cell cell = Cell::of<JT>(q, (team * p.passes + n) * 16 * MT, member * JT, p);
      const float* xw = p.xw + ((size_t)t * B + cell.row) * 4 * H + cell.unit;
      const bool there = q < CELLS && cell.real;
#pragma unroll
      for (int k = 0; k < 4; k++) ahead[i][k] = there ? once(xw + k * H) : 0.0f;
    }
  };

  prefetch(0, 0);
  int turn_of_buffer = 0;
  for (int s = 0; s < T; s++) {
    const int t = p.reverse ? T - 1 - s : s;
    for (int n = 0; n < p.passes; n++) {
      const int lot = team * p.passes + n, lots = (gridDim.x / p.team) * p.passes;
      float* sum = sums + (p.buffers == 2 ? turn_of_buffer : 0) * size;
      turn_of_buffer ^= 1;
      float z[MINE][4];
#pragma unroll
      for (int i = 0; i < MINE; i++)
#pragma unroll
        for (int k = 0; k < 4; k++) z[i][k] = ahead[i][k];
      const bool last = n + 1 == p.passes;
      if (!(last && s + 1 == T)) prefetch(last ? s + 1 : s, last ? 0 : n + 1);

      if (s > 0) {
        float acc[MT][NT][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
          for (int k = 0; k < NT; k++)
#pragma unroll
            for (int e = 0; e < 4; e++) acc[m][k][e] = 0.0f;
        const uint4* x = p.exchange + (size_t)(((s - 1) & 1) * lots + lot) * tiles * MT * 32;
        product<E, false, NT, MT>(acc, x, weights, tiles, turned<E, false>(((s - 1) >> 1) & 1), warp, lane);
        float4* out = reinterpret_cast<float4*>(sum) + warp * MT * NT * 32 + lane;
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
          for (int k = 0; k < NT; k++)
            out[(m * NT + k) * 32] = make_float4(acc[m][k][0], acc[m][k][1], acc[m][k][2], acc[m][k][3]);
      }
      __syncthreads();

#pragma unroll
      for (int i = 0; i < MINE; i++) {
        const int q = tid + i * THREADS;
        if (q < CELLS) {
          const Cell cell = Cell::of<JT>(q, lot * 16 * MT, member * JT, p);
          int flag = s == 0 ? 3 : 1, coming = 0;
          if (p.flags && cell.row < B) {
            flag = p.flags[(size_t)t * B + cell.row];
            if (s + 1 < T) coming = p.flags[(size_t)(p.reverse ? t - 1 : t + 1) * B + cell.row];
          }
          if (s > 0) {
            const float* part = sum + (cell.m * NT + cell.j * 4) * 128 + cell.lane * 4 + cell.e;
#pragma unroll
            for (int w = 0; w < WARPS; w++)
#pragma unroll
              for (int k = 0; k < 4; k++) z[i][k] += part[w * MT * NT * 128 + k * 128];
          }
          const int own = n * CELLS + q;
          float c = c_state[own];
          const size_t at = (size_t)cell.row * H + cell.unit;
          if ((flag & 2) && cell.real) {
            const float* first = p.zh0 + (size_t)cell.row * 4 * H + cell.unit;
#pragma unroll
            for (int k = 0; k < 4; k++) z[i][k] += first[k * H];
            c = p.c0[at];
          }
          const float gi = sigmoid(z[i][0]), gf = sigmoid(z[i][1]), gg = tanh_of(z[i][2]), go = sigmoid(z[i][3]);
          c = gf * c + gi * gg;
          float h = go * tanh_of(c), y = h, seen_next = h;
          if (flag & 1) {
            c_state[own] = c;
            h_state[own] = h;
            seen[own] = h;
          } else {
            c = c_state[own];
            y = p.hold ? h_state[own] : 0.0f;
            seen_next = seen[own];
          }
          if (coming & 2) seen_next = 0.0f;
          if (s + 1 < T) {
            uint32_t* to = reinterpret_cast<uint32_t*>(p.exchange) + (size_t)((s & 1) * lots + lot) * tiles * MT * 128;
            const int block = member * JT + cell.j;
            const uint32_t turn = turned<E, false>((s >> 1) & 1);
            if (E::wide) {
              const int word = (cell.e >> 1) + 2 * (cell.e & 1);
              write_through(to + ((size_t)(block * MT + cell.m) * 32 + cell.lane) * 4 + word,
                            (E::narrow(seen_next) & ~1u) | turn);
            } else {
              const uint32_t mine = seen_next == seen_next ? E::narrow(seen_next) : E::nan_code;
              const uint32_t other = from_lane_xor(mine, 1);
              if (!(cell.e & 1)) {
                const int word = (block & 1) * 2 + (cell.e >> 1);
                write_through(to + ((size_t)((block >> 1) * MT + cell.m) * 32 + cell.lane) * 4 + word,
                              (mine | other << 16) ^ turn);
              }
            }
          }
          if (cell.real) {
            const size_t row = (size_t)t * B + cell.row;
            store<E>(p.hs, row * H + cell.unit, y, p.narrow);
            if (p.a) {
              float* a = p.a + row * 4 * H + cell.unit;
              a[0] = 2 * gi - 1;
              a[H] = 2 * gf - 1;
              a[2 * H] = gg;
              a[3 * H] = 2 * go - 1;
              p.cs[row * H + cell.unit] = c;
            }
          }
        }
      }
      if (p.buffers == 1) __syncthreads();
    }
  }
  for (int n = 0; n < p.passes; n++)
    for (int q = tid; q < CELLS; q += THREADS) {
      const Cell cell = Cell::of<JT>(q, (team * p.passes + n) * 16 * MT, member * JT, p);
      if (cell.real) {
        const size_t at = (size_t)cell.row * H + cell.unit;
        p.c[at] = c_state[n * CELLS + q];
        p.h[at] = h_state[n * CELLS + q];
      }
    }
}

template <class E, int JT, int MT>
__global__ void __launch_bounds__(THREADS, 1) backward(const Args p) {
  constexpr int NT = JT, CELLS = MT * JT * 128, MINE = (CELLS + THREADS - 1) / THREADS;
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
  const int team = blockIdx.x / p.team, member = blockIdx.x % p.team;
  const int tiles = tiles_of<E, true>(p.blocks), H = p.H, B = p.B, T = p.T;
  uint2* weights = reinterpret_cast<uint2*>(shared_memory());
  float* sums = reinterpret_cast<float*>(weights + tiles * NT * 32);
  const int size = WARPS * MT * NT * 128;
  float* dc_state = sums + size * p.buffers;
  float* through = dc_state + p.passes * CELLS;  // of dh, what goes past a step that does not count
  float* dc_first = through + p.passes * CELLS;  // what has reached c0

  fill<E, true, JT>(weights, p, member, tiles);
  for (int n = 0; n < p.passes; n++)
    for (int q = tid; q < CELLS; q += THREADS) {
      const Cell cell = Cell::of<JT>(q, (team * p.passes + n) * 16 * MT, member * JT, p);
      const size_t at = (size_t)cell.row * H + cell.unit;
      dc_state[n * CELLS + q] = cell.real ? p.dc_in[at] : 0.0f;
      through[n * CELLS + q] = cell.real ? p.dh_in[at] : 0.0f;
      dc_first[n * CELLS + q] = 0.0f;
    }
  __syncthreads();

  float ahead[MINE][7];  // the four tanh, c after and before the step, dy
  auto prefetch = [&](int s, int n) {
    const int t = p.reverse ? s : T - 1 - s, before = p.reverse ? t + 1 : t - 1;
#pragma unroll
    for (int i = 0; i < MINE; i++) {
      const int q = tid + i * THREADS;
      const Cell cell = Cell::of<JT>(q, (team * p.passes + n) * 16 * MT, member * JT, p);
      const bool there = q < CELLS && cell.real;
      const size_t row = (size_t)t * B + cell.row;
      bool start = s + 1 == T;
      if (p.flags && there) start = start || (p.flags[row] & 2);
      const float* c_before = start ? p.c0 + (size_t)cell.row * H : p.cs + ((size_t)before * B + cell.row) * H;
#pragma unroll
      for (int k = 0; k < 4; k++) ahead[i][k] = there ? once(p.a + row * 4 * H + k * H + cell.unit) : 0.0f;
      ahead[i][4] = there ? once(p.cs + row * H + cell.unit) : 0.0f;
      ahead[i][5] = there ? once(c_before + cell.unit) : 0.0f;
      ahead[i][6] = there ? once(p.dhs + row * H + cell.unit) : 0.0f;
    }
  };

  prefetch(0, 0);
  int turn_of_buffer = 0;
  for (int s = 0; s < T; s++) {
    const int t = p.reverse ? s : T - 1 - s;
    for (int n = 0; n < p.passes; n++) {
      const int lot = team * p.passes + n, lots = (gridDim.x / p.team) * p.passes;
      float* sum = sums + (p.buffers == 2 ? turn_of_buffer : 0) * size;
      turn_of_buffer ^= 1;
      float kept[MINE][7];
#pragma unroll
      for (int i = 0; i < MINE; i++)
#pragma unroll
        for (int k = 0; k < 7; k++) kept[i][k] = ahead[i][k];
      const bool last = n + 1 == p.passes;
      if (!(last && s + 1 == T)) prefetch(last ? s + 1 : s, last ? 0 : n + 1);

      if (s > 0) {
        float acc[MT][NT][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
          for (int k = 0; k < NT; k++)
#pragma unroll
            for (int e = 0; e < 4; e++) acc[m][k][e] = 0.0f;
        const uint4* x = p.exchange + (size_t)(((s - 1) & 1) * lots + lot) * tiles * MT * 32;
        product<E, true, NT, MT>(acc, x, weights, tiles, turned<E, true>(((s - 1) >> 1) & 1), warp, lane);
        float4* out = reinterpret_cast<float4*>(sum) + warp * MT * NT * 32 + lane;
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
          for (int k = 0; k < NT; k++)
            out[(m * NT + k) * 32] = make_float4(acc[m][k][0], acc[m][k][1], acc[m][k][2], acc[m][k][3]);
      }
      __syncthreads();

#pragma unroll
      for (int i = 0; i < MINE; i++) {
        const int q = tid + i * THREADS;
        if (q < CELLS) {
          const Cell cell = Cell::of<JT>(q, lot * 16 * MT, member * JT, p);
          int flag = s + 1 == T ? 3 : 1;
          if (p.flags && cell.row < B) flag = p.flags[(size_t)t * B + cell.row];
          const int own = n * CELLS + q;
          float dh = through[own];
          if (s > 0) {
            const float* part = sum + (cell.m * NT + cell.j) * 128 + cell.lane * 4 + cell.e;
#pragma unroll
            for (int w = 0; w < WARPS; w++) dh += part[w * MT * NT * 128];
          }
          float dz[4] = {0.0f, 0.0f, 0.0f, 0.0f};
          if (flag & 1) {
            const float ai = kept[i][0], af = kept[i][1], gg = kept[i][2], ao = kept[i][3];
            const float gi = 0.5f * ai + 0.5f, gf = 0.5f * af + 0.5f, go = 0.5f * ao + 0.5f;
            const float tanh_c = tanh_of(kept[i][4]);
            dh += kept[i][6];
            const float dc = dc_state[own] + dh * go * (1 - tanh_c * tanh_c);
            dz[0] = dc * gg * 0.25f * (1 - ai * ai);
            dz[1] = dc * kept[i][5] * 0.25f * (1 - af * af);
            dz[2] = dc * gi * (1 - gg * gg);
            dz[3] = dh * tanh_c * 0.25f * (1 - ao * ao);
            through[own] = 0.0f;
            if (flag & 2) {
              dc_first[own] += dc * gf;
              dc_state[own] = 0.0f;
            } else {
              dc_state[own] = dc * gf;
            }
          } else {
            through[own] = dh;
          }
          if (s + 1 < T) {
            uint32_t* to = reinterpret_cast<uint32_t*>(p.exchange) + (size_t)((s & 1) * lots + lot) * tiles * MT * 128;
            const int block = member * JT + cell.j;
            const uint32_t turn = turned<E, true>((s >> 1) & 1);
            // Past the first step of a sequence nothing goes on.
            const bool stop = flag & 2;
            if (E::wide) {
              const int word = (cell.e >> 1) + 2 * (cell.e & 1);
#pragma unroll
              for (int k = 0; k < 4; k++)
                write_through(to + ((size_t)((block * 4 + k) * MT + cell.m) * 32 + cell.lane) * 4 + word,
                              (stop ? 0u : E::narrow(dz[k]) & ~1u) | turn);
            } else {
              // An even thread packs the gates i and f of two units, the odd one beside it g and o.
              const bool odd = cell.e & 1;
              uint32_t half[4];
#pragma unroll
              for (int k = 0; k < 4; k++) half[k] = stop ? 0u : E::narrow(dz[k]);
              const uint32_t give = odd ? half[0] | half[1] << 16 : half[2] | half[3] << 16;
              const uint32_t got = from_lane_xor(give, 1);
              const uint32_t own_first = odd ? half[2] : half[0], own_second = odd ? half[3] : half[1];
              const uint32_t got_first = got & 0xFFFFu, got_second = got >> 16;
              const uint32_t first = odd ? got_first | own_first << 16 : own_first | got_first << 16;
              const uint32_t second = odd ? got_second | own_second << 16 : own_second | got_second << 16;
              uint32_t* there =
                  to + ((size_t)((block * 2 + odd) * MT + cell.m) * 32 + cell.lane) * 4 + 2 * (cell.e >> 1);
              write_through(there, (first & ~1u) | turn, second);
            }
          }
          if (cell.real) {
            const size_t at = ((size_t)t * B + cell.row) * 4 * H + cell.unit;
#pragma unroll
            for (int k = 0; k < 4; k++) store<E>(p.dz, at + k * H, dz[k], true);
          }
        }
      }
      if (p.buffers == 1) __syncthreads();
    }
  }
  for (int n = 0; n < p.passes; n++)
    for (int q = tid; q < CELLS; q += THREADS) {
      const Cell cell = Cell::of<JT>(q, (team * p.passes + n) * 16 * MT, member * JT, p);
      if (cell.real) {
        const size_t at = (size_t)cell.row * H + cell.unit;
        p.dc[at] = dc_first[n * CELLS + q] + dc_state[n * CELLS + q];
        p.dh[at] = through[n * CELLS + q];
      }
    }
}

// --- the call --------------------------------------------------------------------------------------------------------

struct Shape {
  int groups, units, rows;  // groups of blocks; JT; MT
  size_t exchange_bytes;
};

template <class E, int JT, int MT, bool BACK>
ffi::Error launch(const Args& p, const Shape& shape, Stream stream) {
  const int tiles = tiles_of<E, BACK>(p.blocks), NT = BACK ? JT : 4 * JT;
  const size_t needed = (size_t)2 * shape.groups * p.passes * tiles * MT * 512;
  if (shape.exchange_bytes < needed) return ffi::Error(ffi::ErrorCode::kInvalidArgument, "the exchange is too small");
  const size_t shared =
      (size_t)tiles * NT * 256 + (size_t)p.buffers * WARPS * MT * NT * 512 + (size_t)3 * p.passes * MT * JT * 512;
  auto kernel = BACK ? backward<E, JT, MT> : forward<E, JT, MT>;
  // Every bit that turns over begins as that of the turn before the first.
  const char* wrong = start(kernel, shape.groups * p.team, THREADS, shared, p, p.exchange, needed, 0x41, stream);
  return wrong ? ffi::Error(ffi::ErrorCode::kInternal, std::string("the LSTM kernel did not start: ") + wrong)
               : ffi::Error::Success();
}

template <bool BACK>
ffi::Error choose(ffi::DataType dtype, const Args& p, const Shape& shape, Stream stream) {
#define LSTMJAX_CASE(TYPE, E, JT, MT) \
  if (dtype == ffi::DataType::TYPE && shape.units == JT && shape.rows == MT) return launch<E, JT, MT, BACK>(p, shape, stream);
#define LSTMJAX_CASES(TYPE, E) \
  LSTMJAX_CASE(TYPE, E, 1, 1) LSTMJAX_CASE(TYPE, E, 1, 2) LSTMJAX_CASE(TYPE, E, 2, 1) LSTMJAX_CASE(TYPE, E, 2, 2)
  LSTMJAX_CASES(BF16, BFloat16)
  LSTMJAX_CASES(F16, Float16)
  LSTMJAX_CASES(F32, TF32)
#undef LSTMJAX_CASES
#undef LSTMJAX_CASE
  return ffi::Error(ffi::ErrorCode::kInvalidArgument, "there is no such kernel");
}

template <class T>
T* data(ffi::AnyBuffer buffer) {
  return buffer.element_count() ? static_cast<T*>(buffer.untyped_data()) : nullptr;
}

template <class T>
T* data(ffi::Result<ffi::AnyBuffer>& buffer) {
  return data<T>(*buffer);
}

static Args args_of(ffi::AnyBuffer cells, int64_t H, int32_t units, int32_t team, int32_t passes, int32_t buffers,
                    int32_t reverse) {
  Args p{};
  const auto shape = cells.dimensions();
  p.T = shape[0];
  p.B = shape[1];
  p.H = H;
  p.team = team;
  p.blocks = team * units;
  p.passes = passes;
  p.buffers = buffers;
  p.reverse = reverse;
  return p;
}

static ffi::Error forward_call(Stream stream, ffi::AnyBuffer xw, ffi::AnyBuffer zh0, ffi::AnyBuffer w_h,
                               ffi::AnyBuffer h0, ffi::AnyBuffer c0, ffi::AnyBuffer flags,
                               ffi::Result<ffi::AnyBuffer> hs, ffi::Result<ffi::AnyBuffer> h,
                               ffi::Result<ffi::AnyBuffer> c, ffi::Result<ffi::AnyBuffer> a,
                               ffi::Result<ffi::AnyBuffer> cs, ffi::Result<ffi::AnyBuffer> exchange, int32_t units,
                               int32_t rows, int32_t groups, int32_t team, int32_t passes, int32_t buffers,
                               int32_t reverse, int32_t hold) {
  Args p = args_of(xw, w_h.dimensions()[0], units, team, passes, buffers, reverse);
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
  return choose<false>(w_h.element_type(), p, {groups, units, rows, exchange->size_bytes()}, stream);
}

static ffi::Error backward_call(Stream stream, ffi::AnyBuffer dhs, ffi::AnyBuffer dh_in, ffi::AnyBuffer dc_in,
                                ffi::AnyBuffer w_h, ffi::AnyBuffer c0, ffi::AnyBuffer a, ffi::AnyBuffer cs,
                                ffi::AnyBuffer flags, ffi::Result<ffi::AnyBuffer> dz, ffi::Result<ffi::AnyBuffer> dh,
                                ffi::Result<ffi::AnyBuffer> dc, ffi::Result<ffi::AnyBuffer> exchange, int32_t units,
                                int32_t rows, int32_t groups, int32_t team, int32_t passes, int32_t buffers,
                                int32_t reverse) {
  Args p = args_of(dhs, w_h.dimensions()[0], units, team, passes, buffers, reverse);
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
  return choose<true>(w_h.element_type(), p, {groups, units, rows, exchange->size_bytes()}, stream);
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
                                  .Attr<int32_t>("groups")
                                  .Attr<int32_t>("team")
                                  .Attr<int32_t>("passes")
                                  .Attr<int32_t>("buffers")
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
                                  .Attr<int32_t>("groups")
                                  .Attr<int32_t>("team")
                                  .Attr<int32_t>("passes")
                                  .Attr<int32_t>("buffers")
                                  .Attr<int32_t>("reverse"));
