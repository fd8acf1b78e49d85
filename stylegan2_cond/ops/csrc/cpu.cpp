// Kernels for the CPU: OpenMP over samples and voxels, inner loops that compilers vectorize.
#include <algorithm>
#include <vector>

#include "epilogue.h"
#include "interface.h"

namespace {

constexpr int64_t PARALLEL_FROM = 16384;  // elements; with fewer, threads cost more than they save
constexpr int64_t BLOCK = 2048;           // elements per turn of a thread

template <class A>
const A* or_constant(const A* given, std::vector<A>& room, int64_t count, A constant) {
  if (given != nullptr) return given;
  room.assign(count, constant);
  return room.data();
}

template <class T>
int launch_bias_act(Sizes z, T* y, const T* x, Epilogue<T> e, void*) {
  using A = Acc<T>;
  const A strength = e.noise ? *e.strength : A(0);
  const bool parallel = z.n * z.c * z.s >= PARALLEL_FROM;
  const Activation<A> act = e.activation;
  if (!z.channels_last) {
#pragma omp parallel for schedule(static) if (parallel)
    for (int64_t row = 0; row < z.n * z.c; ++row) {
      const A scale = e.scale ? e.scale[row] : A(1), bias = e.bias ? e.bias[row % z.c] : A(0);
      const T *from = x + row * z.s, *noise = e.noise + (e.noise ? row / z.c * z.s : 0);
      T* to = y + row * z.s;
      if (e.noise) {
#pragma omp simd
        for (int64_t s = 0; s < z.s; ++s)
          store(to + s, act.value(scale * load(from[s]) + (strength * load(noise[s]) + bias)));
      } else {
#pragma omp simd
        for (int64_t s = 0; s < z.s; ++s) store(to + s, act.value(scale * load(from[s]) + bias));
      }
    }
    return 0;
  }
  std::vector<A> ones, zeros;
  const A* bias = or_constant(e.bias, zeros, z.c, A(0));
  const A* scales = e.scale ? e.scale : or_constant<A>(nullptr, ones, z.c, A(1));
#pragma omp parallel for schedule(static) if (parallel)
  for (int64_t voxel = 0; voxel < z.n * z.s; ++voxel) {
    const A* scale = scales + (e.scale ? voxel / z.s * z.c : 0);
    const A shift = e.noise ? strength * load(e.noise[voxel]) : A(0);
    const T* from = x + voxel * z.c;
    T* to = y + voxel * z.c;
#pragma omp simd
    for (int64_t c = 0; c < z.c; ++c) store(to + c, act.value(scale[c] * load(from[c]) + (shift + bias[c])));
  }
  return 0;
}

// Voxels of chunk `chunk` out of `chunks`.
struct Range {
  int64_t begin, end;
  Range(int64_t chunk, int64_t chunks, int64_t s) : begin(chunk * s / chunks), end((chunk + 1) * s / chunks) {}
};

template <class T>
int launch_bias_act_grad(Sizes z, int64_t chunks, T* dx, Acc<T>* sums, const T* dy, const T* y, Epilogue<T> e, void*) {
  using A = Acc<T>;
  const int64_t plane = z.n * chunks * z.c;  // of one of the sums
  const bool parallel = z.n * z.c * z.s >= PARALLEL_FROM;
  const Activation<A> act = e.activation;
  if (!z.channels_last) {
#pragma omp parallel for schedule(static) if (parallel)
    for (int64_t task = 0; task < z.n * chunks * z.c; ++task) {
      const int64_t n = task / z.c / chunks, chunk = task / z.c % chunks, c = task % z.c, row = n * z.c + c;
      const Range range(chunk, chunks, z.s);
      const A scale = e.scale ? e.scale[row] : A(1);
      const T *gradient = dy + row * z.s, *value = y + row * z.s, *noise = e.noise + (e.noise ? n * z.s : 0);
      T* to = dx + row * z.s;
      A sum = 0, noisy = 0, weighted = 0;
      if (e.noise) {
#pragma omp simd reduction(+ : noisy)
        for (int64_t s = range.begin; s < range.end; ++s)
          noisy += load(gradient[s]) * act.derivative(load(value[s])) * load(noise[s]);
      }
#pragma omp simd reduction(+ : sum, weighted)
      for (int64_t s = range.begin; s < range.end; ++s) {
        const A d = load(gradient[s]), v = load(value[s]), g = d * act.derivative(v);
        store(to + s, scale * g);
        sum += g;
        weighted += d * v;
      }
      sums[task] = sum, sums[plane + task] = noisy, sums[2 * plane + task] = weighted;
    }
    return 0;
  }
  std::vector<A> ones;
  const A* scales = e.scale ? e.scale : or_constant<A>(nullptr, ones, z.c, A(1));
#pragma omp parallel for schedule(static) if (parallel)
  for (int64_t task = 0; task < z.n * chunks; ++task) {
    const int64_t n = task / chunks;
    const Range range(task % chunks, chunks, z.s);
    const A* scale = scales + (e.scale ? n * z.c : 0);
    A *sum = sums + task * z.c, *noisy = sum + plane, *weighted = noisy + plane;
    std::fill_n(sum, z.c, A(0)), std::fill_n(noisy, z.c, A(0)), std::fill_n(weighted, z.c, A(0));
    for (int64_t voxel = n * z.s + range.begin; voxel < n * z.s + range.end; ++voxel) {
      const A noise = e.noise ? load(e.noise[voxel]) : A(0);
      const T *gradient = dy + voxel * z.c, *value = y + voxel * z.c;
      T* to = dx + voxel * z.c;
#pragma omp simd
      for (int64_t c = 0; c < z.c; ++c) {
        const A d = load(gradient[c]), v = load(value[c]), g = d * act.derivative(v);
        store(to + c, scale[c] * g);
        sum[c] += g;
        noisy[c] += g * noise;
        weighted[c] += d * v;
      }
    }
  }
  return 0;
}

template <class T>
int launch_bias_act_grad_grad(Sizes z, int64_t chunks, T* ddy, T* dy_y, Acc<T>* sums, const T* ddx, const Acc<T>* dsums,
                              const T* dy, const T* y, Epilogue<T> e, void*) {
  using A = Acc<T>;
  const bool parallel = z.n * z.c * z.s >= PARALLEL_FROM;
  const Activation<A> act = e.activation;
  const int64_t plane = z.n * z.c;  // of one of dsums
  if (!z.channels_last) {
#pragma omp parallel for schedule(static) if (parallel)
    for (int64_t task = 0; task < z.n * chunks * z.c; ++task) {
      const int64_t n = task / z.c / chunks, chunk = task / z.c % chunks, c = task % z.c, row = n * z.c + c;
      const Range range(chunk, chunks, z.s);
      const A scale = e.scale ? e.scale[row] : A(1);
      const A plain = dsums[row], noisy = dsums[plane + row], weighted = dsums[2 * plane + row];
      A sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t s = range.begin; s < range.end; ++s) {
        const int64_t i = row * z.s + s;
        const A d = load(dy[i]), v = load(y[i]), slope = act.derivative(v), outer = load(ddx[i]);
        const A noise = e.noise ? load(e.noise[n * z.s + s]) : A(0);
        store(ddy + i, slope * (scale * outer + plain + noisy * noise) + weighted * v);
        store(dy_y + i, weighted * d);
        sum += slope * d * outer;
      }
      sums[task] = sum;
    }
    return 0;
  }
  std::vector<A> ones;
  const A* scales = e.scale ? e.scale : or_constant<A>(nullptr, ones, z.c, A(1));
#pragma omp parallel for schedule(static) if (parallel)
  for (int64_t task = 0; task < z.n * chunks; ++task) {
    const int64_t n = task / chunks;
    const Range range(task % chunks, chunks, z.s);
    const A *scale = scales + (e.scale ? n * z.c : 0), *plain = dsums + n * z.c;
    const A *noisy = plain + plane, *weighted = noisy + plane;
    A* sum = sums + task * z.c;
    std::fill_n(sum, z.c, A(0));
    for (int64_t voxel = n * z.s + range.begin; voxel < n * z.s + range.end; ++voxel) {
      const A noise = e.noise ? load(e.noise[voxel]) : A(0);
      const int64_t first = voxel * z.c;
#pragma omp simd
      for (int64_t c = 0; c < z.c; ++c) {
        const A d = load(dy[first + c]), v = load(y[first + c]), slope = act.derivative(v), outer = load(ddx[first + c]);
        store(ddy + first + c, slope * (scale[c] * outer + plain[c] + noisy[c] * noise) + weighted[c] * v);
        store(dy_y + first + c, weighted[c] * d);
        sum[c] += slope * d * outer;
      }
    }
  }
  return 0;
}

