"""Slurm's commands played by small scripts: an array's tasks are processes of this machine."""

import os
import stat
from pathlib import Path

SCONTROL = """
case "$*" in
  *config*) echo "MaxArraySize            = 4" ;;
  *partition*)
    echo "PartitionName=main AllocNodes=ALL Default=YES QoS=N/A MaxTime=2-00:00:00 State=UP"
    echo "PartitionName=short AllocNodes=ALL Default=NO QoS=N/A MaxTime=00:10:00 State=UP"
    echo "PartitionName=governed AllocNodes=ALL Default=NO QoS=of-main MaxTime=UNLIMITED State=UP" ;;
esac
"""
SBATCH = """
[ -e "$HERE/limit" ] && [ $(ls "$HERE/queue" | wc -l) -ge $(cat "$HERE/limit") ] && { echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1; }
[ "$1" = --test-only ] && exit 0
echo "$@" >>"$HERE/sbatch.calls"
env | grep -E "^(SBATCH|SLURM|SQUEUE)_" >>"$HERE/sbatch.env"
sleep "$(cat "$HERE/slowness" 2>/dev/null || echo 0)"
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1"); name=$(sed -n 's/^#SBATCH --job-name=//p' "$1")
id=$(($(cat "$HERE/id" 2>/dev/null || echo 100) + 1)); echo $id >"$HERE/id"
for task in $(seq 0 ${last:-0}); do
  if [ -n "$last" ]; then export SLURM_ARRAY_JOB_ID=$id SLURM_ARRAY_TASK_ID=$task; fi
  SLURM_JOB_ID=$id SLURMD_NODENAME=gpu1 setsid bash "$1" </dev/null >>"$HERE/log" 2>&1 &
  echo "$id${last:+_$task}|RUNNING|None|$name|gpu1" >"$HERE/queue/$!"
done
echo "Submitted batch job $id"
"""
SQUEUE = """
[ "$1" = -h ] && { echo 1:00:00; exit; }
echo . >>"$HERE/squeue.calls"
for file in "$HERE"/queue/*; do
  [ -e "$file" ] || continue
  if kill -0 "$(basename "$file")" 2>/dev/null; then cat "$file"; else rm "$file"; fi
done
"""
COMMANDS = {
    "sbatch": SBATCH,
    "squeue": SQUEUE,
    "scontrol": SCONTROL,
    "srun": "",
    "sacct": "",
    "sacctmgr": "exit 1",
}


def play(here: Path, monkeypatch) -> None:
    """Write the commands into `here`, first on PATH; a file `limit` there bounds the tasks in the queue."""
    (here / "queue").mkdir(parents=True)
    for name, body in COMMANDS.items():
        path = here / name
        path.write_text(f"#!/bin/bash\nHERE={here}\n{body}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
