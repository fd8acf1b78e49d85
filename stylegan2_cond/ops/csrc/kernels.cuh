// Kernels for CUDA. tests/shim runs this file on the CPU, with one host thread per thread of a block.
//
// The including file provides LAUNCH(kernel, grid, block, shared bytes, stream) (arguments), SHARED(type), and
// TOUCH_LOAD / TOUCH_STORE(bytes), which count bytes moved.
#pragma once
#include "epilogue.h"
#include "interface.h"

#ifndef THREADS
#define THREADS 256  // per block: a power of two, at least 32
#endif
#ifndef MOST_BLOCKS
#define MOST_BLOCKS (1 << 20)  // if there is more to do, blocks take several turns
#endif
constexpr int64_t MOST_SHARED = 48 * 1024;
constexpr int UNKNOWN_NUMBER = 1, FILTER_TOO_LONG = 2, CUDA_ERRORS = 1000;

// V neighbours, moved by one instruction.
template <class T, int V>
struct alignas(sizeof(T) * V) Vector {
  T at[V];
};

template <class T, int V>
__device__ __forceinline__ Vector<T, V> load_vector(const T* from) {
  TOUCH_LOAD(sizeof(T) * V);
  return *reinterpret_cast<const Vector<T, V>*>(from);
}

template <class T, int V>
__device__ __forceinline__ void store_vector(T* to, const Vector<T, V>& value) {
  TOUCH_STORE(sizeof(T) * V);
  *reinterpret_cast<Vector<T, V>*>(to) = value;
}

template <class T>
__device__ __forceinline__ Acc<T> load_one(const T* from) {
  TOUCH_LOAD(sizeof(T));
  return load(*from);
}

template <class A>
__device__ __forceinline__ A load_or(const A* from, int64_t index, A otherwise) {
  return from == nullptr ? otherwise : load_one(from + index);
}

// Where V neighbouring elements of an activation lie: one channel's voxels, or one voxel's channels.
template <bool LAST>
struct Place {
  int64_t n, c, s;
  __device__ __forceinline__ int64_t channel(int v) const { return LAST ? c + v : c; }
  __device__ __forceinline__ int64_t voxel(int v) const { return LAST ? s : s + v; }
};

template <class T, int V, bool LAST>
struct Neighbours {
  using A = Acc<T>;
  A scale[V], bias[V], noise[V];

  __device__ __forceinline__ Neighbours(const Sizes& z, const Place<LAST>& place, const Epilogue<T>& e) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const bool again = v > 0;  // what neighbours share is read once
      const int64_t c = place.channel(v);
      scale[v] = again && !LAST ? scale[0] : load_or(e.scale, place.n * z.c + c, A(1));
      bias[v] = again && !LAST ? bias[0] : load_or(e.bias, c, A(0));
      noise[v] = again && LAST ? noise[0] : e.noise ? load_one(e.noise + place.n * z.s + place.voxel(v)) : A(0);
    }
  }
};

// --- bias_act

template <class T, int V, bool LAST>
__global__ void bias_act_kernel(Sizes z, T* y, const T* x, Epilogue<T> e) {
  using A = Acc<T>;
  const A strength = e.noise ? load_one(e.strength) : A(0);
  const int64_t inner = (LAST ? z.c : z.s) / V, total = z.n * z.c * z.s / V;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < total; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t row = i / inner, column = (i - row * inner) * V;
    const Place<LAST> place = LAST ? Place<LAST>{row / z.s, column, row % z.s} : Place<LAST>{row / z.c, row % z.c, column};
    const Neighbours<T, V, LAST> beside(z, place, e);
    const Vector<T, V> from = load_vector<T, V>(x + i * V);
    Vector<T, V> to;
#pragma unroll
    for (int v = 0; v < V; ++v)
      store(&to.at[v], e.activation.value(beside.scale[v] * load(from.at[v]) + (strength * beside.noise[v] + beside.bias[v])));
    store_vector<T, V>(y + i * V, to);
  }
}

