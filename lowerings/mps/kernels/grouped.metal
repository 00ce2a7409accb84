// Rows cut into groups by offsets, each group times a matrix of its own, in the plan of matmul: pieces of BI_SPLIT, one fma
// chain a piece, pieces in order. One thread a result. p: 0 M 1 N 2 K 3 groups, strides: 4 a (m k), 6 b (g k n)
[[max_total_threads_per_threadgroup(64)]]
kernel void bi_grouped(device const BI_T* a [[buffer(0)]], device const BI_T* b [[buffer(1)]], device const int* stop [[buffer(2)]],
                       device BI_T* out [[buffer(3)]], constant long* p [[buffer(4)]], uint at [[thread_position_in_grid]]) {
  const long m = long(at) / p[1], n = long(at) % p[1];
  if (m >= p[0]) return;
  long g = 0;
  while (g < p[3] && m >= long(stop[g])) g = g + 1;
  float total = 0.0f;
  if (g < p[3]) {
    a += m * p[4];
    b += g * p[6] + n * p[8];
    for (long k0 = 0; k0 < p[2]; k0 += BI_SPLIT) {
      float acc = 0.0f;
      for (long k = k0; k < k0 + BI_SPLIT && k < p[2]; k++) {
        acc = fma(float(a[k * p[5]]), float(b[k * p[7]]), acc);
      }
      total = total + acc;
    }
  }
  out[m * p[1] + n] = BI_T(total);
}