// Resamples along the last axis: row [inputs, width], already resampled along the others → to [outputs, width].
template <class T, int TAPS>
void last_axis(const Band<Acc<T>>& band, int64_t width, const Acc<T>* row, T* to, const Acc<T>* scale,
               const Acc<T>* bias, const T* noise, Acc<T> strength, const Activation<Acc<T>>& act) {
  using A = Acc<T>;
  const int taps = TAPS ? TAPS : band.taps;
  const int64_t outputs = band.outputs;
  if (width == 1) {
    const A factor = *scale, shift = *bias;
#pragma omp simd
    for (int64_t o = 0; o < outputs; ++o) {
      A sum = 0;
      for (int t = 0; t < taps; ++t) sum += band.weight[t * outputs + o] * row[band.start[o] + t];
      const A noisy = noise ? strength * load(noise[o]) : A(0);
      store(to + o, act.value(factor * sum + (noisy + shift)));
    }
    return;
  }
  for (int64_t o = 0; o < outputs; ++o) {
    const A shift = noise ? strength * load(noise[o]) : A(0);
    const A* from = row + band.start[o] * width;
    A weight[TAPS ? TAPS : 1];
    for (int t = 0; t < TAPS; ++t) weight[t] = band.weight[t * outputs + o];
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) {
      A sum = 0;
      if (TAPS)
        for (int t = 0; t < TAPS; ++t) sum += weight[t] * from[t * width + c];
      else
        for (int t = 0; t < taps; ++t) sum += band.weight[t * outputs + o] * from[t * width + c];
      store(to + o * width + c, act.value(scale[c] * sum + (shift + bias[c])));
    }
  }
}

