"""What makes a registered version a champion, and what it says of itself: gates, promotion, its
card.
"""
