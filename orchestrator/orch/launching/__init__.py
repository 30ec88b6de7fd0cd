"""Every cell exactly once, here or on Slurm, whatever breaks.

- the command: `launch` (`orch launch`), `settings` (its options, over the grid's and the user's), `waiting` (for a launch)
- workers: `local_workers` and `slurm_workers` start and end them; `submit` is the only door to submitit and writes the
  sbatch header; `slurm` asks squeue, sacct and scontrol; `worker` is what runs inside one
- what makes it exact: `journal` (before sbatch), `freeze` (the code that was launched)
- afterwards: `status`, `progress` (the tables), `operations` (cancel, retry, logs), `cell_report` (why)
"""
