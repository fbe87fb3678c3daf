"""Samplers in numpy, free of torch: schedules, the table of rows, and reference loops over any denoiser.

The engine runs the native ones (``csrc/sampler``); these say what they must compute (docs/samplers.md).
"""
