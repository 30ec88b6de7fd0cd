"""The planning commands: a study's cost, the expected precision of its fits, and the next cells.

- `planner` is `orch plan`, `plan_text` its output, `diff` the changes of a plan; `orch_core.study.draft`
  makes the plan
- `suggest` is `orch suggest`, `map` is `orch map`, `speed` is `orch calibrate`
"""
