"""What only a machine with an NVIDIA GPU can show: ``python -m gaitcrafter_rt.gpu_check`` (make gpu-check)."""
