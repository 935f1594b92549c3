"""What is written and read: the sealed engine folder, the bundle, a request and its result."""
