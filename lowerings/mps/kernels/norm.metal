// softmax, variance, layer norm, RMS norm: one rounding per operation, one at the store. Needs rows.metal with BI_A = float.
inline float bi_row_sum(thread float* v, threadgroup float* s, uint t) { return bi_fold_lanes(BI_ADD, v, s, t); }

// p: 8 log, out: 6 7 9 as outer, inner and element stride
[[max_total_threads_per_threadgroup(256)]]
kernel void bi_softmax(device const BI_T* x [[buffer(0)]], device BI_O* out [[buffer(1)]], constant long* p [[buffer(2)]],
                       uint group [[threadgroup_position_in_grid]], uint t [[thread_index_in_threadgroup]]) {
  threadgroup float s[BI_LANES];
  const bi_row row = bi_row_of(group, t, p);
  const int length = int(p[1]);
  x += row.x;
  out += row.out;
  float v[BI_PER];
  for (int j = 0; j < BI_PER; j++) v[j] = -INFINITY;
  BI_EACH(j, i) v[j] = bi_max(v[j], float(x[long(i) * p[5]]));
  const float m = bi_fold_lanes(BI_MAX, v, s, t);
  for (int j = 0; j < BI_PER; j++) v[j] = 0.0f;
  BI_EACH(j, i) v[j] = v[j] + bi_exp(float(x[long(i) * p[5]]) - m);
  const float sum = bi_row_sum(v, s, t);
  const float lse = bi_log(sum);
  if (!row.live) return;
  for (int i = int(t) % BI_WIDTH; i < length; i += BI_WIDTH) {
    const float e = float(x[long(i) * p[5]]) - m;
    out[long(i) * p[9]] = BI_O(p[8] != 0 ? e - lse : bi_exp(e) / sum);
  }
}

// p: 8 unused; f: 0 divisor of the squares
[[max_total_threads_per_threadgroup(256)]]
kernel void bi_var_mean(device const BI_T* x [[buffer(0)]], device BI_T* var [[buffer(1)]], device BI_T* mean [[buffer(2)]],
                        constant long* p [[buffer(3)]], constant float* f [[buffer(4)]],
                        uint group [[threadgroup_position_in_grid]], uint t [[thread_index_in_threadgroup]]) {
  threadgroup float s[BI_LANES];
  const bi_row row = bi_row_of(group, t, p);
  const int length = int(p[1]);
  x += row.x;
  float v[BI_PER];
  for (int j = 0; j < BI_PER; j++) v[j] = 0.0f;
  BI_EACH(j, i) v[j] = v[j] + float(x[long(i) * p[5]]);
  const float mu = bi_row_sum(v, s, t) / float(length);
  for (int j = 0; j < BI_PER; j++) v[j] = 0.0f;
  BI_EACH(j, i) {
    const float d = float(x[long(i) * p[5]]) - mu;
    v[j] = fma(d, d, v[j]);
  }
  const float squares = bi_row_sum(v, s, t);
  if (row.live && int(t) % BI_WIDTH == 0) {
    var[row.out] = BI_T(squares / f[0]);
    mean[row.out] = BI_T(mu);
  }
}

// p: 8 has weight, 9 has bias; f: 0 eps. Rows and outputs are contiguous along L.
[[max_total_threads_per_threadgroup(256)]]
kernel void bi_layer_norm(device const BI_T* x [[buffer(0)]], device BI_T* out [[buffer(1)]], device float* mean [[buffer(2)]],
                          device float* rstd [[buffer(3)]], device const BI_W* w [[buffer(4)]], device const BI_W* b [[buffer(5)]],
                          constant long* p [[buffer(6)]], constant float* f [[buffer(7)]],
                          uint group [[threadgroup_position_in_grid]], uint t [[thread_index_in_threadgroup]]) {
  threadgroup float s[BI_LANES];
  const bi_row row = bi_row_of(group, t, p);
  const int length = int(p[1]);
  x += row.x;
  out += row.out;
  float v[BI_PER];
  for (int j = 0; j < BI_PER; j++) v[j] = 0.0f;
  BI_EACH(j, i) v[j] = v[j] + float(x[i]);
  const float mu = bi_row_sum(v, s, t) / float(length);
  for (int j = 0; j < BI_PER; j++) v[j] = 0.0f;
  BI_EACH(j, i) {
    const float d = float(x[i]) - mu;
    v[j] = fma(d, d, v[j]);
  }
  const float var = bi_row_sum(v, s, t) / float(length);
  const float r = 1.0f / precise::sqrt(var + f[0]);
  if (!row.live) return;
  if (int(t) % BI_WIDTH == 0) {
    mean[row.index] = mu;
    rstd[row.index] = r;
  }
  for (int i = int(t) % BI_WIDTH; i < length; i += BI_WIDTH) {
    float y = (float(x[i]) - mu) * r;
    if (p[8] != 0) y = y * float(w[i]);
    if (p[9] != 0) y = y + float(b[i]);
    out[i] = BI_T(y);
  }
}

// p: 8 has weight; f: 0 eps
[[max_total_threads_per_threadgroup(256)]]
kernel void bi_rms_norm(device const BI_T* x [[buffer(0)]], device BI_T* out [[buffer(1)]], device float* rstd [[buffer(2)]],
                        device const BI_W* w [[buffer(3)]], constant long* p [[buffer(4)]], constant float* f [[buffer(5)]],
                        uint group [[threadgroup_position_in_grid]], uint t [[thread_index_in_threadgroup]]) {
  threadgroup float s[BI_LANES];
  const bi_row row = bi_row_of(group, t, p);
  const int length = int(p[1]);
  x += row.x;
  out += row.out;
  float v[BI_PER];
  for (int j = 0; j < BI_PER; j++) v[j] = 0.0f;
  BI_EACH(j, i) v[j] = fma(float(x[i]), float(x[i]), v[j]);
  const float mean = bi_row_sum(v, s, t) / float(length);
  const float r = 1.0f / precise::sqrt(mean + f[0]);
  if (!row.live) return;
  if (int(t) % BI_WIDTH == 0) rstd[row.index] = r;
  for (int i = int(t) % BI_WIDTH; i < length; i += BI_WIDTH) {
    float y = float(x[i]) * r;
    if (p[8] != 0) y = y * float(w[i]);
    out[i] = BI_T(y);
  }
}
