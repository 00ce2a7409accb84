// out[z,m,n] = alpha * sum_k a[z,m,k] b[z,k,n] + beta * bias[z,m,n], tile schedule: BI_M x BI_N outputs a threadgroup,
// 4x4 a thread. Plan: acc = fma(a_k, b_k, acc) inside a piece of BI_SPLIT, k ascending; total = total + acc, pieces
// ascending; then alpha, bias, one rounding. Padding K with zeros inside a piece changes no bit.
// p: 0 M, 1 N, 2 K, strides 3 a_m 4 a_k 5 a_z, 6 b_k 7 b_n 8 b_z, 9 out_m 10 out_z, 11 has_bias, 12 bias_m 13 bias_n 14 bias_z
// f: 0 alpha, 1 beta
#define BI_THREADS ((BI_M / 4) * (BI_N / 4))
static_assert(BI_SPLIT % BI_K == 0, "a staged slice of K may not cross a piece");

[[max_total_threads_per_threadgroup(BI_THREADS)]]
kernel void bi_matmul_tile(device const BI_T* a [[buffer(0)]], device const BI_T* b [[buffer(1)]],
                           device BI_T* out [[buffer(2)]], device const BI_T* bias [[buffer(3)]],
                           constant long* p [[buffer(4)]], constant float* f [[buffer(5)]],
                           uint3 group [[threadgroup_position_in_grid]], uint t [[thread_index_in_threadgroup]]) {
  threadgroup float a_km[BI_K][BI_M];
  threadgroup float4 b_kn[BI_K][BI_N / 4];
  const int rows = int(p[0]), columns = int(p[1]), depth = int(p[2]);
  const int m0 = int(group.y) * BI_M, n0 = int(group.x) * BI_N;
  a += long(group.z) * p[5];
  b += long(group.z) * p[8];
  out += long(group.z) * p[10];
  const int tx = int(t) % (BI_N / 4), ty = int(t) / (BI_N / 4);
  const bool a_by_k = p[4] == 1, b_by_k = p[6] == 1 && p[7] != 1;   // neighbouring threads read neighbouring addresses
  float4 acc[4], total[4];
  for (int i = 0; i < 4; i++) {
    acc[i] = float4(0.0f);
    total[i] = float4(0.0f);
  }
  for (int k0 = 0; k0 < depth; k0 += BI_K) {
    for (int e = int(t); e < BI_M * BI_K; e += BI_THREADS) {
      const int k = a_by_k ? e % BI_K : e / BI_M, m = a_by_k ? e / BI_K : e % BI_M;
      const bool inside = m0 + m < rows && k0 + k < depth;
      a_km[k][m] = inside ? float(a[long(m0 + m) * p[3] + long(k0 + k) * p[4]]) : 0.0f;
    }
    for (int e = int(t); e < BI_N * BI_K; e += BI_THREADS) {
      const int k = b_by_k ? e % BI_K : e / BI_N, n = b_by_k ? e / BI_K : e % BI_N;
      const bool inside = n0 + n < columns && k0 + k < depth;
      b_kn[k][n / 4][n % 4] = inside ? float(b[long(k0 + k) * p[6] + long(n0 + n) * p[7]]) : 0.0f;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (int k = 0; k < BI_K; k++) {
      const float4 w = b_kn[k][tx];
      for (int i = 0; i < 4; i++) acc[i] = fma(float4(a_km[k][ty * 4 + i]), w, acc[i]);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if ((k0 + BI_K) % BI_SPLIT == 0) {
      for (int i = 0; i < 4; i++) {
        total[i] = total[i] + acc[i];
        acc[i] = float4(0.0f);
      }
    }
  }
  for (int i = 0; i < 4; i++) {
    const int m = m0 + ty * 4 + i;
    total[i] = total[i] + acc[i];
    for (int j = 0; j < 4; j++) {
      const int n = n0 + tx * 4 + j;
      if (m < rows && n < columns) {
        float r = total[i][j] * f[0];
        if (p[11] != 0) {
          const float c = float(bias[long(group.z) * p[14] + long(m) * p[12] + long(n) * p[13]]) * f[1];
          r = r + c;
        }
        out[long(m) * p[9] + long(n)] = BI_T(r);
      }
    }
  }
}
