"""Side-by-side measurements against stock torch; ``python -m benchmarks`` writes ``benchmarks/results/cpu.md``."""
