// One result a row. BI_T element, BI_A accumulator (float or long), BI_O result. Needs rows.metal.
// p: 8 fold, 9 map (0 value, 1 magnitude, 2 is it non-zero), 10 finish (0 none, 1 divide by L, 2 square root)
[[max_total_threads_per_threadgroup(256)]]
kernel void bi_reduce(device const BI_T* x [[buffer(0)]], device BI_O* out [[buffer(1)]], constant long* p [[buffer(2)]],
                      uint group [[threadgroup_position_in_grid]], uint t [[thread_index_in_threadgroup]]) {
  threadgroup BI_A s[BI_LANES];
  const bi_row row = bi_row_of(group, t, p);
  const int length = int(p[1]), fold = int(p[8]), map = int(p[9]), finish = int(p[10]);
  x += row.x;
  const BI_A identity = fold == BI_MULTIPLY ? BI_A(1) : fold == BI_MAX ? BI_A(BI_LOWEST) : fold == BI_MIN ? BI_A(BI_HIGHEST) : BI_A(0);
  BI_A v[BI_PER];
  for (int j = 0; j < BI_PER; j++) v[j] = identity;
  BI_EACH(j, i) {
    BI_A e = BI_A(x[long(i) * p[5]]);
    if (map == 1) e = e < BI_A(0) ? -e : e;
    if (map == 2) e = e != BI_A(0) ? BI_A(1) : BI_A(0);
    v[j] = fold == BI_SQUARE ? bi_square(e, v[j]) : bi_combine(fold, v[j], e);
  }
  BI_A r = bi_fold_lanes(fold, v, s, t);
  r = bi_finish(r, finish, length);
  if (row.live && int(t) % BI_WIDTH == 0) out[row.out] = BI_O(r);
}

// Index of the largest (p[8] = 3) or smallest (4) element; NaN wins, ties go to the lowest index. Exact in any order.
inline bool bi_better(int fold, BI_A a, int i, BI_A b, int k) {
  const bool a_nan = a != a, b_nan = b != b;
  if (a_nan || b_nan) return a_nan && (!b_nan || i < k);
  if (a == b) return i < k;
  return fold == BI_MAX ? a > b : a < b;
}
[[max_total_threads_per_threadgroup(256)]]
kernel void bi_arg(device const BI_T* x [[buffer(0)]], device long* out [[buffer(1)]], constant long* p [[buffer(2)]],
                   uint group [[threadgroup_position_in_grid]], uint t [[thread_index_in_threadgroup]]) {
  threadgroup BI_A s[BI_LANES];
  threadgroup int s_index[BI_LANES];
  const bi_row row = bi_row_of(group, t, p);
  const int length = int(p[1]), fold = int(p[8]);
  x += row.x;
  BI_A best = BI_A(0);
  int index = 0x7fffffff;                             // no element yet
  for (int i = int(t) % BI_WIDTH; i < length; i += BI_WIDTH) {
    const BI_A e = BI_A(x[long(i) * p[5]]);
    if (index == 0x7fffffff || bi_better(fold, e, i, best, index)) {
      best = e;
      index = i;
    }
  }
#if BI_WIDTH != 32
  s[t] = best;
  s_index[t] = index;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (int j = 0; j < 8; j++) {
    const BI_A e = s[int(t) % 32 + 32 * j];
    const int i = s_index[int(t) % 32 + 32 * j];
    if (i != 0x7fffffff && (index == 0x7fffffff || bi_better(fold, e, i, best, index))) {
      best = e;
      index = i;
    }
  }
#endif
  for (ushort h = 16; h > 0; h /= 2) {
    const BI_A e = bi_shuffle(best, h);
    const int i = bi_shuffle(index, h);
    if (i != 0x7fffffff && (index == 0x7fffffff || bi_better(fold, e, i, best, index))) {
      best = e;
      index = i;
    }
  }
  if (row.live && int(t) % BI_WIDTH == 0) out[row.out] = long(index);
}
