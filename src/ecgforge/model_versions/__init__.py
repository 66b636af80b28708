"""Registered models in MLflow: what a version holds, who signed it, and when it became champion."""
