// Sort and top-k by rank: how many elements of the row come before this one. Exact in any order; the lower index wins a tie,
// NaN counts as the largest. One thread an element. p: 0 rows 1 n 2 k 3 descending
inline bool bi_before(BI_A a, long i, BI_A b, long j, bool descending) {
  const bool a_nan = a != a, b_nan = b != b;
  if (a_nan != b_nan) return a_nan == descending;
  if (a_nan || a == b) return i < j;
  return descending ? a > b : a < b;
}
[[max_total_threads_per_threadgroup(64)]]
kernel void bi_rank(device const BI_T* x [[buffer(0)]], device BI_T* values [[buffer(1)]], device long* indices [[buffer(2)]],
                    constant long* p [[buffer(3)]], uint at [[thread_position_in_grid]]) {
  const long row = long(at) / p[1], i = long(at) % p[1];
  if (row >= p[0]) return;
  x += row * p[1];
  const BI_A mine = BI_A(x[i]);
  long rank = 0;
  for (long j = 0; j < p[1]; j++)
    if (bi_before(BI_A(x[j]), j, mine, i, p[3] != 0)) rank = rank + 1;
  if (rank >= p[2]) return;
  values[row * p[2] + rank] = x[i];
  indices[row * p[2] + rank] = i;
}
