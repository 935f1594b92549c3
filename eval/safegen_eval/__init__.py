"""What a guard does and what it costs, measured: suites of prompts, judges, quality, tables, a report."""
