"""Access to MLflow: the tracking store, and how runs are opened, resumed and ended."""
