// The four floating-point types of activations, and the type that each is computed in.
#pragma once
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define HOST_DEVICE __host__ __device__ __forceinline__
#else
#define HOST_DEVICE inline __attribute__((always_inline))
#endif

enum Number : int { FLOAT32 = 0, FLOAT64 = 1, BFLOAT16 = 2, FLOAT16 = 3 };

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
#ifdef __CUDACC__
  uint16_t bits;
#else
  _Float16 value;
#endif
};

// float64 is summed in float64, all others in float32.
template <class T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};
template <class T>
using Acc = typename Accumulator<T>::type;

HOST_DEVICE float load(float x) { return x; }
HOST_DEVICE double load(double x) { return x; }
HOST_DEVICE float load(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
HOST_DEVICE void store(float* to, float value) { *to = value; }
HOST_DEVICE void store(double* to, double value) { *to = value; }
HOST_DEVICE void store(BFloat16* to, float value) {  // to the nearest, ties to even; NaN stays NaN
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  to->bits = static_cast<uint16_t>(value == value ? rounded : (bits >> 16) | 0x40u);
}
#ifdef __CUDACC__  // by the instructions themselves: cuda_fp16.h needs more of the toolkit than pip's compiler brings
__device__ __forceinline__ float load(Float16 x) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
  return value;
}
__device__ __forceinline__ void store(Float16* to, float value) {
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to->bits) : "f"(value));
}
#else
HOST_DEVICE float load(Float16 x) { return static_cast<float>(x.value); }
HOST_DEVICE void store(Float16* to, float value) { to->value = static_cast<_Float16>(value); }
#endif

// Calls `RUN(T)` with the type of a number; returns the error code 1 if the number is unknown.
#define WITH_NUMBER(number, RUN)   \
  switch (number) {                \
    case FLOAT32: RUN(float);      \
    case FLOAT64: RUN(double);     \
    case BFLOAT16: RUN(BFloat16);  \
    case FLOAT16: RUN(Float16);    \
    default: return 1;             \
  }
