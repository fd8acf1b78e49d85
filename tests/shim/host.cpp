// Runs the CUDA kernels on the CPU: one host thread per thread of a block, one block after the other.
//
// Shared memory is on the heap, exactly as large as requested and full of NaN, so that sanitizers and results reveal
// accesses outside of it or before a barrier.
#include <atomic>
#include <barrier>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline

struct Dim {
  unsigned x;
};
static thread_local Dim threadIdx, blockIdx;
static Dim blockDim, gridDim;
static unsigned char* shared_room;
static std::barrier<>* barrier;
static std::atomic<int64_t> loaded, stored;

static void __syncthreads() { barrier->arrive_and_wait(); }
#define TOUCH_LOAD(bytes) loaded.fetch_add(bytes, std::memory_order_relaxed)
#define TOUCH_STORE(bytes) stored.fetch_add(bytes, std::memory_order_relaxed)
#define SHARED(type) reinterpret_cast<type*>(shared_room)
#define LAUNCH(kernel, grid, block, shared, stream) launched(kernel, grid, block, shared, stream)

template <class... Parameters>
static auto launched(void (*kernel)(Parameters...), unsigned grid, unsigned block, int64_t shared, void*) {
  return [=](Parameters... arguments) {
    gridDim = {grid}, blockDim = {block};
    std::unique_ptr<unsigned char, decltype(&std::free)> room(static_cast<unsigned char*>(std::malloc(shared)), &std::free);
    shared_room = room.get();
    std::barrier<> together(block);
    barrier = &together;
    std::vector<std::thread> threads;
    for (unsigned thread = 0; thread < block; ++thread)
      threads.emplace_back([&, thread] {
        threadIdx = {thread};
        for (unsigned number = 0; number < grid; ++number) {
          if (thread == 0) std::memset(shared_room, 0xff, shared);
          together.arrive_and_wait();
          blockIdx = {number};
          kernel(arguments...);
          together.arrive_and_wait();
        }
      });
    for (auto& thread : threads) thread.join();
  };
}

static int launch_error() { return 0; }

#include "kernels.cuh"
#include "entries.h"

const char* stylegan2_cond_error(int code) {
  return code == FILTER_TOO_LONG ? "the filter does not fit into shared memory" : "unknown type of numbers";
}

// Bytes that kernels have loaded and stored since the last call.
INTERFACE void stylegan2_cond_moved(int64_t* loads, int64_t* stores) {
  *loads = loaded.exchange(0), *stores = stored.exchange(0);
}
