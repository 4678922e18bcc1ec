"""Stage two: store -> masks -> student and predictor -> encoder."""
