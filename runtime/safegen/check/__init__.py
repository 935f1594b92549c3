"""What a machine can do and how fast: nothing that drawing needs."""
