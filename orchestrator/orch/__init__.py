"""orch: plan, launch and fit scaling-law studies of self-supervised vision models.

Where to look (`cli` holds the verbs; each imports what it needs):

- plan: `planning` (the command), `plan` (the document), `enumerate`, `choices`, `isoflop` (grid to cells), `pricing`,
  `calibrate`, `calibrating`, `calibration` (what they cost), `holdings` (what the study has), `tell`, `pilot`
  (what they will tell), `diff`, `budget`, `suggest`, `suggesting`, `coverage`, `plan_text`
- launch: `launching` (the command), `cluster` (the only door to submitit), `fleets`, `slurm` (workers here and there),
  `worker`, `attempts`, `process` (what a worker does), `journal`, `freeze`, `causes`, `waiting`, `settings`
- afterwards: `status`, `show`, `steering`, `control` (cancel, retry, logs, why)
- fit: `fitting`, `frontier` (the laws themselves are in `orch_analysis`)
- MLflow: `track` (its only door), `mirror`, `pages`, `ui`
- `console` (talk, JSON, exit codes), `demo`, `doctor`
"""