// Sum of `value` over the threads of equal `lane`, returned to thread `lane`. All threads of the block must call it.
template <class A>
__device__ __forceinline__ A sum_over_threads(A value, int lanes, A* room) {
  const int thread = threadIdx.x;
  __syncthreads();
  room[thread] = value;
  for (int half = int(blockDim.x) / 2; half >= lanes; half /= 2) {
    __syncthreads();
    if (thread < half) room[thread] += room[thread + half];
  }
  __syncthreads();
  return room[thread % lanes];
}

// A block's part of a reduction over voxels. `lanes` threads, V channels each, lie along the axis that is not summed.
struct Task {
  int64_t n, chunk, c, begin, end;
  __device__ __forceinline__ Task(const Sizes& z, int64_t chunks, int64_t number, int64_t columns, int width) {
    c = number % columns * width;
    chunk = number / columns % chunks;
    n = number / columns / chunks;
    begin = chunk * z.s / chunks;
    end = (chunk + 1) * z.s / chunks;
  }
};

// Calls `step(offset of V elements, their place)` for each of this thread's voxels of a task.
template <int V, bool LAST, class Step>
__device__ __forceinline__ void for_each_voxel(const Sizes& z, const Task& task, int lanes, const Step& step) {
  const int lane = threadIdx.x % lanes, row = threadIdx.x / lanes, rows = int(blockDim.x) / lanes;
  if (LAST) {
    const int64_t c = task.c + lane * V;
    if (c >= z.c) return;
    for (int64_t s = task.begin + row; s < task.end; s += rows)
      step((task.n * z.s + s) * z.c + c, Place<LAST>{task.n, c, s});
  } else {
    for (int64_t s = task.begin + row * V; s < task.end; s += int64_t(rows) * V)
      step((task.n * z.c + task.c) * z.s + s, Place<LAST>{task.n, task.c, s});
  }
}

template <class A, int V, bool LAST>
__device__ __forceinline__ void write_sums(const Sizes& z, int64_t chunks, const Task& task, int lanes, A (&sum)[V], A* to) {
  A* room = SHARED(A);
#pragma unroll
  for (int v = 0; v < V; ++v) {
    if (!LAST && v > 0) break;
    const A total = sum_over_threads(sum[v], lanes, room);
    const int64_t c = task.c + (LAST ? (threadIdx.x % lanes) * V + v : 0);
    if (int(threadIdx.x) < lanes && c < z.c) {
      TOUCH_STORE(sizeof(A));
      to[(task.n * chunks + task.chunk) * z.c + c] = total;
    }
  }
}

template <class T, int V, bool LAST>
__global__ void bias_act_grad_kernel(Sizes z, int64_t chunks, int lanes, T* dx, Acc<T>* sums, const T* dy, const T* y,
                                     Epilogue<T> e) {
  using A = Acc<T>;
  const int width = LAST ? lanes * V : 1;
  const int64_t columns = (z.c + width - 1) / width, plane = z.n * chunks * z.c;
  for (int64_t number = blockIdx.x; number < z.n * chunks * columns; number += gridDim.x) {
    const Task task(z, chunks, number, columns, width);
    A plain[V] = {}, noisy[V] = {}, weighted[V] = {};
    for_each_voxel<V, LAST>(z, task, lanes, [&](int64_t offset, const Place<LAST>& place) {
      const Neighbours<T, V, LAST> beside(z, place, e);
      const Vector<T, V> gradient = load_vector<T, V>(dy + offset), value = load_vector<T, V>(y + offset);
      Vector<T, V> to;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const A d = load(gradient.at[v]), u = load(value.at[v]), g = d * e.activation.derivative(u);
        store(&to.at[v], beside.scale[v] * g);
        const int k = LAST ? v : 0;
        plain[k] += g;
        noisy[k] += g * beside.noise[v];
        weighted[k] += d * u;
      }
      store_vector<T, V>(dx + offset, to);
    });
    write_sums<A, V, LAST>(z, chunks, task, lanes, plain, sums);
    write_sums<A, V, LAST>(z, chunks, task, lanes, noisy, sums + plane);
    write_sums<A, V, LAST>(z, chunks, task, lanes, weighted, sums + 2 * plane);
  }
}

