#!/usr/bin/env python
"""Pre-train Hiera (Ryali et al. 2023) by masking: Hiera-B, the paper's recipe for Kinetics-400.

    ray job submit --working-dir . -- python jobs/pretrain_hiera.py table="$PWD/table"
    ray job submit --working-dir . -- python jobs/pretrain_hiera.py @jobs/laptop_hiera.yaml videos="$PWD/videos"

The authors released no training code: rate (8e-4 at 512 samples, so 4e-4 at 256), decay, betas, warm-up, drop path,
crop and flip are as the paper's appendix gives them, 800 epochs counted with 4 repeats, so 200 passes here; model,
masks and loss are the published code's. Larger models: backbone=hiera_large_16x224_pretrain backbone.drop_path=0.2, and
hiera_huge_16x224_pretrain backbone.drop_path=0.3. Keep augment.flip=0 where left and right differ.
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
    backbone=configure("hiera_base_16x224_pretrain", drop_path=0.1),
    recipe=MaskedConfig(mask_ratio=0.9, decoder_mask_ratio=0.0),
    clips=SamplingConfig(stride=4),
    augment=AugmentConfig(crop="random_resized", scale=(0.5, 1.0), flip=0.5),
    repeats=4,
    epochs=200,
    batch=512,
    optim=OptimConfig(base_lr=4e-4, min_lr=0.0, warmup_epochs=30, weight_decay=0.05, betas=(0.9, 0.95)),
)

if __name__ == "__main__":
    launch(training)
