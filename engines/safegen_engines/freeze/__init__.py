"""Images to a negation bundle: both banks, the gate's curves, and its rate."""