template <class T, int V, bool LAST>
__global__ void bias_act_grad_grad_kernel(Sizes z, int64_t chunks, int lanes, T* ddy, T* dy_y, Acc<T>* sums,
                                          const T* ddx, const Acc<T>* dsums, const T* dy, const T* y, Epilogue<T> e) {
  using A = Acc<T>;
  const int width = LAST ? lanes * V : 1;
  const int64_t columns = (z.c + width - 1) / width, plane = z.n * z.c;
  for (int64_t number = blockIdx.x; number < z.n * chunks * columns; number += gridDim.x) {
    const Task task(z, chunks, number, columns, width);
    A sum[V] = {};
    for_each_voxel<V, LAST>(z, task, lanes, [&](int64_t offset, const Place<LAST>& place) {
      const Neighbours<T, V, LAST> beside(z, place, e);
      const Vector<T, V> gradient = load_vector<T, V>(dy + offset), value = load_vector<T, V>(y + offset);
      const Vector<T, V> outer = load_vector<T, V>(ddx + offset);
      Vector<T, V> to, to_y;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const A d = load(gradient.at[v]), u = load(value.at[v]), slope = e.activation.derivative(u), o = load(outer.at[v]);
        const int64_t row = place.n * z.c + place.channel(v);
        const A weighted = load_one(dsums + 2 * plane + row);
        const A shift = load_one(dsums + row) + load_one(dsums + plane + row) * beside.noise[v];
        store(&to.at[v], slope * (beside.scale[v] * o + shift) + weighted * u);
        store(&to_y.at[v], weighted * d);
        sum[LAST ? v : 0] += slope * d * o;
      }
      store_vector<T, V>(ddy + offset, to);
      store_vector<T, V>(dy_y + offset, to_y);
    });
    write_sums<A, V, LAST>(z, chunks, task, lanes, sum, sums);
  }
}

// --- resample

// How outputs are divided into tiles, and how much of the input a tile needs.
struct Tiling {
  int rows, columns, channels;      // of a tile of the output
  int high, wide;                   // of the largest region of the input that it needs
  int64_t down, across, deep;       // number of tiles along each axis, and along channels
};

