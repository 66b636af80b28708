"""The study: who is trained and tested on what, and what may be concluded."""
