"""What a fit leaves on disk: laws.json and the provenance card."""
