"""The parts of ``benchmarks/gpu.py``, a module each (ops, mlp, screen, decode, attribution with attribute), and the
modules that they share: sizes (scale), timing, contenders and forms of kernels (contenders), the model (llama), the
record.

A part's ``works(scale, clock)`` yields works: a name, and a function that measures it and returns rows of the record.
Nothing is made before a function is called, so a work that there is no time for costs nothing.
"""
