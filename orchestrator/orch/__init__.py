"""orch: plan, launch and fit scaling-law studies of self-supervised vision models.

Where to look (`cli` holds the verbs; each imports what it needs):

- `data`: `orch data pack`, `stats` (the packs themselves are in `orch_core.packs`)
- `planning`: `orch plan`, `suggest`, `map`, `calibrate`
- `launching`: `orch launch`, `status`, `cancel`, `retry`, `logs`, `why`
- `tracking`: `orch sync`, `ui`
- `fitting`, `frontier`: `orch fit-laws`, `predict`, `frontier` (the laws themselves are in `orch_analysis`)
- `console` (talk, JSON, exit codes), `demo`, `doctor`
"""
