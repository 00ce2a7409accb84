// Softmax attention. Plan, for each query alone: keys are counted from the query's first visible key (0 without a mask), so
// padding on either side moves nothing. Score: q scaled first, fma chain over d. Blocks of 32 keys: m' = max(m, scores),
// alpha = exp(m - m'), p_j = exp(s_j - m'), l = fma(l, alpha, sum p_j ascending), o = o alpha, o = fma(p_j, v_j, o)
// ascending. A partial (m, l, o) starts every BI_SPLIT keys; partials merge in key order. A masked key is an exact no-op:
// it is skipped, never multiplied by zero. Schedules: BI_Q queries a threadgroup; all pieces in one threadgroup, or one
// piece a threadgroup (BI_PIECES) and a second kernel that merges them in order. out is [Z, Lq, H, DV].
// p: 0 Z 1 H 2 H per KV head 3 Lq 4 Lk 5 causal 6 pieces, strides z h l: 7 q, 10 k, 13 v, 16 mask (19: key), 20 span
#define BI_BLOCK 32
#define BI_OWN ((BI_DV + BI_THREADS - 1) / BI_THREADS)
static_assert(BI_SPLIT % BI_BLOCK == 0, "a block of keys may not cross a piece");

[[max_total_threads_per_threadgroup(BI_THREADS)]]
kernel void bi_attention(device const BI_T* q [[buffer(0)]], device const BI_T* k [[buffer(1)]], device const BI_T* v [[buffer(2)]],
                         device const BI_M* mask [[buffer(3)]], device const int* span [[buffer(4)]], device BI_T* out [[buffer(5)]],
                         device float* lse [[buffer(6)]], device float* partial [[buffer(7)]],
                         constant long* p [[buffer(8)]], constant float* f [[buffer(9)]],
                         uint3 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float q_scaled[BI_Q][BI_D];
  threadgroup float score[BI_Q][BI_BLOCK];
  threadgroup float weight[BI_Q][BI_BLOCK];
  threadgroup float top[BI_Q];
  threadgroup float next_top[BI_Q];
  threadgroup float decay[BI_Q];
  threadgroup float length[BI_Q];
  threadgroup int start[BI_Q];
  threadgroup int stop[BI_Q];
  threadgroup int soft[BI_Q];
  const int t = int(thread_index), h = int(group.y), hk = h / int(p[2]);
  const int z = int(group.z) / int(p[6]), only = int(group.z) % int(p[6]);
  const int queries = int(p[3]), keys = int(p[4]), i0 = int(group.x) * BI_Q;
  q += long(z) * p[7] + long(h) * p[8];
  k += long(z) * p[10] + long(hk) * p[11];
  v += long(z) * p[13] + long(hk) * p[14];
  for (int e = t; e < BI_Q * BI_D; e += BI_THREADS) {
    const int i = min(i0 + e / BI_D, queries - 1);
    q_scaled[e / BI_D][e % BI_D] = float(q[long(i) * p[9] + long(e % BI_D)]) * f[0];
  }
  if (t < BI_Q) {
    const int i = min(i0 + t, queries - 1);
    int from = 0, to = keys, low = 0;
#if BI_MASK
    mask += long(z) * p[16] + long(h) * p[17];
    span += long(z) * p[20] + long(h) * p[21] + long(i) * p[22];
    from = span[0];
    to = span[1];
    low = span[2];
#endif
    to = p[5] != 0 ? min(to, i + 1) : to;
    start[t] = from;
    stop[t] = to;
    soft[t] = low;
    top[t] = -INFINITY;
    length[t] = 0.0f;
  }
#if BI_MASK
  if (t >= BI_Q) mask += long(z) * p[16] + long(h) * p[17];
#endif
  threadgroup_barrier(mem_flags::mem_threadgroup);
  int extent = 0;
  for (int i = 0; i < BI_Q; i++) extent = max(extent, stop[i] - start[i]);
  float o[BI_Q][BI_OWN], sum_o[BI_Q][BI_OWN], sum_top[BI_Q], sum_length[BI_Q];
  for (int i = 0; i < BI_Q; i++) {
    sum_top[i] = -INFINITY;
    sum_length[i] = 0.0f;
    for (int e = 0; e < BI_OWN; e++) sum_o[i][e] = 0.0f;
  }
#if BI_PIECES
  const int piece0 = only * BI_SPLIT, piece1 = min(extent, piece0 + BI_SPLIT);
#else
  const int piece0 = 0, piece1 = extent;
#endif
  for (int s0 = piece0; s0 < piece1; s0 += BI_SPLIT) {
    for (int i = 0; i < BI_Q; i++)
      for (int e = 0; e < BI_OWN; e++) o[i][e] = 0.0f;
    for (int j0 = s0; j0 < min(s0 + BI_SPLIT, piece1); j0 += BI_BLOCK) {
      for (int e = t; e < BI_Q * BI_BLOCK; e += BI_THREADS) {
        const int i = e / BI_BLOCK, j = start[i] + j0 + e % BI_BLOCK;
        bool visible = j < stop[i];
        float add = 0.0f;
#if BI_MASK
        if (visible) add = float(mask[long(min(i0 + i, queries - 1)) * p[18] + long(j) * p[19]]);
#if BI_MASK == 1
        visible = visible && add != 0.0f;
        add = 0.0f;
#else
        visible = visible && add != -INFINITY && !(soft[i] != 0 && add <= f[1]);
#endif
#endif
        float dot = -INFINITY;
        if (visible) {
          device const BI_T* key = k + long(j) * p[12];
          dot = 0.0f;
          for (int d = 0; d < BI_D; d++) dot = fma(q_scaled[i][d], float(key[d]), dot);
#if BI_MASK == 2
          dot = dot + add;
#endif
        }
        score[i][e % BI_BLOCK] = dot;
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
      for (int e = t; e < BI_Q * BI_BLOCK; e += BI_THREADS) {
        const int i = e / BI_BLOCK, j = e % BI_BLOCK;
        float m = top[i];
        for (int c = 0; c < BI_BLOCK; c++) m = bi_max(m, score[i][c]);
        weight[i][j] = score[i][j] == -INFINITY ? 0.0f : bi_exp(score[i][j] - m);
        if (j == 0) {
          next_top[i] = m;
          decay[i] = top[i] == m ? 1.0f : bi_exp(top[i] - m);
        }
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
      if (t < BI_Q) {
        float sum = 0.0f;
        for (int c = 0; c < BI_BLOCK; c++) sum = sum + weight[t][c];
        length[t] = fma(length[t], decay[t], sum);
        top[t] = next_top[t];
      }
      for (int e = 0; e < BI_OWN; e++) {
        const int d = t + e * BI_THREADS;
        if (d < BI_DV) {
          for (int i = 0; i < BI_Q; i++) o[i][e] = o[i][e] * decay[i];
          for (int c = 0; c < BI_BLOCK; c++) {
#if BI_MASK == 0
            const float value = j0 + c < keys ? float(v[long(j0 + c) * p[15] + long(d)]) : 0.0f;   // one read for all queries
#endif
            for (int i = 0; i < BI_Q; i++) {
              if (score[i][c] != -INFINITY) {
#if BI_MASK
                const float value = float(v[long(start[i] + j0 + c) * p[15] + long(d)]);
#endif
                o[i][e] = fma(weight[i][c], value, o[i][e]);
              }
            }
          }
        }
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    for (int i = 0; i < BI_Q; i++) {
      const float m = top[i], l = length[i];
      if (m == -INFINITY) continue;                   // nothing visible in this piece
#if BI_PIECES
      sum_top[i] = m;
      sum_length[i] = l;
      for (int e = 0; e < BI_OWN; e++) sum_o[i][e] = o[i][e];
#else
      const float both = bi_max(sum_top[i], m);
      const float a = sum_top[i] == both ? 1.0f : bi_exp(sum_top[i] - both);
      const float b = m == both ? 1.0f : bi_exp(m - both);
      sum_length[i] = fma(sum_length[i], a, l * b);
      for (int e = 0; e < BI_OWN; e++) sum_o[i][e] = fma(sum_o[i][e], a, o[i][e] * b);
      sum_top[i] = both;
#endif
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (t < BI_Q) {
      top[t] = -INFINITY;
      length[t] = 0.0f;
    }
  }
  for (int i = 0; i < BI_Q; i++) {
    if (i0 + i >= queries) continue;
    const long row = (long(z) * p[1] + long(h)) * p[3] + long(i0 + i);
#if BI_PIECES
    device float* mine = partial + (row * p[6] + long(only)) * (BI_DV + 2);
    for (int e = 0, d = t; d < BI_DV; e++, d += BI_THREADS) mine[2 + d] = sum_o[i][e];
    if (t == 0) {
      mine[0] = sum_top[i];
      mine[1] = sum_length[i];
    }
#else
    const long at = ((long(z) * p[3] + long(i0 + i)) * p[1] + long(h)) * BI_DV;
    for (int e = 0, d = t; d < BI_DV; e++, d += BI_THREADS)
      out[at + long(d)] = BI_T(sum_length[i] == 0.0f ? 0.0f : sum_o[i][e] / sum_length[i]);
    if (t == 0) lse[row] = sum_top[i] == -INFINITY ? -INFINITY : sum_top[i] + bi_log(sum_length[i]);
#endif
  }
}

// One threadgroup a query; p: 0 pieces 1 H 2 Lq
[[max_total_threads_per_threadgroup(BI_THREADS)]]
kernel void bi_attention_merge(device const float* partial [[buffer(0)]], device BI_T* out [[buffer(1)]], device float* lse [[buffer(2)]],
                               constant long* p [[buffer(3)]],
                               uint row [[threadgroup_position_in_grid]], uint t [[thread_index_in_threadgroup]]) {
  const long head = long(row) / p[2], query = long(row) % p[2];
  const long at = (((head / p[1]) * p[2] + query) * p[1] + head % p[1]) * BI_DV;
  for (int d = int(t); d < BI_DV; d += BI_THREADS) {
    float top = -INFINITY, length = 0.0f, o = 0.0f;
    for (long c = 0; c < p[0]; c++) {
      device const float* piece = partial + (long(row) * p[0] + c) * (BI_DV + 2);
      const float m = piece[0];
      if (m == -INFINITY) continue;
      const float both = bi_max(top, m);
      const float a = top == both ? 1.0f : bi_exp(top - both);
      const float b = m == both ? 1.0f : bi_exp(m - both);
      length = fma(length, a, piece[1] * b);
      o = fma(o, a, piece[2 + d] * b);
      top = both;
    }
    out[at + long(d)] = BI_T(length == 0.0f ? 0.0f : o / length);
    if (d == 0) lse[row] = top == -INFINITY ? -INFINITY : top + bi_log(length);
  }
}
