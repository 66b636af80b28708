"""Promotion of registered versions: gates, champions, model cards, and serving."""
