// Deliberately wrong: the shim must notice each.
kernel void no_barrier(device const float* x [[buffer(0)]], device float* o [[buffer(1)]], uint t [[thread_index_in_threadgroup]]) {
  threadgroup float s[64];
  s[t] = x[t];
  o[t] = s[63 - t];
}
kernel void never_written(device const float* x [[buffer(0)]], device float* o [[buffer(1)]], uint t [[thread_index_in_threadgroup]]) {
  threadgroup float s[65];
  s[t] = x[t];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  o[t] = s[t + 1];
}
kernel void divergent(device const float* x [[buffer(0)]], device float* o [[buffer(1)]], uint t [[thread_index_in_threadgroup]]) {
  if (t >= 40) return;
  o[t] = x[t];
  threadgroup_barrier(mem_flags::mem_threadgroup);
}
kernel void too_much_memory(device const float* x [[buffer(0)]], device float* o [[buffer(1)]], uint t [[thread_index_in_threadgroup]]) {
  threadgroup float s[9000];
  s[t] = x[t];
  o[t] = s[t];
}
kernel void inactive_lane(device const float* x [[buffer(0)]], device float* o [[buffer(1)]], uint t [[thread_index_in_threadgroup]]) {
  float v = x[t];
  if (t < 20) v = simd_shuffle_xor(v, 16);
  o[t] = v;
}
kernel void past_the_end(device const float* x [[buffer(0)]], device float* o [[buffer(1)]], uint t [[thread_index_in_threadgroup]]) {
  o[t] = x[t + 1];
}
kernel void open_order(device const float* x [[buffer(0)]], device float* o [[buffer(1)]], uint t [[thread_index_in_threadgroup]]) {
  const float v = simd_sum(x[t]);
  if (t % 32 == 0) o[t / 32] = v;
}
