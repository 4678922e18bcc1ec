"""Stage three: frozen encoders, what their features are worth on labelled tasks, and a report to read."""
