"""How often, and on how many images, a run is measured while it trains; plans price the same."""

from __future__ import annotations

ROWS = 100
"""Rows of a run's curve at least, evenly over its steps; each looks at the encoder's health."""
HEALTH_IMAGES = 32
"""Images that show, at every row, whether the encoder has collapsed."""
READ_OUTS = 8
"""Times that a run is evaluated on held-out images."""
HELD_OUT = 512
"""Held-out images of a cell; the first by hash rank, so that cells of every size share them."""
GALLERY = 256
"""Least pretraining images that read-outs learn from; a hundredth of the samples seen in longer runs."""
GALLERY_MOST = 4096
