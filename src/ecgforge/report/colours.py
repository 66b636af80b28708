"""Colours and markers of the report's plots."""

# Okabe and Ito's colours, distinct for all kinds of colour vision; markers distinguish them in
# grey.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
