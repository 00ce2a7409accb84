// One chain a row, in fp32 (long for integers), each element rounded once at its store. A sum carries what each addition
// lost (two-sum): stock sums in double where it can, and a plain chain of 257 has eight times its error.
// p: 0 rows, 1 L, 2 inner, x: 3 outer 4 inner 5 element stride, out: 6 7 8, 9 kind (0 sum, 1 product, 2 log-sum-exp)
inline float bi_lost(float acc, float e, float sum) {
  const float added = sum - acc;
  const float from_acc = acc - (sum - added);
  return from_acc + (e - added);
}
inline long bi_lost(long acc, long e, long sum) { return 0; }
inline float bi_corrected(float sum, float lost) { return isnan(sum - sum) ? sum : sum + lost; }
inline long bi_corrected(long sum, long lost) { return sum; }

[[max_total_threads_per_threadgroup(64)]]
kernel void bi_scan(device const BI_T* x [[buffer(0)]], device BI_O* out [[buffer(1)]], constant long* p [[buffer(2)]],
                    uint at [[thread_position_in_grid]]) {
  const long row = long(at);
  if (row >= p[0]) return;
  x += (row / p[2]) * p[3] + (row % p[2]) * p[4];
  out += (row / p[2]) * p[6] + (row % p[2]) * p[7];
  BI_A acc = p[9] == 1 ? BI_A(1) : BI_A(0);
#if BI_LOG
  float m = -INFINITY;                                // acc counts in units of exp(m)
  for (long i = 0; i < p[1]; i++) {
    const float e = float(x[i * p[5]]), top = bi_max(m, e);
    if (top != -INFINITY) {
      const float keep = m == top ? 1.0f : bi_exp(m - top);
      const float add = e == top ? 1.0f : bi_exp(e - top);
      acc = fma(acc, keep, add);
      m = top;
    }
    out[i * p[8]] = BI_O(m == -INFINITY ? -INFINITY : m + bi_log(acc));
  }
#else
  BI_A lost = BI_A(0);
  for (long i = 0; i < p[1]; i++) {
    const BI_A e = BI_A(x[i * p[5]]);
    const BI_A sum = acc + e;
    lost = lost + bi_lost(acc, e, sum);
    acc = p[9] == 1 ? acc * e : sum;
    out[i * p[8]] = BI_O(p[9] == 1 ? acc : bi_corrected(acc, lost));
  }
#endif
}
