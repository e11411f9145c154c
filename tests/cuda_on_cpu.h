// What persistent.cu needs of CUDA, on a CPU: every thread of every block is a fiber, and the matrix units are loops
// over the fragments as the PTX manual lays them out. Blocks take turns at random, some of them several, so that a
// missing wait shows as a wrong number. It shows what a kernel computes, and nothing of how fast or of memory ordering.

#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define LSTMJAX_STREAM Ctx<ffi::ThreadPool>
using Stream = ffi::ThreadPool;

struct uint2 {
  uint32_t x, y;
};
struct uint4 {
  uint32_t x, y, z, w;
};
struct float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace emulated {

struct Index {
  int x;
};

// A meeting of so many fibers: the last to come does what is to be done for all.
struct Meeting {
  int size, come = 0;
  unsigned round = 0;
};

struct Warp {
  Meeting meeting{32};
  uint32_t in[2][32][6];
  float sums[2][32][4];
  uint32_t out[2][32];
};

struct Block {
  Meeting meeting{0}, barriers[16] = {};
  Meeting* cluster;
  std::vector<char> shared;
  std::vector<Warp> warps;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  Index thread, block;
  Block* home;
  Warp* warp;
  bool done = false;
};

inline thread_local Fiber* now = nullptr;
inline thread_local ucontext_t scheduler;
inline thread_local Index grid;
inline thread_local std::vector<Block>* blocks;
inline thread_local int cluster_size;
inline thread_local std::function<void()>* work;

inline void yield() { swapcontext(&now->context, &scheduler); }

template <class Last>
void meet(Meeting& meeting, Last last) {
  const unsigned round = meeting.round;
  if (++meeting.come == meeting.size) {
    last();
    meeting.come = 0;
    meeting.round++;
  } else {
    while (meeting.round == round) yield();
  }
}

inline void body() {
  (*work)();
  now->done = true;
  yield();
}

inline float half(uint32_t word, int which, bool bf16) {
  const uint16_t bits = (uint16_t)(word >> (16 * which));
  if (bf16) {
    const uint32_t wide = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &wide, 4);
    return x;
  }
  _Float16 x;
  memcpy(&x, &bits, 2);
  return (float)x;
}

inline float tf32(uint32_t word) {
  word &= 0xFFFFE000u;  // the units do not read the rest
  float x;
  memcpy(&x, &word, 4);
  return x;
}

// kind: 0 bfloat16, 1 float16, 2 TF32.
inline void mma(float (&d)[4], const uint4& a, const uint2& b, int kind) {
  Warp& warp = *now->warp;
  const int lane = now->thread.x & 31, side = warp.meeting.round & 1, K = kind == 2 ? 8 : 16;
  const uint32_t mine[6] = {a.x, a.y, a.z, a.w, b.x, b.y};
  memcpy(warp.in[side][lane], mine, sizeof mine);
  memcpy(warp.sums[side][lane], d, sizeof d);
  meet(warp.meeting, [&] {
    float A[16][16], B[16][8];
    for (int l = 0; l < 32; l++) {
      const int g = l >> 2, t = l & 3;
      const uint32_t* in = warp.in[side][l];
      if (kind == 2) {
        A[g][t] = tf32(in[0]), A[g + 8][t] = tf32(in[1]), A[g][t + 4] = tf32(in[2]), A[g + 8][t + 4] = tf32(in[3]);
        B[t][g] = tf32(in[4]), B[t + 4][g] = tf32(in[5]);
      } else {
        for (int k = 0; k < 2; k++) {
          A[g][2 * t + k] = half(in[0], k, !kind), A[g + 8][2 * t + k] = half(in[1], k, !kind);
          A[g][2 * t + 8 + k] = half(in[2], k, !kind), A[g + 8][2 * t + 8 + k] = half(in[3], k, !kind);
          B[2 * t + k][g] = half(in[4], k, !kind), B[2 * t + 8 + k][g] = half(in[5], k, !kind);
        }
      }
    }
    for (int l = 0; l < 32; l++)
      for (int e = 0; e < 4; e++) {
        const int row = (l >> 2) + 8 * (e >> 1), column = 2 * (l & 3) + (e & 1);
        float sum = warp.sums[side][l][e];
        for (int k = 0; k < K; k++) sum += A[row][k] * B[k][column];
        warp.sums[side][l][e] = sum;
      }
  });
  memcpy(d, warp.sums[side][lane], sizeof d);
}

}  // namespace emulated

#define threadIdx (emulated::now->thread)
#define blockIdx (emulated::now->block)
#define gridDim (emulated::grid)

