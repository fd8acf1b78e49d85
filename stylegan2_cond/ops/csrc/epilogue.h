// What happens to each voxel of an activation between two convolutions; all kernels share this definition.
//
//   p = scale[n, c] · x + strength · noise[n, s] + bias[c]        y = gain · (p > 0 ? p : slope · p)
//
// With slope > 0 and gain > 0, y has the sign of p, so p need not be kept, and gain · a'(p) · p = y.
#pragma once
#include "number.h"

template <class A>
struct Activation {
  A slope, gain;

  HOST_DEVICE A value(A p) const { return gain * (p > A(0) ? p : slope * p); }
  HOST_DEVICE A derivative(A y) const { return y > A(0) ? gain : gain * slope; }
};

// Pointers may be null: scale is then 1, bias and noise are 0.
template <class T>
struct Epilogue {
  const Acc<T>* scale;     // [n, c]
  const Acc<T>* bias;      // [c]
  const T* noise;          // [n, s]
  const Acc<T>* strength;  // [1]
  Activation<Acc<T>> activation;
};

// Sizes of an activation with flattened voxels: [n, c, s], or [n, s, c] if channels are last.
struct Sizes {
  int64_t n, c, s;
  bool channels_last;
};

// Banded matrix of one axis: out[o] = Σ_t weight[t, o] · in[start[o] + t].
template <class A>
struct Band {
  int64_t inputs, outputs;
  int taps;
  const int32_t* start;  // [outputs]
  const A* weight;       // [taps, outputs]
};