template <class T>
__global__ void resample_kernel(int64_t n, int64_t c, bool last, Band<Acc<T>> depth, Band<Acc<T>> height,
                                Band<Acc<T>> width, Tiling tiling, T* y, const T* x, Epilogue<T> e) {
  using A = Acc<T>;
  A* tile = SHARED(A);                                              // [high, wide, channels]
  A* middle = tile + tiling.high * tiling.wide * tiling.channels;   // [rows, wide, channels]
  const A strength = e.noise ? load_one(e.strength) : A(0);
  const int64_t images = last ? n : n * c, step = last ? c : 1;
  const int64_t tiles = images * depth.outputs * tiling.down * tiling.across * tiling.deep;
  const int threads = blockDim.x, k = tiling.channels;
  for (int64_t number = blockIdx.x; number < tiles; number += gridDim.x) {
    const int64_t c0 = number % tiling.deep * k, w0 = number / tiling.deep % tiling.across * tiling.columns;
    const int64_t h0 = number / tiling.deep / tiling.across % tiling.down * tiling.rows;
    const int64_t plane = number / tiling.deep / tiling.across / tiling.down;
    const int64_t d = plane % depth.outputs, image = plane / depth.outputs;
    const int rows = height.outputs - h0 < tiling.rows ? int(height.outputs - h0) : tiling.rows;
    const int columns = width.outputs - w0 < tiling.columns ? int(width.outputs - w0) : tiling.columns;
    const int channels = step - c0 < k ? int(step - c0) : k;
    const int top = height.start[h0], left = width.start[w0];
    const int high = height.start[h0 + rows - 1] + height.taps - top, wide = width.start[w0 + columns - 1] + width.taps - left;
    __syncthreads();  // other threads may still read the previous tile
    for (int i = threadIdx.x; i < high * wide * channels; i += threads) {
      const int channel = i % channels, w = i / channels % wide, h = i / channels / wide;
      A sum = 0;
      for (int t = 0; t < depth.taps; ++t) {
        const int64_t from = ((image * depth.inputs + depth.start[d] + t) * height.inputs + top + h) * width.inputs + left + w;
        sum += depth.weight[t * depth.outputs + d] * load_one(x + from * step + c0 + channel);
      }
      tile[(h * tiling.wide + w) * k + channel] = sum;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < rows * wide * channels; i += threads) {
      const int channel = i % channels, w = i / channels % wide, h = i / channels / wide;
      A sum = 0;
      for (int t = 0; t < height.taps; ++t)
        sum += height.weight[t * height.outputs + h0 + h] * tile[((height.start[h0 + h] - top + t) * tiling.wide + w) * k + channel];
      middle[(h * tiling.wide + w) * k + channel] = sum;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < rows * columns * channels; i += threads) {
      const int channel = i % channels, w = i / channels % columns, h = i / channels / columns;
      A sum = 0;
      for (int t = 0; t < width.taps; ++t)
        sum += width.weight[t * width.outputs + w0 + w] * middle[(h * tiling.wide + width.start[w0 + w] - left + t) * k + channel];
      const int64_t sample = last ? image : image / c, row = sample * c + (last ? c0 + channel : image % c);
      const int64_t voxel = (d * height.outputs + h0 + h) * width.outputs + w0 + w;
      const int64_t voxels = depth.outputs * height.outputs * width.outputs;
      const A scale = load_or(e.scale, row, A(1)), bias = load_or(e.bias, row - sample * c, A(0));
      const A noise = e.noise ? strength * load_one(e.noise + sample * voxels + voxel) : A(0);
      TOUCH_STORE(sizeof(T));
      store(y + (image * voxels + voxel) * step + c0 + channel, e.activation.value(scale * sum + (noise + bias)));
    }
  }
}

// V channels of some outputs along the last axis, for channels_last activations, without shared memory. Each column of
// the input, summed over the other axes, stays in registers for all outputs that need it.
constexpr int AT_ONCE = 8;

template <class T, int V, int TAPS>
__global__ void resample_run_kernel(unsigned total, int64_t c, Band<Acc<T>> depth, Band<Acc<T>> height,
                                    Band<Acc<T>> width, T* __restrict__ y, const T* __restrict__ x, Epilogue<T> e) {
  using A = Acc<T>;
  const A strength = e.noise ? load_one(e.strength) : A(0);
  const unsigned groups = unsigned(c) / V, runs = (unsigned(width.outputs) + AT_ONCE - 1) / AT_ONCE;
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += gridDim.x * blockDim.x) {
    const unsigned c0 = i % groups * V, run = i / groups % runs, row = i / groups / runs;  // row: of all samples' outputs
    const unsigned h = row % unsigned(height.outputs), plane = row / unsigned(height.outputs);
    const unsigned d = plane % unsigned(depth.outputs), sample = plane / unsigned(depth.outputs);
    const int first = run * AT_ONCE, end = width.outputs - first < AT_ONCE ? int(width.outputs) : first + AT_ONCE;
    const int64_t line = width.inputs * c;
    const T* corner = x + ((int64_t(sample) * depth.inputs + depth.start[d]) * height.inputs + height.start[h]) * line + c0;
    const auto add_column = [&](int w, A(&sum)[V]) {
#pragma unroll
      for (int v = 0; v < V; ++v) sum[v] = 0;
      for (int t = 0; t < depth.taps; ++t)
        for (int u = 0; u < height.taps; ++u) {
          const A weight = depth.weight[t * depth.outputs + d] * height.weight[u * height.outputs + h];
          const Vector<T, V> from = load_vector<T, V>(corner + (t * height.inputs + u) * line + w * c);
#pragma unroll
          for (int v = 0; v < V; ++v) sum[v] += weight * load(from.at[v]);
        }
    };
    const Neighbours<T, V, true> beside({0, c, 0, true}, Place<true>{sample, c0, 0}, {e.scale, e.bias, nullptr, nullptr, e.activation});
    int next = width.start[first];  // the first column that is not in registers
    A columns[TAPS][V];             // before it
#pragma unroll
    for (int t = 0; t < TAPS; ++t) add_column(next++, columns[t]);
    for (int w = first; w < end; ++w) {
      for (; next < width.start[w] + TAPS; ++next) {
#pragma unroll
        for (int t = 1; t < TAPS; ++t)
#pragma unroll
          for (int v = 0; v < V; ++v) columns[t - 1][v] = columns[t][v];
        add_column(next, columns[TAPS - 1]);
      }
      const int64_t voxel = int64_t(row) * width.outputs + w;  // of all samples' outputs, and of their noise
      const A noise = e.noise ? strength * load_one(e.noise + voxel) : A(0);
      A sum[V] = {};
#pragma unroll
      for (int t = 0; t < TAPS; ++t) {
        const A weight = width.weight[t * width.outputs + w];
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] += weight * columns[t][v];
      }
      Vector<T, V> to;
#pragma unroll
      for (int v = 0; v < V; ++v)
        store(&to.at[v], e.activation.value(beside.scale[v] * sum[v] + (noise + beside.bias[v])));
      store_vector<T, V>(y + voxel * c + c0, to);
    }
  }
}