inline char* shared_memory() { return emulated::now->home->shared.data(); }
inline void __syncthreads() {
  emulated::meet(emulated::now->home->meeting, [] {});
}
inline void __syncwarp() {}
inline void barrier_of(int number, int threads) {
  emulated::Meeting& meeting = emulated::now->home->barriers[number];
  meeting.size = threads;
  emulated::meet(meeting, [] {});
}
inline uint4 read_through(const uint4* from) {
  emulated::yield();
  return *from;
}
inline void write_through(uint32_t* to, uint32_t word) { *to = word; }
inline void write_through(uint32_t* to, uint32_t first, uint32_t second) {
  to[0] = first;
  to[1] = second;
}
inline uint4 read_shared(const uint4* from) { return read_through(from); }
inline void read_again(uint4& v, const uint4* from, uint32_t stale) {
  if (stale) v = read_through(from);
}
using Peer = char*;
inline Peer of_peer(const void* here, int rank) {
  using namespace emulated;
  Block& there = (*blocks)[now->block.x / cluster_size * cluster_size + rank];
  return there.shared.data() + (static_cast<const char*>(here) - now->home->shared.data());
}
template <class... Words>
void write_peer(Peer there, int offset, Words... words) {
  write_through(reinterpret_cast<uint32_t*>(there + offset), words...);
}
inline void cluster_barrier() {
  emulated::meet(*emulated::now->home->cluster, [] {});
}
inline float once(const float* from) { return *from; }
inline void trap() {
  fprintf(stderr, "a block waited in vain\n");
  abort();
}
inline uint32_t from_lane_xor(uint32_t x, int mask) {
  emulated::Warp& warp = *emulated::now->warp;
  const int lane = emulated::now->thread.x & 31, side = warp.meeting.round & 1;
  warp.out[side][lane] = x;
  emulated::meet(warp.meeting, [] {});
  return warp.out[side][lane ^ mask];
}
inline bool any_of_warp(bool x) {
  emulated::Warp& warp = *emulated::now->warp;
  const int lane = emulated::now->thread.x & 31, side = warp.meeting.round & 1;
  warp.out[side][lane] = x;
  emulated::meet(warp.meeting, [] {});
  bool any = false;
  for (int l = 0; l < 32; l++) any = any || warp.out[side][l];
  return any;
}
inline uint32_t max_halves(uint32_t x, uint32_t y) {
  const int16_t low = std::max((int16_t)x, (int16_t)y), high = std::max((int16_t)(x >> 16), (int16_t)(y >> 16));
  return (uint16_t)low | (uint32_t)(uint16_t)high << 16;
}
inline uint32_t float_bits(float x) {
  uint32_t word;
  memcpy(&word, &x, 4);
  return word;
}
inline uint32_t bfloat16_bits(float x) {
  if (x != x) return 0x7FFF;
  const uint32_t word = float_bits(x);
  return (word + 0x7FFF + (word >> 16 & 1)) >> 16;
}
inline uint32_t float16_bits(float x) {
  const _Float16 y = (_Float16)x;
  uint16_t bits;
  memcpy(&bits, &y, 2);
  return bits;
}
inline uint32_t tf32_bits(float x) { return x != x ? 0x7FFFFFFF : (float_bits(x) + 0x1000) & 0xFFFFE000u; }
inline void mma_bf16(float (&d)[4], const uint4& a, const uint2& b) { emulated::mma(d, a, b, 0); }
inline void mma_f16(float (&d)[4], const uint4& a, const uint2& b) { emulated::mma(d, a, b, 1); }
inline void mma_tf32(float (&d)[4], const uint4& a, const uint2& b) { emulated::mma(d, a, b, 2); }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float x, float y) { return x / y; }

template <class Kernel, class Arguments>
const char* start(Kernel kernel, int blocks, int threads, size_t shared, Arguments args, int cluster, void* exchange,
                  size_t bytes, int filling, Stream) {
  if (shared > 227 * 1024) return "too much shared memory";
  if (!cluster && blocks > 132) return "more blocks than multiprocessors";
  if (cluster > 16) return "too large a cluster";
  if (bytes) memset(exchange, filling, bytes);
  std::function<void()> work = [&] { kernel(args); };
  emulated::work = &work;
  emulated::grid = {blocks};
  std::vector<emulated::Block> homes(blocks);
  std::vector<emulated::Meeting> clusters(cluster ? blocks / cluster : 0);
  emulated::blocks = &homes;
  emulated::cluster_size = cluster;
  std::vector<std::unique_ptr<emulated::Fiber>> fibers;
  for (int b = 0; b < blocks; b++) {
    homes[b].meeting.size = threads;
    if (cluster) {
      homes[b].cluster = &clusters[b / cluster];
      homes[b].cluster->size = cluster * threads;
    }
    homes[b].shared.assign(shared, (char)0xFF);  // NaN, where nobody wrote
    homes[b].warps.resize(threads / 32);
    for (int t = 0; t < threads; t++) {
      auto fiber = std::make_unique<emulated::Fiber>();
      constexpr size_t size = 1 << 15;
      fiber->stack.reset(new char[size]);
      fiber->thread = {t};
      fiber->block = {b};
      fiber->home = &homes[b];
      fiber->warp = &homes[b].warps[t / 32];
      getcontext(&fiber->context);
      fiber->context.uc_stack.ss_sp = fiber->stack.get();
      fiber->context.uc_stack.ss_size = size;
      fiber->context.uc_link = nullptr;
      makecontext(&fiber->context, emulated::body, 0);
      fibers.push_back(std::move(fiber));
    }
  }
  std::mt19937 random(0);
  for (int left = blocks * threads; left;) {
    const int b = random() % blocks;
    for (int turns = 1 + random() % 20; turns; turns--)
      for (int t = 0; t < threads; t++) {
        emulated::Fiber& fiber = *fibers[b * threads + t];
        if (fiber.done) continue;
        emulated::now = &fiber;
        swapcontext(&emulated::scheduler, &fiber.context);
        left -= fiber.done;
      }
  }
  return nullptr;
}
