// Adds in ascending order of the source. A thread owns one line of the result: nothing is shared, so nothing is atomic.
// w is the result in fp32 (long for integers). p: 0 R 1 C 2 n 3 D, strides of r, i (or the row of w), c: 4 w, 7 index, 10 source
[[max_total_threads_per_threadgroup(64)]]
kernel void bi_scatter_add(device BI_A* w [[buffer(0)]], device const long* index [[buffer(1)]], device const BI_A* source [[buffer(2)]],
                           constant long* p [[buffer(3)]], uint at [[thread_position_in_grid]]) {
  const long r = long(at) / p[1], c = long(at) % p[1];
  if (r >= p[0]) return;
  w += r * p[4] + c * p[6];
  index += r * p[7] + c * p[9];
  source += r * p[10] + c * p[12];
  for (long i = 0; i < p[2]; i++) {
    const long row = index[i * p[8]];
    if (row < 0 || row >= p[3]) continue;             // a GPU cannot raise; it must not write elsewhere
    const BI_A sum = w[row * p[5]] + source[i * p[11]];
    w[row * p[5]] = sum;
  }
}

// One thread a bag and column; p: 0 bags 1 columns 2 indices 3 weight: row stride 4 column stride 5 rows 6 padding index
// 7 mode (0 sum, 1 mean, 2 max) 8 has per-sample weights 9 offsets
[[max_total_threads_per_threadgroup(64)]]
kernel void bi_embedding_bag(device const BI_T* weight [[buffer(0)]], device const long* index [[buffer(1)]],
                             device const long* offset [[buffer(2)]], device const BI_T* scale [[buffer(3)]],
                             device BI_T* out [[buffer(4)]], constant long* p [[buffer(5)]], uint at [[thread_position_in_grid]]) {
  const long bag = long(at) / p[1], c = long(at) % p[1];
  if (bag >= p[0]) return;
  const long from = offset[bag], to = bag + 1 < p[9] ? offset[bag + 1] : p[2];
  float total = 0.0f;
  long count = 0;
  for (long i = from; i < to; i++) {
    const long row = index[i];
    if (row == p[6] || row < 0 || row >= p[5]) continue;
    float e = float(weight[row * p[3] + c * p[4]]);
    if (p[8] != 0) e = e * float(scale[i]);
    if (p[7] == 2) total = count == 0 ? e : bi_max(total, e);
    else total = total + e;
    count = count + 1;
  }
  if (p[7] == 1 && count > 0) total = total / float(count);
  out[bag * p[1] + c] = BI_T(total);
}
