// Registers every kernel for the CPU. Schemas: bi_inductor/ops.py. The only file that includes torch: its headers take
// half of the time that the library needs to compile.
#if __has_include(<Python.h>)
#include "bindings/python.h"
#endif

#include <torch/library.h>

#include "bindings/attention.h"
#include "bindings/conv.h"
#include "bindings/gemm.h"
#include "bindings/norm.h"
#include "bindings/pool.h"
#include "bindings/reduction.h"
#include "bindings/scan.h"
#include "bindings/scatter.h"

TORCH_LIBRARY_IMPL(bi_inductor, CPU, m) {
  using namespace bi::torch_bindings;
  register_attention(m);
  register_conv(m);
  register_gemm(m);
  register_norm(m);
  register_pool(m);
  register_reduction(m);
  register_scan(m);
  register_scatter(m);
}
