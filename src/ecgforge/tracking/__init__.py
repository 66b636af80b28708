"""MLflow, and all that is known of it: where runs are kept, how a run is opened, resumed and ended,
what it registers.
"""
