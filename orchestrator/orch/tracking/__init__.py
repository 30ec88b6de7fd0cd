"""The study in MLflow: `track` is its only door, `mirror` says what goes there, `pages` how it looks, `ui` serves it."""
