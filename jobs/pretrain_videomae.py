#!/usr/bin/env python
"""Pre-train VideoMAE V2 (Wang et al. 2023): dual masking, ViT-B, the paper's recipe.

    ray job submit --working-dir . -- python jobs/pretrain_videomae.py table="$PWD/table"
    ray job submit --working-dir . -- python jobs/pretrain_videomae.py @jobs/laptop.yaml videos="$PWD/videos"

Rates, decay, betas, crop, 16 frames at stride 4 and 200 passes of 4 repeats are those of OpenGVLab/VideoMAEv2, whose
rate is given per 256 videos and here per 256 samples (a quarter: 1e-3 is 2.5e-4). The authors train on 4096 samples a
step: set batch= to what your machines carry, the rate follows. Larger models: backbone=videomae_v2_large_pretrain,
..huge.., ..giant.. (for the giant base_lr=1.5e-4 and clip_grad=0.02).
"""

import source_root  # noqa: F401
from marey.backbones.zoo import configure
from marey.clips.augment import AugmentConfig
from marey.clips.sample import SamplingConfig
from marey.engine.optim import OptimConfig
from marey.experiment import Training
from marey.launch import launch
from marey.recipes.masked import MaskedConfig

training = Training(
    backbone=configure("videomae_v2_base_pretrain", embed="visible"),
    recipe=MaskedConfig(mask_ratio=0.9, decoder_mask_ratio=0.5),
    clips=SamplingConfig(stride=4),
    augment=AugmentConfig(crop="multi_scale", flip=0.0),
    repeats=4,
    epochs=200,
    batch=256,
    optim=OptimConfig(base_lr=2.5e-4, min_lr=2.5e-6, warmup_epochs=20, weight_decay=0.05, betas=(0.9, 0.95)),
)

if __name__ == "__main__":
    launch(training)
