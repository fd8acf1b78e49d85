// The interface, from the four `launch_…` functions: turns type numbers and plain pointers into typed ones.
#pragma once
#include "interface.h"

template <class T>
static Epilogue<T> epilogue(const void* scale, const void* bias, const void* noise, const void* strength, double slope,
                            double gain) {
  using A = Acc<T>;
  return {static_cast<const A*>(scale), static_cast<const A*>(bias), static_cast<const T*>(noise),
          static_cast<const A*>(strength), {A(slope), A(gain)}};
}

int stylegan2_cond_bias_act(int number, int channels_last, int64_t n, int64_t c, int64_t s, void* y, const void* x,
                            const void* scale, const void* bias, const void* noise, const void* strength, double slope,
                            double gain, void* stream) {
#define RUN(T)                                                                                            \
  return launch_bias_act<T>({n, c, s, channels_last != 0}, static_cast<T*>(y), static_cast<const T*>(x), \
                            epilogue<T>(scale, bias, noise, strength, slope, gain), stream)
  WITH_NUMBER(number, RUN)
#undef RUN
}

int stylegan2_cond_bias_act_grad(int number, int channels_last, int64_t n, int64_t c, int64_t s, int64_t chunks,
                                 void* dx, void* sums, const void* dy, const void* y, const void* scale,
                                 const void* noise, double slope, double gain, void* stream) {
#define RUN(T)                                                                                    \
  return launch_bias_act_grad<T>({n, c, s, channels_last != 0}, chunks, static_cast<T*>(dx),     \
                                 static_cast<Acc<T>*>(sums), static_cast<const T*>(dy),          \
                                 static_cast<const T*>(y),                                       \
                                 epilogue<T>(scale, nullptr, noise, nullptr, slope, gain), stream)
  WITH_NUMBER(number, RUN)
#undef RUN
}

int stylegan2_cond_bias_act_grad_grad(int number, int channels_last, int64_t n, int64_t c, int64_t s, int64_t chunks,
                                      void* ddy, void* dy_y, void* sums, const void* ddx, const void* dsums,
                                      const void* dy, const void* y, const void* scale, const void* noise,
                                      double slope, double gain, void* stream) {
#define RUN(T)                                                                                         \
  return launch_bias_act_grad_grad<T>({n, c, s, channels_last != 0}, chunks, static_cast<T*>(ddy),    \
                                      static_cast<T*>(dy_y), static_cast<Acc<T>*>(sums),              \
                                      static_cast<const T*>(ddx), static_cast<const Acc<T>*>(dsums),  \
                                      static_cast<const T*>(dy), static_cast<const T*>(y),            \
                                      epilogue<T>(scale, nullptr, noise, nullptr, slope, gain), stream)
  WITH_NUMBER(number, RUN)
#undef RUN
}

template <class T>
static int resample_of(int channels_last, int64_t n, int64_t c, const int64_t* inputs, const int64_t* outputs,
                       const int* taps, const int* steps, const void* const* starts, const void* const* weights,
                       void* y, const void* x, Epilogue<T> e, void* stream) {
  Band<Acc<T>> bands[3];
  for (int axis = 0; axis < 3; ++axis)
    bands[axis] = {inputs[axis], outputs[axis], taps[axis], static_cast<const int32_t*>(starts[axis]),
                   static_cast<const Acc<T>*>(weights[axis])};
  return launch_resample<T>(n, c, channels_last != 0, bands, steps, static_cast<T*>(y), static_cast<const T*>(x), e,
                            stream);
}

int stylegan2_cond_resample(int number, int channels_last, int64_t n, int64_t c, const int64_t* inputs,
                            const int64_t* outputs, const int* taps, const int* steps, const void* const* starts,
                            const void* const* weights, void* y, const void* x, const void* scale, const void* bias,
                            const void* noise, const void* strength, double slope, double gain,
                            void* stream) {
#define RUN(T)                                                                                      \
  return resample_of<T>(channels_last, n, c, inputs, outputs, taps, steps, starts, weights, y, x,   \
                        epilogue<T>(scale, bias, noise, strength, slope, gain), stream)
  WITH_NUMBER(number, RUN)
#undef RUN
}
