"""Space-time convolutions: full, (2+1)D and spatial ones, with the published way to start them."""

from jaxtyping import Float
from torch import Tensor, nn

Kernel3 = tuple[int, int, int]


def middle_planes(in_planes: int, out_planes: int) -> int:
    """Planes between the halves of a (2+1)D convolution, so that it has the parameters of a full 3×3×3 one.

    Tran et al. 2018 (arXiv:1711.11248), section 3.5, for kernels of 3.
    """
    return (in_planes * out_planes * 27) // (in_planes * 9 + 3 * out_planes)


class Conv3D(nn.Conv3d):
    """A full 3×3×3 convolution; strides halve time and space together."""

    def __init__(self, in_planes: int, out_planes: int, middle: int, stride: int = 1) -> None:
        super().__init__(in_planes, out_planes, 3, stride, padding=1, bias=False)

    @staticmethod
    def strides(stride: int) -> Kernel3:
        """The stride of a shortcut around it."""
        return stride, stride, stride


class ConvSpatial(nn.Conv3d):
    """A 1×3×3 convolution, frame by frame; strides halve space only."""

    def __init__(self, in_planes: int, out_planes: int, middle: int, stride: int = 1) -> None:
        super().__init__(in_planes, out_planes, (1, 3, 3), (1, stride, stride), padding=(0, 1, 1), bias=False)

    @staticmethod
    def strides(stride: int) -> Kernel3:
        """The stride of a shortcut around it."""
        return 1, stride, stride


class Conv2Plus1D(nn.Sequential):
    """A 1×3×3 convolution to ``middle`` planes, norm and ReLU, then a 3×1×1 convolution over time."""

    def __init__(self, in_planes: int, out_planes: int, middle: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv3d(in_planes, middle, (1, 3, 3), (1, stride, stride), padding=(0, 1, 1), bias=False),
            nn.BatchNorm3d(middle),
            nn.ReLU(inplace=True),
            nn.Conv3d(middle, out_planes, (3, 1, 1), (stride, 1, 1), padding=(1, 0, 0), bias=False),
        )

    @staticmethod
    def strides(stride: int) -> Kernel3:
        """The stride of a shortcut around it."""
        return stride, stride, stride


def start_convolutions(model: nn.Module) -> None:
    """He et al.'s initialisation: convolutions by their fan-out, norms at 1 and 0, linear layers at 0.01."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm3d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)


def tokens_of(x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b n c"]:
    """A feature map as tokens in (t, h, w) order."""
    return x.flatten(2).transpose(1, 2)
