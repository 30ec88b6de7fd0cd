"""What a study costs, what it will be able to tell, what should run next.

- `command` is `orch plan`; `plan` the document, `text` its summary
- from grid to cells: `enumerate`, `choices`, `isoflop`, `trunks` (runs that share their beginning); what the study already holds: `holdings`
- what they cost: `pricing`, `calibration` (measured rates), `measure` (measures them), `calibrate` (the command)
- what they will tell: `tell`, `pilot`; what changed: `diff`; what fits a budget: `budget`; the map of the grid: `coverage`, `page`
- what should run next: `advise`, `suggest` (the command)
"""
