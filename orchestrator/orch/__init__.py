"""orch: plan, launch and fit scaling-law studies of self-supervised vision models."""
