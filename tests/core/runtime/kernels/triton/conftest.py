"""Where the kernels are tested: on a GPU (`pytest -m cuda`), or under Triton's interpreter.

The interpreter is chosen for a whole process when Triton is imported, so that `test_triton.py`, one
folder up, starts one for this folder.
"""

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DTYPES = [torch.float32, torch.float16, *([] if INTERPRETED else [torch.bfloat16])]  # which it lacks
BOUND = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


@pytest.fixture
def bound(dtype):
    """The most that a result, as a whole, may differ from the exact one, relative to it."""
    return BOUND[dtype]


@pytest.fixture(scope="session")
def device():
    if INTERPRETED:
        mend_interpreter()
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("no GPU here: test_triton.py runs these under Triton's interpreter")
    return torch.device("cuda")


def mend_interpreter():
    """Let Triton's interpreter take a loop's bound from a tensor with NumPy 2.4, and let it multiply
    matrices in one order: NumPy's order depends on the number of rows, a GPU's does not."""
    import numpy as np
    from triton.runtime import interpreter

    def dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        left, right = a.data.astype(np.float32), b.data.astype(np.float32)
        product = (left[:, :, None] * right[None]).sum(1, dtype=np.float32)
        return interpreter.TensorHandle(product + d.data, d.dtype.scalar)

    def scalar_index(tensor, scope, patch=interpreter._patch_lang_tensor):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter.InterpreterBuilder.create_dot = dot
    interpreter._patch_lang_tensor = scalar_index
