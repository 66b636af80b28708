"""DVC: what it keeps in dvc.lock, and the only place that touches its private names."""
