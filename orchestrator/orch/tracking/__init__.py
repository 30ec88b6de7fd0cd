"""The study in MLflow: `mirror` selects what `track` writes, `pages` presents it, `ui` serves it."""
