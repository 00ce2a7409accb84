/* The plans of lowerings/mps in plain C, one element at a time: no tile, no thread, nothing shared with the kernels. */
#include <math.h>
#include <stdint.h>

void reference_matmul(const float* a, const float* b, const float* bias, float* out, int m, int n, int k, int split) {
  for (int i = 0; i < m; i++)
    for (int j = 0; j < n; j++) {
      float total = 0.0f;
      for (int first = 0; first < k; first += split) {
        float acc = 0.0f;
        for (int c = first; c < k && c < first + split; c++) acc = fmaf(a[(int64_t)i * k + c], b[(int64_t)c * n + j], acc);
        total = total + acc;
      }
      out[(int64_t)i * n + j] = bias ? total + bias[j] : total;
    }
}

/* kind: 0 sum, 1 mean, 2 mean of squares */
void reference_rows(const float* x, float* out, int rows, int length, int lanes, int kind) {
  for (int r = 0; r < rows; r++) {
    float v[256];
    for (int t = 0; t < lanes; t++) {
      v[t] = 0.0f;
      for (int i = t; i < length; i += lanes) {
        const float e = x[(int64_t)r * length + i];
        v[t] = kind == 2 ? fmaf(e, e, v[t]) : v[t] + e;
      }
    }
    for (int s = lanes / 2; s > 0; s /= 2)
      for (int t = 0; t < s; t++) v[t] = v[t] + v[t + s];
    out[r] = kind ? v[0] / (float)length : v[0];
  }
}
