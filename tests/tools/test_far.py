"""Whatever waits for a device, or copies to it, is told."""

import numpy as np
import pytest
import torch
from far import FAR, FarTensor, crossings, move

FETCHES = {
    "item": lambda t: t[0].item(),
    "tolist": lambda t: t.tolist(),
    "int": lambda t: int(t[0]),
    "float": lambda t: float(t[0]),
    "bool": lambda t: bool((t > 3).any()),
    "range": lambda t: range(t.long()[0]),
    "in": lambda t: 3.0 in t,
    "cpu": lambda t: t.cpu(),
    "to": lambda t: t.to("cpu"),
    "copy_": lambda t: torch.empty(9).copy_(t),
    "numpy": lambda t: t.numpy(),
    "asarray": np.asarray,
    "equal": lambda t: torch.equal(t, t),
    "allclose": lambda t: torch.allclose(t, t),
    "is_nonzero": lambda t: torch.is_nonzero(t[1]),
    "nonzero": lambda t: t.nonzero(),
    "argwhere": torch.argwhere,
    "where": lambda t: torch.where(t > 3),
    "by a mask": lambda t: t[t > 3],
    "to a mask": lambda t: t.__setitem__(t > 3, 0.0),
    "index_put": lambda t: t.index_put((t > 3,), t[0]),
    "masked_select": lambda t: torch.masked_select(t, t > 3),
    "by an element": lambda t: t[t.long()[0]],
    "from an element": lambda t: t[t.long()[0] :],
    "unique": torch.unique,
    "unique columns": lambda t: torch.unique(t[None], dim=1),
    "unique_consecutive": torch.unique_consecutive,
    "repeat_interleave": lambda t: torch.repeat_interleave(t, t.long()),
    "one_hot": lambda t: torch.nn.functional.one_hot(t.long()),
    "bincount": lambda t: torch.bincount(t.long()),
    "full": lambda t: torch.full((2,), t[0]),
    "linspace": lambda t: torch.linspace(t[0], t[3], 4),
    "multinomial": lambda t: torch.multinomial(t, 2),
}
SENDS = {
    "to": lambda _: torch.tensor([1, 2]).to(FAR),
    "tensor": lambda _: torch.tensor([1, 2], device=FAR),
    "as_tensor": lambda _: torch.as_tensor([1, 2], device=FAR),
    "new_tensor": lambda t: t.new_tensor([1, 2]),
    "copy_": lambda t: t.copy_(torch.ones(9)),
    "copy_ of a number": lambda t: t.copy_(torch.tensor(1.0)),
    "by a list": lambda t: t[[0]],
    "to a list": lambda t: t.__setitem__([0], 1.0),
    "by lists beside": lambda t: t[None][:, [0]],
    "by an index of the host": lambda t: t[torch.tensor([0, 1])],
}
NEITHER = {
    "arithmetic": lambda t: (t + 1).exp_().sum(),
    "a number of the host": lambda t: t * torch.tensor(2.0),
    "views": lambda t: t[2:4].view(torch.int32),
    "numbers": lambda t: t.__setitem__(0, 1.0),
    "gather": lambda t: t.index_select(0, t.long()),
    "index": lambda t: t[t.long()],
    "made there": lambda _: torch.zeros(3, device=FAR),
    "like": torch.empty_like,
    "shapes": lambda t: t.to("meta"),
    "of the host": lambda _: torch.arange(3).tolist(),
}
CASES = [
    *((told, case) for told, cases in (("fetch", FETCHES), ("send", SENDS)) for case in cases.items()),
    *((None, case) for case in NEITHER.items()),
]


@pytest.mark.parametrize(
    ("told", "work"),
    [(told, work) for told, (_, work) in CASES],
    ids=[f"{told}-{name}" for told, (name, _) in CASES],
)
def test_what_crosses_is_told(told, work):
    found = set()
    with crossings(found.add):
        work(FarTensor(torch.arange(9.0)))
    assert found == ({told} if told else set())


def test_a_module_that_was_moved_computes_what_it_did():
    found = []
    module, row = torch.nn.Linear(3, 2), torch.arange(3.0)
    expected = module(row)
    move(module)
    with crossings(found.append):
        result = module(row.to(FAR))
        assert (result.device, found) == (FAR, ["send"])
        assert result.tolist() == expected.tolist()
