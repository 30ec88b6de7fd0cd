"""What runs inside a worker: it claims one cell after another, trains it, probes its encoder, and publishes.

- `main` (runs the manifest), `training` (one attempt at a cell), `ranks` (a cell on several GPUs or nodes),
  `side_by_side` (several cells on one GPU)
- `claims` (attempts, claimed and fenced), `process` (signals, deadline, heartbeat), `causes` (of a failure)
"""
