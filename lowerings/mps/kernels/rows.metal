// Prefix of the row kernels. Plan: lane t of 256 folds elements t, t + 256, ... ascending from the identity; then the tree
// v[t] = v[t] + v[t + s] for s = 128, 64, ..., 1. Schedule: BI_WIDTH threads a row, 32 (one simdgroup, each thread keeps 8
// lanes, no barrier) or 256. Row i starts at (i / inner) * outer stride + (i % inner) * inner stride.
// p: 0 rows, 1 L, 2 inner, x: 3 outer stride 4 inner stride 5 element stride, out: 6 7 8, then what the kernel needs
#define BI_LANES 256
#define BI_PER (BI_LANES / BI_WIDTH)
#define BI_ADD 0
#define BI_SQUARE 1
#define BI_MULTIPLY 2
#define BI_MAX 3
#define BI_MIN 4
#define BI_EACH(j, i) for (int j = 0, i0 = int(t) % BI_WIDTH; j < BI_PER; j++, i0 += BI_WIDTH) for (int i = i0; i < length; i += BI_LANES)

struct bi_row {
  long index;
  long x;
  long out;
  bool live;
};
inline bi_row bi_row_of(uint group, uint t, constant long* p) {
  bi_row r;
  r.index = long(group) * (256 / BI_WIDTH) + long(t / BI_WIDTH);
  r.live = r.index < p[0];
  r.index = r.live ? r.index : p[0] - 1;              // surplus rows repeat the last one: every lane stays active
  r.x = (r.index / p[2]) * p[3] + (r.index % p[2]) * p[4];
  r.out = (r.index / p[2]) * p[6] + (r.index % p[2]) * p[7];
  return r;
}

inline float bi_combine(int fold, float a, float b) {
  if (fold == BI_MULTIPLY) return a * b;
  if (fold == BI_MAX) return bi_max(a, b);
  if (fold == BI_MIN) return bi_min(a, b);
  return a + b;
}
inline long bi_combine(int fold, long a, long b) {
  if (fold == BI_MULTIPLY) return a * b;
  if (fold == BI_MAX) return a > b ? a : b;
  if (fold == BI_MIN) return a < b ? a : b;
  return a + b;
}
inline float bi_shuffle(float v, ushort n) { return simd_shuffle_xor(v, n); }
inline int bi_shuffle(int v, ushort n) { return simd_shuffle_xor(v, n); }
inline long bi_shuffle(long v, ushort n) { return as_type<long>(simd_shuffle_xor(as_type<int2>(v), n)); }

// Folds the 256 lanes of a row in the order of the plan; every thread of the row gets the result. v: this thread's lanes.
inline BI_A bi_fold_lanes(int fold, thread BI_A* v, threadgroup BI_A* s, uint t) {
  BI_A u[8];
#if BI_WIDTH == 32
  for (int j = 0; j < 8; j++) u[j] = v[j];
#else
  s[t] = v[0];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (int j = 0; j < 8; j++) u[j] = s[int(t) % 32 + 32 * j];
  threadgroup_barrier(mem_flags::mem_threadgroup);
#endif
  for (int h = 4; h > 0; h /= 2)
    for (int j = 0; j < h; j++) u[j] = bi_combine(fold, u[j], u[j + h]);
  BI_A r = u[0];
  for (ushort h = 16; h > 0; h /= 2) {
    const BI_A other = bi_shuffle(r, h);              // a + b == b + a bit for bit: both lanes keep the same sum
    r = bi_combine(fold, r, other);
  }
  return r;
}

inline float bi_square(float e, float acc) { return fma(e, e, acc); }
inline long bi_square(long e, long acc) { return acc + e * e; }
inline float bi_finish(float r, int finish, int length) {
  if (finish == 1) return r / float(length);
  return finish == 2 ? precise::sqrt(r) : r;
}
inline long bi_finish(long r, int finish, int length) { return r; }
