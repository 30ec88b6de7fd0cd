"""The commands that plan: what a study costs, what its cells can estimate, what should run next.

- `planner` is `orch plan`, `plan_text` its page, `diff` what a plan changes; `orch_core.study.draft` makes the plan
- `suggest` is `orch suggest`, `map` is `orch map`, `speed` is `orch calibrate`
"""
