// Opt-in tier on simdgroup_matrix: the order inside an 8x8x8 step is the hardware's, so its bits are batch-invariant on one
// GPU and not portable. One configuration for every M: 32x32 outputs, four simdgroups of 2x2 fragments, 16 of K staged.
// Only load, store and multiply-accumulate: the map from lanes to elements is not documented. Arguments as in matmul.metal.
#include <metal_simdgroup_matrix>

[[max_total_threads_per_threadgroup(128)]]
kernel void bi_matmul_simdgroup(device const BI_T* a [[buffer(0)]], device const BI_T* b [[buffer(1)]],
                                device BI_T* out [[buffer(2)]], device const BI_T* bias [[buffer(3)]],
                                constant long* p [[buffer(4)]], constant float* f [[buffer(5)]],
                                uint3 group [[threadgroup_position_in_grid]], uint t [[thread_index_in_threadgroup]],
                                uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup BI_FRAGMENT a_mk[32][16];
  threadgroup BI_FRAGMENT b_kn[16][32];
  threadgroup float c_mn[32][32];
  const int rows = int(p[0]), columns = int(p[1]), depth = int(p[2]);
  const int m0 = int(group.y) * 32, n0 = int(group.x) * 32;
  const int sm = int(simd / 2) * 16, sn = int(simd % 2) * 16;
  a += long(group.z) * p[5];
  b += long(group.z) * p[8];
  out += long(group.z) * p[10];
  simdgroup_matrix<float, 8, 8> acc[2][2];
  for (int i = 0; i < 2; i++)
    for (int j = 0; j < 2; j++) acc[i][j] = simdgroup_matrix<float, 8, 8>(0.0f);
  for (int k0 = 0; k0 < depth; k0 += 16) {
    for (int e = int(t); e < 32 * 16; e += 128) {
      const int k = e % 16, m = e / 16;
      const bool inside = m0 + m < rows && k0 + k < depth;
      a_mk[m][k] = BI_FRAGMENT(inside ? float(a[long(m0 + m) * p[3] + long(k0 + k) * p[4]]) : 0.0f);
    }
    for (int e = int(t); e < 16 * 32; e += 128) {
      const int n = e % 32, k = e / 32;
      const bool inside = n0 + n < columns && k0 + k < depth;
      b_kn[k][n] = BI_FRAGMENT(inside ? float(b[long(k0 + k) * p[6] + long(n0 + n) * p[7]]) : 0.0f);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (int k = 0; k < 16; k += 8) {
      simdgroup_matrix<BI_FRAGMENT, 8, 8> fa[2];
      simdgroup_matrix<BI_FRAGMENT, 8, 8> fb[2];
      for (int i = 0; i < 2; i++) simdgroup_load(fa[i], &a_mk[sm + 8 * i][k], 16);
      for (int j = 0; j < 2; j++) simdgroup_load(fb[j], &b_kn[k][sn + 8 * j], 32);
      for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) simdgroup_multiply_accumulate(acc[i][j], fa[i], fb[j], acc[i][j]);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  for (int i = 0; i < 2; i++)
    for (int j = 0; j < 2; j++) simdgroup_store(acc[i][j], &c_mn[sm + 8 * i][sn + 8 * j], 32);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (int e = int(t); e < 32 * 32; e += 128) {
    const int m = m0 + e / 32, n = n0 + e % 32;
    if (m < rows && n < columns) {
      float r = c_mn[e / 32][e % 32] * f[0];
      if (p[11] != 0) {
        const float c = float(bias[long(group.z) * p[14] + long(m) * p[12] + long(n) * p[13]]) * f[1];
        r = r + c;
      }
      out[long(m) * p[9] + long(n)] = BI_T(r);
    }
  }
}
