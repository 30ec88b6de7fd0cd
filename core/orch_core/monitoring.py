"""How often, and on how many images, a run is evaluated while it trains; plans include this cost."""

from __future__ import annotations

ROWS = 100
"""Minimum number of rows of a run's curve, evenly over its steps; each checks the encoder's health."""
HEALTH_IMAGES = 32
"""Images by which each row detects a collapsed encoder."""
READ_OUTS = 8
"""Number of evaluations of a run on held-out images."""
HELD_OUT = 512
"""Held-out images of a cell; the first by hash rank, so that cells of every size share them."""
GALLERY = 256
"""Minimum of pretraining images for read-outs; a hundredth of the samples seen in longer runs."""
GALLERY_MOST = 4096
