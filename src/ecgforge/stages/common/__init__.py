"""What the stages share: tracked runs, the code that they depend on, classifier runs."""
