import random

import pytest
import torch

from toolkit.runtime.kernels.triton import whole_step
from toolkit.runtime.kernels.triton.top_tokens import packed_top_tokens
from toolkit.runtime.kernels.triton.whole_step import Paths

pytestmark = pytest.mark.cuda


def draw_tree(rng, nodes):
    """Parents, level by level, and depths."""
    parents = [0, *sorted(rng.randrange(max(1, node // 2)) for node in range(1, nodes))]
    depths = [0]
    for node in range(1, nodes):
        depths.append(depths[parents[node]] + 1)
    return parents, depths


def step_of(rng, parents, device):
    """A step's numbers, of which some tokens are what the target chose, and the target's top 2."""
    nodes = len(parents)
    logits = torch.tensor([[rng.gauss(0, 1) for _ in range(9)] for _ in range(nodes)])
    top = packed_top_tokens(logits, 2)
    tokens = [4]
    for node in range(1, nodes):
        taken = {tokens[other] for other in range(1, node) if parents[other] == parents[node]}
        right = int(top[parents[node], 2])
        free = [token for token in range(99) if token not in taken]
        tokens.append(right if right in free and rng.random() < 0.7 else rng.choice(free))
    step = torch.zeros(5 * nodes + 5, dtype=torch.int32)
    step[:2], step[2 : 2 + nodes] = torch.tensor([70, 6]), torch.tensor(tokens)
    return step.to(device), top.to(device)


@pytest.mark.parametrize("nodes", [1, 2, 5, 16, 17, 64])
def test_the_path_is_the_one_that_the_target_chose(device, nodes):
    """Found one node after another, and by the plain form."""
    deepest = 0
    for seed in range(2 if nodes == 64 else 8):  # which takes the interpreter a second each
        rng = random.Random(seed)
        parents, depths = draw_tree(rng, nodes)
        step, top = step_of(rng, parents, device)
        tokens, choices = step[2 : 2 + nodes].tolist(), top[:, 2].tolist()
        ancestors = torch.eye(nodes, dtype=torch.bool)
        for node in range(1, nodes):
            ancestors[node] |= ancestors[parents[node]]
        numbers = (torch.tensor(each, dtype=torch.int32).to(device) for each in (parents, depths))
        paths, plain = Paths(*numbers, (~ancestors).to(device, torch.int8)), step.clone()
        path = [0]
        for node in range(1, nodes):
            if parents[node] == path[-1] and tokens[node] == choices[path[-1]]:
                path.append(node)
        whole_step.judge(step, top, paths)
        whole_step.judge_plain(plain, top, paths)
        deepest = max(deepest, len(path))
        end, found = path[-1], step[2 + 4 * nodes :].tolist()
        assert found[:nodes] == [*path, *range(len(path), nodes)]
        assert found[nodes:] == [70 + len(path), tokens[end], choices[end]]
        assert step[2 + nodes : 2 + 2 * nodes].tolist() == choices
        assert torch.equal(step, plain)
    assert deepest > 2 or nodes < 5


def test_logits_of_nan_have_no_token(device):
    step, top = torch.zeros(10, dtype=torch.int32, device=device), torch.full((1, 5), -1)
    parents, beside = torch.zeros(1, dtype=torch.int32), torch.zeros(1, 1, dtype=torch.int8)
    paths = Paths(parents.to(device), parents.to(device), beside.to(device))
    whole_step.judge(step, top.int().to(device), paths)
    whole_step.take_children(step, top.int().to(device), parents.to(device), 0)
    assert (step[3].item(), step[-1].item(), step[2].item()) == (-1, 0, 0)


@pytest.mark.parametrize(("rows", "count"), [(1, 1), (2, 1), (16, 5), (64, 64)])
def test_inputs_are_those_of_a_length(device, rows, count):
    size = 1 + rows * 68
    inputs = torch.arange(3 * size, dtype=torch.int32).view(3, size).to(device)
    length = torch.tensor([41], dtype=torch.int32, device=device)
    tokens = torch.arange(7, 7 + count, dtype=torch.int32, device=device)
    base, slope = inputs[1:].clone()
    whole_step.fill_inputs(inputs[0], base, slope, length, tokens, rows, 30)
    expected = base + 41 * slope
    filled = [*range(7, 7 + count), *[6 + count] * (rows - count)]
    expected[1 : 1 + rows] = torch.tensor(filled, dtype=torch.int32).clamp(max=30)
    plain = torch.zeros_like(base)
    whole_step.fill_inputs_plain(plain, base, slope, length, tokens, rows, 30)
    assert torch.equal(inputs[0], expected)
    assert torch.equal(plain, expected)


@pytest.mark.parametrize(("frontier", "k"), [(1, 1), (3, 4), (9, 7)])
def test_children_are_the_chosen_candidates(device, frontier, k):
    logits = torch.randn(frontier, 50, generator=torch.Generator().manual_seed(k))
    top = packed_top_tokens(logits, k).to(device)
    chosen = [index for index in range(frontier * k) if index % 3 != 1]
    nodes = 3 + len(chosen) + 2
    step = torch.zeros(5 * nodes + 5, dtype=torch.int32, device=device)
    plain, numbers = step.clone(), torch.tensor(chosen, dtype=torch.int32).to(device)
    whole_step.take_children(step, top, numbers, 3)
    whole_step.take_children_plain(plain, top, numbers, 3)
    best = logits.log_softmax(-1).topk(k)
    tokens, logprobs = step[5 : 5 + len(chosen)], step[2 + 2 * nodes :][3 : 3 + len(chosen)]
    assert tokens.tolist() == best.indices.flatten()[chosen].tolist()
    expected = best.values.flatten()[chosen].to(device)
    torch.testing.assert_close(logprobs.view(torch.float32), expected)
    torch.testing.assert_close(step, plain, atol=1, rtol=0)  # the last bit
    assert step[:5].tolist() == [0] * 5
