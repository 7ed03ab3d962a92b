import pytest
import torch

from toolkit.runtime.kernels.triton.activations import ACTS, activate, activate_plain

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.filterwarnings("ignore:overflow encountered in exp"),  # to ∞, as meant
]


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("act", ACTS)
def test_it_equals_the_plain_form(device, dtype, act, gated):
    """For rows of several programs, which are parts of longer ones."""
    rng = torch.Generator().manual_seed(0)
    gate, up = (3 * torch.randn(3, 2 * 1100, generator=rng)).to(device, dtype).chunk(2, 1)
    got = activate(act, gate, up if gated else None)
    expected = activate_plain(act, gate.double(), up.double() if gated else None)
    close = max(1e-5, torch.finfo(dtype).eps)
    torch.testing.assert_close(got.double(), expected, rtol=close, atol=close)


def test_large_numbers_stay_finite(device):
    x = torch.tensor([[-6e4, -30.0, 0.0, 30.0, 6e4]], dtype=torch.float16, device=device)
    for act in ACTS:
        torch.testing.assert_close(activate(act, x), x.clamp(min=0.0), msg=act)


def test_other_activations_run_in_pytorch(device):
    x = torch.randn(2, 8, device=device)
    torch.testing.assert_close(activate("tanh", x, x), x.tanh() * x)
