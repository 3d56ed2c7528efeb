"""Results of other software as runs of the books, and runs as other software writes its results.
No torch, no ray.

A file is read by the module of its software (`vla_eval`, `lerobot`) into the values of `results`;
`importing` recognises it and writes the run, `model_card` and `vla_eval` write what is exported.
"""
