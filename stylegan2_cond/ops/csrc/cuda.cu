// The kernels, launched on a GPU.
#include <cuda_runtime.h>

#define TOUCH_LOAD(bytes)
#define TOUCH_STORE(bytes)
#define LAUNCH(kernel, grid, block, shared, stream) kernel<<<grid, block, shared, static_cast<cudaStream_t>(stream)>>>

template <class A>
__device__ __forceinline__ A* shared_memory() {
  extern __shared__ __align__(16) unsigned char room[];
  return reinterpret_cast<A*>(room);
}
#define SHARED(type) shared_memory<type>()

static int launch_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? 0 : 1000 + static_cast<int>(error);
}

#include "kernels.cuh"
#include "entries.h"

const char* stylegan2_cond_error(int code) {
  if (code == UNKNOWN_NUMBER) return "unknown type of numbers";
  if (code == FILTER_TOO_LONG) return "the filter does not fit into shared memory";
  return cudaGetErrorString(static_cast<cudaError_t>(code - CUDA_ERRORS));
}
