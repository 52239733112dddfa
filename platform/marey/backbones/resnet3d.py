"""3D residual networks R3D, MC3 and R(2+1)D (Tran et al. 2018, arXiv:1711.11248), as torchvision publishes them.

    clip [B, 3, 16, 112, 112]
      │ stem: 3×7×7 / (1, 2, 2)   (R(2+1)D: 1×7×7 to 45 planes, 3×1×1)       [B,  64, 16, 56, 56]
      ▼
    layer1: depths[0] × block(width)                                          [B,  64, 16, 56, 56]
    layer2: depths[1] × block(2 width), halves time and space                 [B, 128,  8, 28, 28]
    layer3: depths[2] × block(4 width)                                        [B, 256,  4, 14, 14]
    layer4: depths[3] × block(8 width)                                        [B, 512,  2,  7,  7]
      ▼ mean over time and space, fc
    logits [B, K]

    block: x ─ conv, norm, ReLU ─ conv, norm ─(+)─ ReLU      conv: 3×3×3 (r3d); 1×3×3 above layer1, which then
           └──── 1×1×1, norm where the size changes ─┘       leaves time as it is (mc3); 1×3×3 + 3×1×1 (r2plus1d)

Numbers from torchvision (models/video/resnet.py, 0.28). The planes between the halves of a (2+1)D convolution are
computed once for a block, from its input to its output planes, and serve both convolutions; Caffe2's models, from which
the paper's figures are, compute them for each. Published weights were trained on pixels normalised by Kinetics' own
mean (0.432, 0.395, 0.376) and deviation (0.228, 0.221, 0.217); training here uses ImageNet's. A network takes clips of
any length and size, whatever ``frames`` and ``crop`` say. Where we depart: drop path on the residual branch, off by
default.
"""

from itertools import accumulate
from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from marey.backbones.base import BackboneConfig, Features
from marey.nn.conv3d import Conv2Plus1D, Conv3D, ConvSpatial, middle_planes, start_convolutions, tokens_of
from marey.nn.droppath import DropPath, rates
from marey.nn.tubelet import Grid

_Depth = Annotated[int, Field(gt=0)]
_STEM_MIDDLE = 45  # planes inside the (2+1)D stem, for a width of 64


class ResNet3DConfig(BackboneConfig):
    """A residual network."""

    crop: int = Field(112, gt=0)
    """Height and width of a clip in pixels."""
    num_classes: int = Field(400, gt=0)
    """Classes of the head."""
    convolution: Literal["3d", "mixed", "2+1d"] = "3d"
    """Kind of the convolutions: full ones, full in layer1 and spatial above, or split into space and time."""
    depths: tuple[_Depth, _Depth, _Depth, _Depth] = (2, 2, 2, 2)
    """Blocks of the four layers."""
    width: int = Field(64, gt=0)
    """Planes of layer1; each layer doubles them."""

    def build(self) -> "ResNet3D":
        """See `BackboneConfig.build`."""
        return ResNet3D(self)