// --- launching

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline unsigned blocks(int64_t wanted) { return unsigned(wanted < 1 ? 1 : wanted < MOST_BLOCKS ? wanted : MOST_BLOCKS); }

// Whether rows of `inner` elements can be moved V at a time, without crossing rows, chunks or alignment.
template <class T, int V, class... Pointers>
bool fits(int64_t inner, int64_t chunks, Pointers... pointers) {
  bool aligned = true;
  ((aligned = aligned && reinterpret_cast<uintptr_t>(pointers) % (sizeof(T) * V) == 0), ...);
  return aligned && inner % (chunks * V) == 0;
}

// Threads along the channels: a power of two, up to the number of groups of V channels.
inline int lanes_for(const Sizes& z, int vector) {
  int lanes = 1;
  while (z.channels_last && lanes < 32 && lanes * vector < z.c) lanes *= 2;
  return lanes;
}

template <class T>
int launch_bias_act(Sizes z, T* y, const T* x, Epilogue<T> e, void* stream) {
  constexpr int V = 16 / sizeof(T);
  const int64_t total = z.n * z.c * z.s;
  if (total == 0) return 0;
#define RUN(v, last)                                                                                          \
  LAUNCH((bias_act_kernel<T, v, last>), blocks(ceil_div(total / v, THREADS)), THREADS, 0, stream)(z, y, x, e)
  const bool vector = fits<T, V>(z.channels_last ? z.c : z.s, 1, y, x);
  if (z.channels_last) vector ? RUN(V, true) : RUN(1, true);
  else vector ? RUN(V, false) : RUN(1, false);
#undef RUN
  return launch_error();
}

template <class T>
int launch_bias_act_grad(Sizes z, int64_t chunks, T* dx, Acc<T>* sums, const T* dy, const T* y, Epilogue<T> e, void* stream) {
  constexpr int V = 16 / sizeof(T);
  if (z.n * z.c == 0) return 0;
#define RUN(v, last)                                                                                             \
  LAUNCH((bias_act_grad_kernel<T, v, last>), blocks(z.n * chunks * ceil_div(z.c, last ? lanes_for(z, v) * v : 1)), \
         THREADS, THREADS * sizeof(Acc<T>), stream)(z, chunks, lanes_for(z, v), dx, sums, dy, y, e)
  const bool vector = z.channels_last ? fits<T, V>(z.c, 1, dx, dy, y) : fits<T, V>(z.s, chunks, dx, dy, y);
  if (z.channels_last) vector ? RUN(V, true) : RUN(1, true);
  else vector ? RUN(V, false) : RUN(1, false);
#undef RUN
  return launch_error();
}

