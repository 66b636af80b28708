"""The sweeps: comparisons past the five settings.

Each is a module whose `SWEEP` is a `common.base.Sweep`.
"""