// Weighted sum of the input rows of an output row; `from` is the first of them.
template <class T>
void gather_row(const Band<Acc<T>>& deep, int64_t d, const Band<Acc<T>>& high, int64_t h, int64_t length, const T* from,
                Acc<T>* row) {
  using A = Acc<T>;
  bool first = true;
  for (int i = 0; i < deep.taps; ++i)
    for (int j = 0; j < high.taps; ++j) {
      const A weight = deep.weight[i * deep.outputs + d] * high.weight[j * high.outputs + h];
      const T* other = from + (i * high.inputs + j) * length;
      if (first) {
#pragma omp simd
        for (int64_t k = 0; k < length; ++k) row[k] = weight * load(other[k]);
      } else if (weight != A(0)) {
#pragma omp simd
        for (int64_t k = 0; k < length; ++k) row[k] += weight * load(other[k]);
      }
      first = false;
    }
}

template <class T>
int launch_resample(int64_t n, int64_t c, bool channels_last, const Band<Acc<T>>* bands, const int*, T* y, const T* x,
                    Epilogue<T> e, void*) {
  using A = Acc<T>;
  const int64_t width = channels_last ? c : 1, images = channels_last ? n : n * c;
  const Band<A>&deep = bands[0], &high = bands[1], &wide = bands[2];
  const A strength = e.noise ? *e.strength : A(0);
  const int64_t inputs = wide.inputs * width;
  std::vector<A> ones, zeros;
  const A* biases = or_constant(e.bias, zeros, c, A(0));
  const A* scales = or_constant(e.scale, ones, n * c, A(1));
  const int64_t block = std::clamp<int64_t>(BLOCK / (wide.outputs * width), 1, high.outputs);  // rows of a turn
  const int64_t blocks = (high.outputs + block - 1) / block, planes = images * deep.outputs;
  const auto run = wide.taps == 1   ? last_axis<T, 1>
                   : wide.taps == 2 ? last_axis<T, 2>
                   : wide.taps == 3 ? last_axis<T, 3>
                   : wide.taps == 4 ? last_axis<T, 4>
                                    : last_axis<T, 0>;
#pragma omp parallel if (planes * high.outputs * wide.outputs * width >= PARALLEL_FROM)
  {
    std::vector<A> room(inputs);
#pragma omp for schedule(static)
    for (int64_t task = 0; task < planes * blocks; ++task) {
      const int64_t plane = task / blocks, image = plane / deep.outputs, d = plane % deep.outputs;
      const int64_t sample = channels_last ? image : image / c, channel = channels_last ? 0 : image % c;
      const int64_t from = task % blocks * block, to = std::min(from + block, high.outputs);
      for (int64_t h = from; h < to; ++h) {
        const T* start = x + ((image * deep.inputs + deep.start[d]) * high.inputs + high.start[h]) * inputs;
        gather_row<T>(deep, d, high, h, inputs, start, room.data());
        const int64_t place = ((sample * deep.outputs + d) * high.outputs + h) * wide.outputs;
        run(wide, width, room.data(), y + (plane * high.outputs + h) * wide.outputs * width,
            scales + sample * c + channel, biases + channel, e.noise ? e.noise + place : nullptr, strength,
            e.activation);
      }
    }
  }
  return 0;
}

}  // namespace

#include "entries.h"

const char* stylegan2_cond_error(int) { return "unknown type of numbers"; }
