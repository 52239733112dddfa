#!/usr/bin/env python
"""Search for the best settings of a training: rate, layer-wise decay and drop path of fine-tuning, or what you name.

    ray job submit --working-dir . -- python jobs/tune.py table="$PWD/table" sweep.trials=16
    ray job submit --working-dir . -- python jobs/tune.py @search.yaml sweep.algorithm=tpe sweep.scheduler=asha
    ray job submit --working-dir . -- python jobs/tune.py sweep.job=pretrain_videomae @search.yaml sweep.metric=loss

Any setting can be searched, under the path that it has everywhere, the backbone too. A file replaces the space below:

    search:
      optim.base_lr: {log_uniform: [1.0e-4, 1.0e-2]}          # also uniform and integer, both ends included
      backbone: [videomae_v2_small_16x224, r3d_18]            # a list: a choice

A trial is a whole training with all its workers. As many run at a time as the cluster has room for; a sweep that was
killed goes on with sweep.name=. The best trial's settings end in a file: jobs/finetune.py @best.yaml.
"""

import source_root  # noqa: F401
from finetune import training
from marey.experiment import Sweep
from marey.launch import launch

search = {
    "optim.base_lr": {"log_uniform": [1e-4, 1e-2]},
    "optim.layer_decay": {"choice": [0.65, 0.75, 0.85]},
    "backbone.drop_path": {"uniform": [0.0, 0.3]},
}
sweep = Sweep()

if __name__ == "__main__":
    launch(training, search, sweep)
