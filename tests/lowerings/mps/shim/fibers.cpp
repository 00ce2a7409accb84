// Fiber scheduler behind msl.h; included once at the end of every translated library.
#undef kernel
#undef device
#undef constant
#undef thread
#undef threadgroup
#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdlib>
#include <sys/mman.h>
#include <utility>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace msl {
thread_local Group* group = nullptr;
thread_local Fiber* self = nullptr;
static thread_local kernel_function running;
static thread_local void** bound;
static thread_local sigjmp_buf fault;

// Saves the callee-saved registers on the old stack and pops them from the new one. swapcontext would make a system
// call on every switch, and a sweep makes some 10^8 of them.
extern "C" void msl_switch(void** from, void* to);
#if defined(__x86_64__)
constexpr size_t SAVED = 6;
asm(R"(
.text
.local msl_switch
msl_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
#elif defined(__aarch64__)
asm(R"(
.text
.local msl_switch
msl_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
)");
#else
#error "the shim knows x86-64 and arm64"
#endif

static void leave() {
  self->state = DONE;
  for (;;) msl_switch(&self->stack_pointer, group->scheduler);
}
void fail(const char* format, ...) {
  if (!group->error[0]) {
    va_list list;
    va_start(list, format);
    vsnprintf(group->error, sizeof group->error, format, list);
    va_end(list);
  }
  leave();
}
__attribute__((noinline)) void wait(State state, int site) {
  self->state = state;
  self->site = site;
  msl_switch(&self->stack_pointer, group->scheduler);
}
void* threadgroup_variable(const void* key, size_t bytes, size_t align) {
  Group& g = *group;
  for (unsigned i = 0; i < g.variables; i++) if (g.keys[i] == key) return g.addresses[i];
  if (align < 16) align = 16;
  const size_t at = (g.used + align - 1) / align * align;
  if (at + bytes > g.limit || g.variables == 64)
    fail("threadgroup memory: %zu bytes needed, %zu allowed", at + bytes, g.limit);
  g.used = at + bytes;
  g.keys[g.variables] = key;
  g.addresses[g.variables] = g.arena + at;
  return g.addresses[g.variables++];
}
static void fiber_main() { running(bound); leave(); }
constexpr size_t STACK = 128 << 10;
static void prepare(Fiber& f) {
  const uintptr_t top = (reinterpret_cast<uintptr_t>(f.stack) + STACK) & ~uintptr_t(15);
#if defined(__x86_64__)
  void** sp = reinterpret_cast<void**>(top);
  *--sp = nullptr;
  *--sp = reinterpret_cast<void*>(fiber_main);
  for (size_t i = 0; i < SAVED; i++) *--sp = nullptr;
#else
  uint64_t* sp = reinterpret_cast<uint64_t*>(top) - 20;
  std::memset(sp, 0, 160);
  sp[11] = reinterpret_cast<uint64_t>(fiber_main);
#endif
  f.stack_pointer = sp;
}
static uint64_t random_bits(uint64_t& s) { s ^= s << 13; s ^= s >> 7; s ^= s << 17; return s; }
static void on_fault(int) { siglongjmp(fault, 1); }

struct Options { int32_t order; uint32_t seed; int32_t sum_order, mma_order, flush; int64_t memory; };
enum Order { FORWARD, REVERSE, RANDOM };

static Group& make_group() {
  static thread_local Group* g = nullptr;
  if (!g) {
    g = new Group();
    auto* stacks = static_cast<unsigned char*>(mmap(nullptr, STACK * MAX_THREADS, PROT_READ | PROT_WRITE,
                                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    for (unsigned i = 0; i < MAX_THREADS; i++) g->fibers[i].stack = stacks + STACK * i;
    g->arena = static_cast<unsigned char*>(aligned_alloc(128, 1 << 16));
  }
  return *g;
}
// Lanes of one simdgroup that wait at the same line exchange their values; returns whether any did.
static bool resolve_simd(Group& g) {
  bool any = false;
  for (unsigned first = 0; first < g.size; first += SIMD_WIDTH) {
    const unsigned width = g.size - first < SIMD_WIDTH ? g.size - first : SIMD_WIDTH;
    uint32_t waiting = 0;
    for (unsigned l = 0; l < width; l++) if (g.fibers[first + l].state == AT_SIMD_OP) waiting |= 1u << l;
    any |= waiting != 0;
    while (waiting) {
      const int site = g.fibers[first + unsigned(__builtin_ctz(waiting))].site;
      uint32_t active = 0;
      for (unsigned l = 0; l < width; l++)
        if ((waiting >> l & 1u) && g.fibers[first + l].site == site) active |= 1u << l;
      for (unsigned l = 0; l < width; l++) if (active >> l & 1u) {
        Fiber& f = g.fibers[first + l];
        std::memcpy(f.received, f.sent, SLOT_BYTES);
        f.active = active;
        f.state = RUNNING;
      }
      waiting &= ~active;
    }
  }
  return any;
}
static bool open_simd_barriers(Group& g) {
  bool any = false;
  for (unsigned first = 0; first < g.size; first += SIMD_WIDTH) {
    unsigned waiting = 0, width = 0, running = 0;
    for (unsigned t = first; t < g.size && t < first + SIMD_WIDTH; t++, width++) {
      waiting += g.fibers[t].state == AT_SIMD_BARRIER;
      running += g.fibers[t].state == RUNNING || g.fibers[t].state == AT_SIMD_OP;
    }
    if (!waiting || running) continue;
    if (waiting != width) {
      snprintf(g.error, sizeof g.error, "divergent simdgroup_barrier: %u of %u lanes arrived", waiting, width);
      return false;
    }
    for (unsigned t = first; t < first + width; t++) g.fibers[t].state = RUNNING;
    any = true;
  }
  return any;
}
static bool open_barrier(Group& g) {
  unsigned waiting = 0;
  int site = 0;
  bool one_site = true;
  for (unsigned t = 0; t < g.size; t++) if (g.fibers[t].state == AT_BARRIER) {
    one_site &= site == 0 || site == g.fibers[t].site;
    site = g.fibers[t].site;
    g.fibers[t].state = RUNNING;
    waiting++;
  }
  if (waiting && (waiting != g.size || !one_site)) {
    snprintf(g.error, sizeof g.error, "divergent threadgroup_barrier: %u of %u threads arrived at one line", waiting, g.size);
    return false;
  }
  return waiting != 0;
}
static void run_group(Group& g, const Options& o, uint64_t& seed) {
  static thread_local uint16_t turn[MAX_THREADS];
  for (unsigned t = 0; t < g.size; t++) turn[t] = uint16_t(o.order == REVERSE ? g.size - 1 - t : t);
  for (;;) {
    uint32_t paused = 0;                               // a paused simdgroup lets the others run ahead of it
    if (o.order == RANDOM) {
      for (unsigned i = g.size; i > 1; i--) std::swap(turn[i - 1], turn[random_bits(seed) % i]);
      paused = uint32_t(random_bits(seed) >> 20);
    }
    bool ran = false, held = false;
    for (unsigned i = 0; i < g.size && !g.error[0]; i++) {
      Fiber& f = g.fibers[turn[i]];
      if (f.state != RUNNING) continue;
      if (paused >> f.simdgroup & 1u) { held = true; continue; }
      self = &f;
      ran = true;
      msl_switch(&g.scheduler, f.stack_pointer);
    }
    if (g.error[0]) return;
    const bool simd = resolve_simd(g), opened = open_simd_barriers(g);
    if (g.error[0]) return;
    if (simd || opened || ran || held) continue;
    if (!open_barrier(g)) return;
  }
}
}  // namespace msl
using namespace msl;

// threads: the total in each dimension, as in Metal's dispatchThreads; the last threadgroup of a dimension may be partial.
extern "C" __attribute__((visibility("default"))) int msl_launch(kernel_function function, void** buffers, const uint64_t* threads,
                                                                 const uint64_t* size, const Options* o, uint64_t* memory, char* error, int length) {
  Group& g = make_group();
  group = &g;
  g.error[0] = 0;
  g.sum_order = o->sum_order;
  g.mma_order = o->mma_order;
  g.limit = size_t(o->memory);
  running = function;
  bound = buffers;
  uint64_t total = 1, seed = 88172645463325252ull ^ (uint64_t(o->seed) * 0x9E3779B97F4A7C15ull);
  for (int d = 0; d < 3; d++) {
    g.groups[d] = uint32_t((threads[d] + size[d] - 1) / size[d]);
    g.threads[d] = uint32_t(size[d]);
    g.grid[d] = uint32_t(threads[d]);
    total *= g.groups[d];
  }
#if defined(__x86_64__)
  const unsigned saved = _mm_getcsr();
  if (o->flush) _mm_setcsr(saved | 0x8040u);
#endif
  struct sigaction catcher = {}, segv, bus;
  catcher.sa_handler = on_fault;
  sigaction(SIGSEGV, &catcher, &segv);
  sigaction(SIGBUS, &catcher, &bus);
  uint64_t most = 0;
  if (sigsetjmp(fault, 1)) {
    snprintf(g.error, sizeof g.error, "out of bounds: thread %u of threadgroup (%u, %u, %u)", self->index, g.position[0], g.position[1], g.position[2]);
  } else {
    for (uint64_t i = 0; i < total && !g.error[0]; i++) {
      const uint64_t at = o->order == FORWARD ? i : total - 1 - i;
      g.position[0] = uint32_t(at % g.groups[0]);
      g.position[1] = uint32_t(at / g.groups[0] % g.groups[1]);
      g.position[2] = uint32_t(at / g.groups[0] / g.groups[1]);
      uint32_t extent[3];
      for (int d = 0; d < 3; d++) {
        const uint64_t left = threads[d] - g.position[d] * size[d];
        extent[d] = uint32_t(left < size[d] ? left : size[d]);
      }
      g.size = extent[0] * extent[1] * extent[2];
      g.used = g.variables = 0;
      std::memset(g.arena, 0xFF, 1 << 16);             // NaN: nothing may be read before it was written
      for (unsigned t = 0; t < g.size; t++) {
        Fiber& f = g.fibers[t];
        f.index = t;
        f.lane = t % SIMD_WIDTH;
        f.simdgroup = t / SIMD_WIDTH;
        f.state = RUNNING;
        f.in_group[0] = t % extent[0];
        f.in_group[1] = t / extent[0] % extent[1];
        f.in_group[2] = t / extent[0] / extent[1];
        for (int d = 0; d < 3; d++) f.in_grid[d] = uint32_t(g.position[d] * size[d]) + f.in_group[d];
        prepare(f);
      }
      run_group(g, *o, seed);
      if (g.used > most) most = g.used;
    }
  }
  sigaction(SIGSEGV, &segv, nullptr);
  sigaction(SIGBUS, &bus, nullptr);
#if defined(__x86_64__)
  _mm_setcsr(saved);
#endif
  *memory = most;
  if (!g.error[0]) return 0;
  snprintf(error, size_t(length), "%s", g.error);
  return 1;
}
