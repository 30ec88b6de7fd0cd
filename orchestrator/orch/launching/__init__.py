"""Runs every cell exactly once, on this machine or on Slurm, whatever fails.

- the command: `launch` (`orch launch`), `settings` (its options, over the grid's and the user's), `waiting`
- workers: `local_workers` and `slurm_workers` start and end them; `submit` is the only module that uses
  submitit, and writes the sbatch header; `slurm` calls squeue, sacct and scontrol; `worker` runs inside each
  worker
- what makes it exact: `journal` (written before sbatch), `freeze` (the launched code)
- afterwards: `status`, `progress` (the tables), `operations` (cancel, retry, logs), `cell_report` (why)
"""
