"""Every cell exactly once, here or on Slurm, whatever breaks.

- `command` is `orch launch`; `settings` and `profile` (the user's file) what it was told; `waiting` watches a launch
- workers: `fleets` starts them, `cluster` is the only door to submitit, `slurm` speaks with squeue, sacct and scontrol
- a worker: `worker` (walks the manifest, claims), `training` (one attempt: train, probe, publish), `ranks` (a cell on several
  GPUs or nodes), `packing` (several cells on one GPU), `attempts` (fences), `process` (signals, heartbeat), `causes` (of a death)
- what makes it exact: `journal` (before sbatch), `freeze` (the code that was launched)
- afterwards: `status`, `show` (the tables), `control` (cancel, retry, logs, why), `steering` (their commands)
"""