class BasicBlock(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(
        self,
        convolution: type[Conv3D] | type[ConvSpatial] | type[Conv2Plus1D],
        planes: tuple[int, int],
        stride: int,
        drop_path: float,
        layer: int,
    ) -> None:
        super().__init__()
        inside, outside = planes
        middle = middle_planes(inside, outside)
        self.conv1 = nn.Sequential(
            convolution(inside, outside, middle, stride), nn.BatchNorm3d(outside), nn.ReLU(inplace=True)
        )
        self.conv2 = nn.Sequential(convolution(outside, outside, middle), nn.BatchNorm3d(outside))
        self.downsample: nn.Module | None = None
        if stride != 1 or inside != outside:
            shortcut = nn.Conv3d(inside, outside, 1, convolution.strides(stride), bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm3d(outside))
        self.drop_path = DropPath(drop_path, layer)
        self.relu = nn.ReLU()

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t2 h2 w2"]:
        """Feature map in, feature map out."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(shortcut + self.drop_path(self.conv2(self.conv1(x))))


class ResNet3D(nn.Module):
    """The classifier: clip [B, C, T, H, W] to logits [B, K]."""

    def __init__(self, config: ResNet3DConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * 2**stage for stage in range(4)]
        rate = rates(config.drop_path, sum(config.depths))
        self.stem = _stem(config)
        firsts = [0, *accumulate(config.depths)]
        for stage, (depth, width) in enumerate(zip(config.depths, widths, strict=True)):
            inside = config.width if stage == 0 else widths[stage - 1]
            blocks = [
                BasicBlock(
                    _convolution(config, stage),
                    (inside if place == 0 else width, width),
                    2 if place == 0 and stage > 0 else 1,
                    rate[firsts[stage] + place],
                    firsts[stage] + place,
                )
                for place in range(depth)
            ]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(widths[-1], config.num_classes)
        self._firsts = firsts
        start_convolutions(self)

    def pyramid(self, clip: Float[Tensor, "b c t h w"]) -> list[Features]:
        """Tokens of each of the four layers, from fine to coarse."""
        return [_features(x) for x in self._maps(clip)]

    def features(self, clip: Float[Tensor, "b c t h w"]) -> Features:
        """Tokens of the last layer."""
        return _features(self._maps(clip)[-1])

    def forward(self, clip: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b k"]:
        """Logits of the mean over time and space."""
        return self.fc(self.avgpool(self._maps(clip)[-1]).flatten(1))

    @property
    def num_layers(self) -> int:
        """See `Classifier`."""
        return self._firsts[-1]

    def layer_of(self, parameter: str) -> int:
        """See `Classifier`: the stem, then block by block, then fc."""
        if parameter.startswith("layer"):
            stage, block = parameter.removeprefix("layer").split(".")[:2]
            return self._firsts[int(stage) - 1] + int(block) + 1
        return 0 if parameter.startswith("stem.") else self.num_layers + 1

    def _maps(self, clip: Tensor) -> list[Tensor]:
        """Feature maps of the four layers."""
        channels = self.config.in_channels
        if clip.ndim != 5 or clip.shape[1] != channels:
            name = self.config.name or type(self).__name__
            raise ValueError(f"{name} takes clips [B, {channels}, T, H, W], got {list(clip.shape)}")
        x, maps = self.stem(clip), []
        for layer in (self.get_submodule(f"layer{number}") for number in (1, 2, 3, 4)):
            x = layer(x)
            maps.append(x)
        return maps


def _features(x: Tensor) -> Features:
    return Features(tokens_of(x), Grid(*x.shape[2:]))


def _convolution(config: ResNet3DConfig, stage: int) -> type[Conv3D] | type[ConvSpatial] | type[Conv2Plus1D]:
    if config.convolution == "2+1d":
        return Conv2Plus1D
    return ConvSpatial if config.convolution == "mixed" and stage > 0 else Conv3D


def _stem(config: ResNet3DConfig) -> nn.Sequential:
    channels, width = config.in_channels, config.width
    if config.convolution == "2+1d":
        middle = max(1, _STEM_MIDDLE * width // 64)
        return nn.Sequential(
            nn.Conv3d(channels, middle, (1, 7, 7), (1, 2, 2), padding=(0, 3, 3), bias=False),
            nn.BatchNorm3d(middle),
            nn.ReLU(inplace=True),
            nn.Conv3d(middle, width, (3, 1, 1), padding=(1, 0, 0), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
        )
    return nn.Sequential(
        nn.Conv3d(channels, width, (3, 7, 7), (1, 2, 2), padding=(1, 3, 3), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    )


VARIANTS: dict[str, BackboneConfig] = {
    "r3d_18": ResNet3DConfig(),
    "mc3_18": ResNet3DConfig(convolution="mixed"),
    "r2plus1d_18": ResNet3DConfig(convolution="2+1d"),
}


def rename(name: str) -> str:
    """A tensor's name in torchvision's files as ours: the same."""
    return name.removeprefix("module.")


def encoder_name(name: str) -> str | None:
    """Without a pre-training model of their own, these networks start from each other, with a new head."""
    return None if name.startswith("fc.") else name
