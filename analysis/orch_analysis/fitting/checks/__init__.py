"""What a fit is checked for: its form, its parameters, its warnings, and the bounds of its value."""
