"""DVC: the content of dvc.lock, and the only file that uses DVC's private names."""
