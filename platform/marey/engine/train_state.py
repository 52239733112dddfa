"""What a training has learned, whole and by name, and how it is taken out of a model and its optimiser and put back."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from marey.engine.ema import Ema
from marey.engine.staging import Staging


@dataclass
class TrainState:
    """Weights and moments by parameter name, whole and on the CPU: the same under any strategy and world size."""

    weights: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """Parameter name to the optimiser's own tensors of it (`optim.MOMENTS`); empty before the first step."""
    optimizer_steps: int = 0
    """Steps that Adam's bias correction has counted."""
    ema: dict[str, Tensor] = field(default_factory=dict)
    """The moving average of the weights, where there is one."""
    ema_updates: int = 0
    """Steps that it has averaged."""
    loss_scale: float = 0.0
    """Of a training in fp16, see `marey.engine.precision.LossScale`; 0: of another."""
    loss_scale_steps: int = 0
    """Steps since it was changed."""


def weights_of(recipe: nn.Module, staging: Staging) -> dict[str, Tensor]:
    """Parameters and buffers by name, on the CPU."""
    return {name: staging.copy(f"weights/{name}", tensor) for name, tensor in recipe.state_dict().items()}


def moments_of(
    optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], keys: tuple[str, ...], staging: Staging
) -> tuple[dict[str, dict[str, Tensor]], int]:
    """The optimiser's tensors by parameter name, on the CPU, and the steps it has counted."""
    moments, count = {}, 0
    for name, parameter in parameters.items():
        if state := optimizer.state.get(parameter):
            moments[name] = {key: staging.copy(f"{key}/{name}", state[key]) for key in keys}
            count = int(state.get("step", 0))
    return moments, count


def load_moments(
    optimizer: torch.optim.Optimizer,
    parameters: dict[str, nn.Parameter],
    state: TrainState,
    keys: tuple[str, ...],
) -> None:
    """The optimiser's tensors from a state that holds them whole, instead of those it has."""
    optimizer.state.clear()
    for name, moments in state.moments.items():
        parameter = parameters[name]
        optimizer.state[parameter] = {key: moments[key].to(parameter.device, copy=True) for key in keys}
        if "exp_avg" in keys:
            optimizer.state[parameter]["step"] = torch.tensor(float(state.optimizer_steps), device=parameter.device)


def copied(ema: Ema | None, staging: Staging) -> tuple[dict[str, Tensor], int]:
    """Averages on the CPU, and how many steps they are of."""
    if ema is None:
        return {}, 0
    return {name: staging.copy(f"ema/{name}", average) for name, average in ema.averages.items()}, ema.updates


def load_ema(ema: Ema | None, state: TrainState, live: dict[str, Tensor]) -> None:
    """Go on with the averages of a state; from its weights, ``live``, where it holds none."""
    if ema is None:
        return
    ema.updates = state.ema_updates
    for name, average in ema.averages.items():
        average.copy_(state.ema.get(name, live[name]))


def load_weights(recipe: nn.Module, weights: dict[str, Tensor]) -> None:
    """Weights into the recipe, all of them and no others."""
    recipe.load_state_dict(weights, strict=True)
