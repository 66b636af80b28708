"""Data sets and models for readers without this project: data cards, Croissant, RO-Crate."""
