"""GPU kernels in Triton, one file each, beside the plain PyTorch form that it is held to.

Each public function runs its kernel on a GPU where Triton is installed, and the plain form elsewhere.
None of them reads from the device or depends on a tensor's values in its shapes, so that all can be
captured in a CUDA graph. A row's result does not depend on the other rows of a pass.
"""
