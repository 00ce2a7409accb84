// First visible key, one past the last, and whether the lowest finite value of the mask counts as masked (it does when
// any key is above it). One simdgroup a row of the mask. p: 0 rows, 1 Lk, 2 Lq, 3 H, strides 4 z 5 h 6 q 7 k
[[max_total_threads_per_threadgroup(256)]]
kernel void bi_attention_span(device const BI_M* mask [[buffer(0)]], device int* span [[buffer(1)]],
                              constant long* p [[buffer(2)]], constant float* f [[buffer(3)]],
                              uint group [[threadgroup_position_in_grid]], uint t [[thread_index_in_threadgroup]]) {
  long row = long(group) * 8 + long(t / 32);
  const bool live = row < p[0];
  row = live ? row : 0;
  mask += (row / (p[2] * p[3])) * p[4] + (row / p[2] % p[3]) * p[5] + (row % p[2]) * p[6];
  const int length = int(p[1]);
  int first = length, last = 0, first_soft = length, last_soft = 0;
  for (int i = int(t % 32); i < length; i += 32) {
    const float e = float(mask[long(i) * p[7]]);
#if BI_MASK == 1
    const bool seen = e != 0.0f, soft = seen;
#else
    const bool soft = e != -INFINITY, seen = soft && !(e <= f[0]);
#endif
    first = seen ? min(first, i) : first;
    last = seen ? i + 1 : last;
    first_soft = soft ? min(first_soft, i) : first_soft;
    last_soft = soft ? i + 1 : last_soft;
  }
  for (ushort h = 16; h > 0; h /= 2) {
    const int a = simd_shuffle_xor(first, h);
    const int b = simd_shuffle_xor(last, h);
    const int c = simd_shuffle_xor(first_soft, h);
    const int d = simd_shuffle_xor(last_soft, h);
    first = min(first, a);
    last = max(last, b);
    first_soft = min(first_soft, c);
    last_soft = max(last_soft, d);
  }
  if (live && t % 32 == 0) {
    const bool any = last > first;
    span[row * 3] = any ? first : first_soft;
    span[row * 3 + 1] = any ? last : last_soft;
    span[row * 3 + 2] = any ? 1 : 0;
  }
}
