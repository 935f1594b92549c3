"""An open engine: its sessions, its text encoders, a guard bound to a plan, and the pipeline."""
