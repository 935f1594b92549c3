"""The guards: their settings, both banks, the arithmetic, and where the gate opens."""
