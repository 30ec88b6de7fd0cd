"""`orch data`: images of any kind into packs, and what is in them.

`given` reads what the user names, `packing` packs it, `stats` counts it and writes the page (`page.html`).
"""
