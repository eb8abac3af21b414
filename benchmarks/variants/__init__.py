"""Variants: applications under Gunicorn that differ from the next, or the service, in one thing.

`ladder`, `changes` and `workers` hold what Gunicorn loads; `catalog` says what there is to compare.
"""
