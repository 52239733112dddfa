"""Synchronised batch norm in one process; over workers it is measured in `tests/engine/test_strategies.py`."""

import torch
from torch import distributed, nn

from marey.nn.batch_norm import SyncBatchNorm3d, has_batch_norm, synchronise


def test_a_model_keeps_its_names_and_weights():
    model = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4))
    before = model.state_dict()
    assert has_batch_norm(model)
    assert not has_batch_norm(model[0])
    synchronise(model)
    assert isinstance(model[1], SyncBatchNorm3d)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_outputs_gradients_and_running_statistics_are_those_of_pytorch(monkeypatch):
    ours, theirs = SyncBatchNorm3d(4), nn.BatchNorm3d(4)
    # Two workers who hold the same clips have the statistics of one.
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr("marey.nn.batch_norm.collective.all_reduce", lambda tensor: 2 * tensor)
    for seed in range(3):
        x = 5 + torch.randn(2, 4, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
        one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        ours(one).square().sin().sum().backward()
        theirs(other).square().sin().sum().backward()
        torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    # The count of the unbiased variance is of both workers' values.
    torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=0.01, atol=0)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=0.01, atol=0.01)
