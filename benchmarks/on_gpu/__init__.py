"""What ``benchmarks/gpu.py`` measures, a module a part (ops, mlp, screen, decode, attribution), and what the parts
share: their sizes (scale), timing, contenders and forms of kernels (contenders), the model (llama), the record.

A part's ``works(scale, clock)`` yields works: a name, and a function that measures it and returns rows of the record.
Nothing is made before a function is called, so a work that there is no time for costs nothing.
"""
