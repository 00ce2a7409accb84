// Declarations only, for clang -fsyntax-only: device, constant and threadgroup as real address spaces.
#pragma once
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define bfloat float
#define half float
template <class T> struct vec2 { T x, y; };
template <class T> struct vec3 { T x, y, z; };
typedef float float4 __attribute__((ext_vector_type(4)));
typedef vec2<int> int2;
typedef vec3<uint> uint3;
template <class T, class U> T as_type(U);
namespace metal {
namespace precise { float sqrt(float); }
float fma(float, float, float);
float4 fma(float4, float4, float4);
float rint(float);
bool isnan(float);
bool isinf(float);
int min(int, int);
int max(int, int);
enum class mem_flags { mem_none, mem_device, mem_threadgroup };
void threadgroup_barrier(mem_flags);
void simdgroup_barrier(mem_flags);
template <class T> T simd_shuffle_xor(T, ushort);
template <class T, int R, int C> struct simdgroup_matrix {
  simdgroup_matrix() = default;
  explicit simdgroup_matrix(T);
};
template <class T> void simdgroup_load(simdgroup_matrix<T, 8, 8>&, const __attribute__((address_space(3))) T*, unsigned long);
template <class T> void simdgroup_store(simdgroup_matrix<T, 8, 8>, __attribute__((address_space(3))) T*, unsigned long);
template <class T> void simdgroup_multiply_accumulate(simdgroup_matrix<float, 8, 8>&, simdgroup_matrix<T, 8, 8>, simdgroup_matrix<T, 8, 8>, simdgroup_matrix<float, 8, 8>);
}  // namespace metal
#define kernel
#define thread
#define device __attribute__((address_space(1)))
#define constant const __attribute__((address_space(2)))
#define threadgroup __attribute__((address_space(3)))
