"""What a reader sees:

ECGs on ECG paper, figures, and the one-file page that answers the study's question.
"""
