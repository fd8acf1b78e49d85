// Functions of a library of kernels; plain pointers and sizes, so no header of torch is needed.
//
// All return 0 or an error code, which `stylegan2_cond_error` explains. `number` is the type of x, y, dy, dx and noise;
// scale, bias, strength, weights and sums are of its accumulator. Pointers that are optional may be null. `stream` is
// CUDA's, and ignored on the CPU.
#pragma once
#include <cstdint>

#define INTERFACE extern "C" __attribute__((visibility("default")))

// y = epilogue(x)
INTERFACE int stylegan2_cond_bias_act(int number, int channels_last, int64_t n, int64_t c, int64_t s, void* y,
                                      const void* x, const void* scale, const void* bias, const void* noise,
                                      const void* strength, double slope, double gain, void* stream);

// g = dy · a'(y); dx = scale · g; sums [3, n, chunks, c] = Σ_s g, Σ_s g · noise, Σ_s dy · y
INTERFACE int stylegan2_cond_bias_act_grad(int number, int channels_last, int64_t n, int64_t c, int64_t s,
                                           int64_t chunks, void* dx, void* sums, const void* dy, const void* y,
                                           const void* scale, const void* noise, double slope, double gain,
                                           void* stream);

// The derivative of the former, towards ddx [like x] and dsums [3, n, c]:
// ddy = a'(y) · (scale · ddx + dsums0 + dsums1 · noise) + dsums2 · y; dy_y = dsums2 · dy; sums [n, chunks, c] = Σ_s g · ddx
INTERFACE int stylegan2_cond_bias_act_grad_grad(int number, int channels_last, int64_t n, int64_t c, int64_t s,
                                                int64_t chunks, void* ddy, void* dy_y, void* sums, const void* ddx,
                                                const void* dsums, const void* dy, const void* y, const void* scale,
                                                const void* noise, double slope, double gain, void* stream);

// y [n, c, *outputs] = epilogue((band0 ⊗ band1 ⊗ band2) x [n, c, *inputs]); arrays have three entries, one per axis.
// steps: largest growth of `start` from one output to the next; it never falls.
INTERFACE int stylegan2_cond_resample(int number, int channels_last, int64_t n, int64_t c, const int64_t* inputs,
                                      const int64_t* outputs, const int* taps, const int* steps,
                                      const void* const* starts, const void* const* weights, void* y, const void* x,
                                      const void* scale, const void* bias, const void* noise, const void* strength,
                                      double slope, double gain, void* stream);

INTERFACE const char* stylegan2_cond_error(int code);
