"""Records: one signal-shape contract for real, simulated and generated ECG."""