template <class T>
int launch_bias_act_grad_grad(Sizes z, int64_t chunks, T* ddy, T* dy_y, Acc<T>* sums, const T* ddx, const Acc<T>* dsums,
                              const T* dy, const T* y, Epilogue<T> e, void* stream) {
  constexpr int V = 16 / sizeof(T);
  if (z.n * z.c == 0) return 0;
#define RUN(v, last)                                                                                     \
  LAUNCH((bias_act_grad_grad_kernel<T, v, last>),                                                        \
         blocks(z.n * chunks * ceil_div(z.c, last ? lanes_for(z, v) * v : 1)), THREADS,                  \
         THREADS * sizeof(Acc<T>), stream)(z, chunks, lanes_for(z, v), ddy, dy_y, sums, ddx, dsums, dy, y, e)
  const bool vector = z.channels_last ? fits<T, V>(z.c, 1, ddy, dy_y, ddx, dy, y) : fits<T, V>(z.s, chunks, ddy, dy_y, ddx, dy, y);
  if (z.channels_last) vector ? RUN(V, true) : RUN(1, true);
  else vector ? RUN(V, false) : RUN(1, false);
#undef RUN
  return launch_error();
}

template <class T>
int launch_resample(int64_t n, int64_t c, bool last, const Band<Acc<T>>* bands, const int* steps, T* y, const T* x,
                    Epilogue<T> e, void* stream) {
  const Band<Acc<T>>&depth = bands[0], &height = bands[1], &width = bands[2];
  const int64_t outputs = n * c * depth.outputs * height.outputs * width.outputs;
  if (outputs == 0) return 0;
  constexpr int V = 16 / sizeof(T);
  const int64_t threads = n * depth.outputs * height.outputs * ceil_div(width.outputs, AT_ONCE) * (c / V);
  if (last && threads < (int64_t(1) << 30) && fits<T, V>(c, 1, y, x)) {
#define WITH_TAPS(taps)                                                                                        \
  case taps:                                                                                                  \
    LAUNCH((resample_run_kernel<T, V, taps>), blocks(ceil_div(threads, THREADS)), THREADS, 0, stream)         \
    (unsigned(threads), c, depth, height, width, y, x, e);                                                    \
    return launch_error()
    switch (width.taps) {  // those of a factor of 2, and of its transpose
      WITH_TAPS(1);
      WITH_TAPS(2);
      WITH_TAPS(4);
    }
#undef WITH_TAPS
  }
  Tiling tiling{last ? 4 : 8, last ? 8 : 32, last ? int(c < 32 ? c : 32) : 1, 0, 0, 0, 0, 0};
  int64_t shared;
  for (;;) {
    tiling.high = (tiling.rows - 1) * steps[1] + height.taps;
    tiling.wide = (tiling.columns - 1) * steps[2] + width.taps;
    shared = int64_t(tiling.high + tiling.rows) * tiling.wide * tiling.channels * sizeof(Acc<T>);
    if (shared <= MOST_SHARED) break;
    int& largest = tiling.columns >= tiling.rows ? tiling.columns : tiling.rows;
    if (largest > 1) largest /= 2;
    else if (tiling.channels > 1) tiling.channels /= 2;
    else return FILTER_TOO_LONG;
  }
  tiling.down = ceil_div(height.outputs, tiling.rows), tiling.across = ceil_div(width.outputs, tiling.columns);
  tiling.deep = last ? ceil_div(c, tiling.channels) : 1;
  const int64_t tiles = (last ? n : n * c) * depth.outputs * tiling.down * tiling.across * tiling.deep;
  LAUNCH((resample_kernel<T>), blocks(tiles), THREADS, shared, stream)(n, c, last, depth, height, width, tiling, y, x, e);
  return launch_error();
}
