// The plan of matmul.metal for few rows: pieces of K are taken side by side and their sums added in order.
// BI_ROWS rows share one read of b. Arguments as in matmul.metal.
#define BI_SIMDS 8

inline float bi_finish(float total, long m, long n, long z, device const BI_T* bias, constant long* p, constant float* f) {
  float r = total * f[0];
  if (p[11] != 0) {
    const float c = float(bias[z * p[14] + m * p[12] + n * p[13]]) * f[1];
    r = r + c;
  }
  return r;
}

// b contiguous along K (a linear layer's weight): one simdgroup an output column, one piece a lane.
[[max_total_threads_per_threadgroup(BI_SIMDS * 32)]]
kernel void bi_gemv_k(device const BI_T* a [[buffer(0)]], device const BI_T* b [[buffer(1)]],
                      device BI_T* out [[buffer(2)]], device const BI_T* bias [[buffer(3)]],
                      constant long* p [[buffer(4)]], constant float* f [[buffer(5)]],
                      uint3 group [[threadgroup_position_in_grid]], uint t [[thread_index_in_threadgroup]]) {
  threadgroup float part[BI_SIMDS][BI_ROWS][32];
  const int rows = int(p[0]), columns = int(p[1]), depth = int(p[2]);
  const int simd = int(t) / 32, lane = int(t) % 32;
  const int n = int(group.x) * BI_SIMDS + simd, m0 = int(group.y) * BI_ROWS;
  a += long(group.z) * p[5] + long(m0) * p[3];
  b += long(group.z) * p[8] + long(n < columns ? n : 0) * p[7];
  const int pieces = (depth + BI_SPLIT - 1) / BI_SPLIT;
  float total[BI_ROWS];
  for (int i = 0; i < BI_ROWS; i++) total[i] = 0.0f;
  for (int c0 = 0; c0 < pieces; c0 += 32) {
    const int first = (c0 + lane) * BI_SPLIT, last = min(first + BI_SPLIT, depth);
    float acc[BI_ROWS];
    for (int i = 0; i < BI_ROWS; i++) acc[i] = 0.0f;
    for (int k = first; k < last; k++) {
      const float w = float(b[long(k) * p[6]]);
      for (int i = 0; i < BI_ROWS; i++)
        if (m0 + i < rows) acc[i] = fma(float(a[long(i) * p[3] + long(k) * p[4]]), w, acc[i]);
    }
    for (int i = 0; i < BI_ROWS; i++) part[simd][i][lane] = acc[i];
    simdgroup_barrier(mem_flags::mem_threadgroup);
    const int live = min(pieces - c0, 32);
    for (int i = 0; i < BI_ROWS; i++)
      for (int c = 0; c < live; c++) total[i] = total[i] + part[simd][i][c];
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
  if (lane < BI_ROWS && m0 + lane < rows && n < columns) {
    float r = total[0];
    for (int i = 1; i < BI_ROWS; i++) r = lane == i ? total[i] : r;
    r = bi_finish(r, m0 + lane, n, group.z, bias, p, f);
    out[long(group.z) * p[10] + long(m0 + lane) * p[9] + long(n)] = BI_T(r);
  }
}

// b contiguous along N: a lane an output column, the simdgroups take pieces in turn.
[[max_total_threads_per_threadgroup(BI_SIMDS * 32)]]
kernel void bi_gemv_n(device const BI_T* a [[buffer(0)]], device const BI_T* b [[buffer(1)]],
                      device BI_T* out [[buffer(2)]], device const BI_T* bias [[buffer(3)]],
                      constant long* p [[buffer(4)]], constant float* f [[buffer(5)]],
                      uint3 group [[threadgroup_position_in_grid]], uint t [[thread_index_in_threadgroup]]) {
  threadgroup float part[BI_SIMDS][BI_ROWS][32];
  const int rows = int(p[0]), columns = int(p[1]), depth = int(p[2]);
  const int simd = int(t) / 32, lane = int(t) % 32;
  const int n = int(group.x) * 32 + lane, m0 = int(group.y) * BI_ROWS;
  a += long(group.z) * p[5] + long(m0) * p[3];
  b += long(group.z) * p[8] + long(n < columns ? n : 0) * p[7];
  const int pieces = (depth + BI_SPLIT - 1) / BI_SPLIT;
  float total[BI_ROWS];
  for (int i = 0; i < BI_ROWS; i++) total[i] = 0.0f;
  for (int c0 = 0; c0 < pieces; c0 += BI_SIMDS) {
    const int first = (c0 + simd) * BI_SPLIT, last = min(first + BI_SPLIT, depth);
    float acc[BI_ROWS];
    for (int i = 0; i < BI_ROWS; i++) acc[i] = 0.0f;
    for (int k = first; k < last; k++) {
      const float w = float(b[long(k) * p[6]]);
      for (int i = 0; i < BI_ROWS; i++)
        if (m0 + i < rows) acc[i] = fma(float(a[long(i) * p[3] + long(k) * p[4]]), w, acc[i]);
    }
    for (int i = 0; i < BI_ROWS; i++) part[simd][i][lane] = acc[i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const int live = min(pieces - c0, BI_SIMDS);
    for (int i = 0; i < BI_ROWS; i++)
      for (int c = 0; c < live; c++) total[i] = total[i] + part[c][i][lane];
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  if (simd < BI_ROWS && m0 + simd < rows && n < columns) {
    float r = total[0];
    for (int i = 1; i < BI_ROWS; i++) r = simd == i ? total[i] : r;
    r = bi_finish(r, m0 + simd, n, group.z, bias, p, f);
    out[long(group.z) * p[10] + long(m0 + simd) * p[9] + long(n)] = BI_T(r);
  }
}
