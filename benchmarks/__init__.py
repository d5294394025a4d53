"""`make bench`: what is measured, against what; README.md keeps the tables."""
