#!/usr/bin/env python
"""Fine-tune a backbone on labelled clips: VideoMAE's recipe for ViT-B on Kinetics (Tong et al. 2022).

    ray job submit --working-dir . -- python jobs/finetune.py table="$PWD/table" init=PRETRAINING_RUN
    ray job submit --working-dir . -- python jobs/finetune.py @jobs/finetune_hiera.yaml table="$PWD/table"
    ray job submit --working-dir . -- python jobs/finetune.py @jobs/finetune_resnet3d.yaml table="$PWD/table"

init= takes a run of jobs/pretrain_*.py with a model of the same size, a checkpoint, or a .safetensors file; without
it training is from scratch. The table has splits "train" and "validation" (for one without: split=none
validation.split=none checkpoint.keep_best=loss). Rate, decays, drop path, smoothing, mixing, RandAugment, erasing and
two repeats are those of MCG-NJU/VideoMAE's scripts, whose rate is given per 256 videos and here per 256 samples (a
half: 5e-4 is 2.5e-4). Keep augment.flip=0 where left and right differ.
"""

import source_root  # noqa: F401
from marey.backbones.zoo import configure
from marey.clips.augment import AugmentConfig
from marey.clips.erase import EraseConfig
from marey.clips.mix import MixConfig
from marey.clips.randaugment import RandAugmentConfig
from marey.clips.sample import SamplingConfig
from marey.engine.checkpoint import CheckpointConfig
from marey.engine.optim import OptimConfig
from marey.experiment import Training, ValidationConfig
from marey.launch import launch
from marey.recipes.supervised import SupervisedConfig

training = Training(
    backbone=configure("videomae_v2_base_16x224", drop_path=0.1),
    recipe=SupervisedConfig(
        label_smoothing=0.1,
        mix=MixConfig(mixup=0.8, cutmix=1.0),
        randaugment=RandAugmentConfig(ops=4, magnitude=7),
        erase=EraseConfig(probability=0.25),
    ),
    clips=SamplingConfig(stride=4),
    augment=AugmentConfig(crop="random_resized", scale=(0.08, 1.0), flip=0.5),
    split="train",
    validation=ValidationConfig(split="validation"),
    repeats=2,
    epochs=75,
    batch=256,
    optim=OptimConfig(
        base_lr=2.5e-4, min_lr=1e-6, warmup_epochs=5, weight_decay=0.05, betas=(0.9, 0.999), layer_decay=0.75
    ),
    checkpoint=CheckpointConfig(keep_best="top1"),
)

if __name__ == "__main__":
    launch(training)
