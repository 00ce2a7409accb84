// Average over windows, one chain in row-major order. One thread a result; everything is [N, three dims].
// p: 0 N, 1 input extents, 4 output extents, 7 window, 10 stride, 13 padding, 16 divisor (0: count) 17 count includes padding
[[max_total_threads_per_threadgroup(64)]]
kernel void bi_avg_pool(device const BI_T* x [[buffer(0)]], device BI_T* out [[buffer(1)]], constant long* p [[buffer(2)]],
                        uint at [[thread_position_in_grid]]) {
  long rest = long(at);
  long from[3], to[3], place[3];
  long padded = 1;
  for (int d = 2; d >= 0; d--) {
    place[d] = rest % p[4 + d];
    rest = rest / p[4 + d];
  }
  if (rest >= p[0]) return;
  for (int d = 0; d < 3; d++) {
    const long first = place[d] * p[10 + d] - p[13 + d];
    const long last = first + p[7 + d], edge = p[1 + d] + p[13 + d];
    padded = padded * ((last < edge ? last : edge) - first);
    from[d] = first > 0 ? first : 0;
    to[d] = last < p[1 + d] ? last : p[1 + d];
  }
  x += rest * p[1] * p[2] * p[3];
  float total = 0.0f;
  for (long a = from[0]; a < to[0]; a++)
    for (long b = from[1]; b < to[1]; b++)
      for (long c = from[2]; c < to[2]; c++) total = total + float(x[(a * p[2] + b) * p[3] + c]);
  const long inside = (to[0] - from[0]) * (to[1] - from[1]) * (to[2] - from[2]);
  const long divisor = p[16] != 0 ? p[16] : p[17] != 0 ? padded : inside;
  out[long(at)] = BI_T(total / float(divisor));
}
