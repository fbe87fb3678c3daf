"""The network's operations, one file each; installed as ``gaitcrafter_rt.kernels``.

Every file holds the plain torch reference of one op, first and readable: it is what the native engine (``csrc/ops``,
same names) and any faster kernel is judged by. Tensors are ``[batch * frames, channels, height, width]`` with
channels-last strides, so that a clip lies in memory as frames x height x width x channels.
"""
